"""Which Pallas kernels have been seen to be right on a kind of device: a note in the user's cache.

They are verified without one, as far as that goes; ``ops.check_kernels`` does the rest where there
is one, and ``implementation=None`` chooses none before.
"""

import functools
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from attnzoo.ops.kernels.tiles import cache_path, device_kind

Seen = dict[str, dict[str, list[str]]]
"""By device kind and version of jax: the dtypes of each implementation."""


def has_been_seen(implementation: str, dtype: str) -> bool:
    """Whether it was right on this kind of device, compiled by this version of jax."""
    path = seen_path()
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return False
    return dtype in _load(path, changed).get(_here(), {}).get(implementation, [])


def remember(found: Mapping[str, Sequence[str]]) -> None:
    """What was right here, and with it that the rest was not."""
    path = seen_path()
    seen = {**_load(path, 0 if not path.exists() else path.stat().st_mtime_ns)}
    seen[_here()] = {name: list(dtypes) for name, dtypes in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(seen, file, indent=1)
    Path(file.name).replace(path)


def seen_path() -> Path:
    """XDG_CACHE_HOME/attnzoo/kernels.json."""
    return cache_path().with_name("kernels.json")


def _here() -> str:
    return f"{device_kind()}, jax {jax.__version__}"


@functools.lru_cache(maxsize=8)
def _load(path: Path, changed: int) -> Seen:
    try:
        seen = json.loads(path.read_text())
        if not all(
            isinstance(dtypes, list) for kernels in seen.values() for dtypes in kernels.values()
        ):
            raise ValueError("wanted lists of dtypes")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        warnings.warn(
            f"{path} says of no kernel that it was seen and is ignored ({error}); "
            "ops.check_kernels writes a new one",
            stacklevel=2,
        )
        return {}
    return seen
