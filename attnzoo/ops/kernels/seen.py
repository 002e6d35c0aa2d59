"""Which Pallas kernels have been seen to be right on a kind of device: a note in the user's cache.

They are verified without one, as far as that goes; ``ops.check_kernels`` does the rest where there
is one, and ``implementation=None`` chooses none before.
"""

import functools
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from attnzoo.ops.kernels.tiles import cache_path, device_kind, group_of, write_note

Seen = dict[str, dict[str, list[str]]]
"""By device kind and version of jax: the dtypes of each implementation."""


def has_been_seen(implementation: str, dtype: str) -> bool:
    """Whether it was right on this kind of device, compiled by this version of jax."""
    path = seen_path()
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return False
    return dtype in _load(path, changed).get(group_of(device_kind()), {}).get(implementation, [])


def remember(found: Mapping[str, Sequence[str]]) -> None:
    """Of each implementation in ``found``, the dtypes with which it was right here, no other."""
    path = seen_path()
    seen = dict(_load(path, path.stat().st_mtime_ns if path.exists() else 0))
    here, checked = group_of(device_kind()), {name: list(x) for name, x in found.items()}
    seen[here] = seen.get(here, {}) | checked
    write_note(path, seen)


def seen_path() -> Path:
    """XDG_CACHE_HOME/attnzoo/kernels.json."""
    return cache_path().with_name("kernels.json")


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
