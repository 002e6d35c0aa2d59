"""Files and lists that two parts of a data set share, so that one is not held out."""

import dataclasses
from pathlib import Path
from typing import Any

from attnzoo.data.locations import expand
from attnzoo.errors import UserError

PARTS = ("train", "validation", "test")


def repeated_parts(config: Any) -> list[str]:
    """Return a line for each part that reads again what an earlier part has read.

    Compared are the files of a data config, with patterns and folders as the files in them, the
    names of its lists (Pascal VOC), and the splits of a data set of the hub. Of parallel text, a
    part is repeated if both of its sides are.
    """
    config = getattr(config, "source", config)  # of pictures and boxes
    read = {part: _read(config, part) for part in PARTS}
    lines = []
    for n, later in enumerate(PARTS):
        for earlier in PARTS[:n]:
            both = read[later] & read[earlier]
            whole = dataclasses.is_dataclass(getattr(config, later, None))
            if both and (not whole or both == read[later]):
                lines.append(
                    f"WARNING: data.{later} reads {sorted(both)[0]}, which data.{earlier} reads "
                    "too: its scores are not of held-out data"
                )
    return lines


def _read(config: Any, part: str) -> set[str]:
    value, hub = getattr(config, part, None), getattr(config, "hub", None) or config
    if isinstance(value, str):
        return {f"the list {value!r}"}
    if dataclasses.is_dataclass(value):
        value = tuple(v for v in vars(value).values() if isinstance(v, Path))
    elif isinstance(value, Path):
        value = (value,)
    if isinstance(value, tuple) and value:
        return {file for path in value for file in _files(path)}
    split = getattr(hub, f"{part}_split", None)
    return {f"the split {split!r}"} if split else set()


def _files(path: Path) -> list[str]:
    try:
        found = expand([path])
    except UserError:  # a folder of other files than texts
        found = [str(path)]
    return [name if "://" in name else str(Path(name).expanduser().resolve()) for name in found]
