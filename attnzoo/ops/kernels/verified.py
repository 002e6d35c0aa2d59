"""Record, in the user's cache, of the Pallas kernels found correct on a kind of device.

``ops.check_kernels`` checks the kernels on a device; ``implementation=None`` chooses none of them
before that.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from attnzoo.errors import UserError
from attnzoo.files import read_json
from attnzoo.ops.kernels.tiles import cache_group, cache_path, device_kind, write_cache

Seen = dict[str, dict[str, list[str]]]
"""Dtypes of each implementation, by device kind and version of jax."""


def is_checked(implementation: str, dtype: str) -> bool:
    """Return True if a kernel was correct on this kind of device, with this version of jax."""
    path = seen_path()
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return False
    return dtype in _load(path, changed).get(cache_group(device_kind()), {}).get(implementation, [])


def remember(found: Mapping[str, Sequence[str]]) -> None:
    """Store the dtypes with which each kernel in ``found`` was correct, replacing older ones."""
    path = seen_path()
    seen = dict(_load(path, path.stat().st_mtime_ns if path.exists() else 0))
    here, checked = cache_group(device_kind()), {name: list(x) for name, x in found.items()}
    seen[here] = seen.get(here, {}) | checked
    write_cache(path, seen)


def seen_path() -> Path:
    """Return the path of the record, XDG_CACHE_HOME/attnzoo/kernels.json."""
    return cache_path().with_name("kernels.json")


@functools.lru_cache(maxsize=8)
def _load(path: Path, changed: int) -> Seen:
    if not path.exists():
        return {}
    try:
        seen = read_json(path)
        if not all(
            isinstance(dtypes, list) for kernels in seen.values() for dtypes in kernels.values()
        ):
            raise ValueError("wanted lists of dtypes")
    except (UserError, ValueError, AttributeError) as error:
        warnings.warn(
            f"{path} says of no kernel that it was seen and is ignored ({error}); "
            "ops.check_kernels writes a new one",
            stacklevel=2,
        )
        return {}
    return seen
