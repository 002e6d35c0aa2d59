"""Tile sizes: a table shipped here, and one that ``ops.autotune`` keeps in the user's cache.

An implementation calls :func:`tiles_for` while it is traced. Measuring is optional: if there is no
entry for a device, a dtype or a size, the nearest entry is used.
"""

import contextlib
import functools
import json
import math
import os
import tempfile
import warnings
from collections.abc import Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.errors import UserError
from attnzoo.files import cache_directory, read_json

ANY = "any"
"""Device kind of the entries for devices that have not been measured."""
SEVERAL_CORES = "cpu, several cores"
"""Device kind of a CPU on which XLA may use more than one core."""


class Tiles(NamedTuple):
    """The size of a tile."""

    queries: int
    keys: int


class Entry(NamedTuple):
    """Key of a row of the table; lengths and head sizes are powers of two, see `entry_for`."""

    implementation: str
    """An implementation with other tiles in its backward pass has a second name for these."""
    device_kind: str
    dtype: str
    head_dim: int
    length: int


SHIPPED: dict[Entry, Tiles] = {
    Entry("blockwise", ANY, "float32", 64, 2048): Tiles(128, 128),
    # XLA:CPU visits one tile at a time and divides a large tile's work among the cores.
    Entry("blockwise", SEVERAL_CORES, "float32", 64, 2048): Tiles(512, 256),
}

CANDIDATES: dict[str, tuple[Tiles, ...]] = {
    "blockwise": tuple(
        Tiles(queries, keys)
        for queries, keys in (
            (64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (256, 256),
            (128, 512), (512, 256), (1024, 512),
        )
    ),
}  # fmt: skip
"""Tiles that ``ops.autotune`` tries for each implementation."""

_trying: ContextVar[dict[str, Tiles]] = ContextVar("trying", default={})  # noqa: B039 (not mutated)


def tiles_for(
    implementation: str, device_kind: str, dtype: Any, head_dim: int, T: int, S: int
) -> Tiles:
    """Return the tiles of an attention: those measured on this device, else the nearest entry.

    Entries are compared by device kind first, then dtype, head size and length. Raises ValueError
    for an implementation without any entry.
    """
    trying = _trying.get().get(implementation)
    if trying is not None:
        return trying
    wanted = entry_for(implementation, device_kind, dtype, head_dim, T, S)
    table = SHIPPED | _cached(device_kind)
    entries = [
        entry
        for entry in table
        if entry.implementation == implementation and entry.device_kind in (device_kind, ANY)
    ]
    if not entries:
        raise ValueError(f"implementation={implementation!r} has no tiles in {__name__}.SHIPPED")

    def distance(entry: Entry) -> tuple[bool, bool, float, float]:
        return (
            entry.device_kind != device_kind,
            entry.dtype != wanted.dtype,
            abs(math.log2(entry.head_dim / wanted.head_dim)),
            abs(math.log2(entry.length / wanted.length)),
        )

    return table[min(entries, key=distance)]


def entry_for(
    implementation: str, device_kind: str, dtype: Any, head_dim: int, T: int, S: int
) -> Entry:
    """Return the table key of an attention, with sizes rounded up to powers of two.

    Head sizes are limited to 64 ... 256, lengths to 256 ... 131,072.
    """

    def class_of(size: int, least: int, most: int) -> int:
        return min(max(1 << (size - 1).bit_length(), least), most)

    return Entry(
        implementation,
        device_kind,
        jnp.dtype(dtype).name,
        class_of(head_dim, 64, 256),
        class_of(max(T, S), 256, 131_072),
    )


def device_kind() -> str:
    """Return the kind of jax's default device: "cpu" (one core), ``SEVERAL_CORES``, or a GPU's."""
    kind = jax.devices()[0].device_kind
    return SEVERAL_CORES if kind == "cpu" and cores() > 1 else kind


def cores() -> int:
    """Return the number of cores that XLA may use, counted as XLA does when it starts."""
    named = os.environ.get("NPROC", "")
    if named.isdecimal():
        return int(named)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def override_tiles(implementation: str, tiles: Tiles) -> Generator[None, None, None]:
    """Use these tiles for attention traced inside the context, whatever the tables say."""
    token = _trying.set(_trying.get() | {implementation: tiles})
    try:
        yield
    finally:
        _trying.reset(token)


def remember(entry: Entry, tiles: Tiles) -> None:
    """Write a measured entry to the user's cache, in place of an older one."""
    path = cache_path()
    groups = _load(path)
    group = groups.setdefault(cache_group(entry.device_kind), {})
    row = f"{entry.implementation} | {entry.dtype} | {entry.head_dim} | {entry.length}"
    group[row] = list(tiles)
    write_cache(path, groups)


def cache_path() -> Path:
    """Return the path of the measured tiles, XDG_CACHE_HOME/attnzoo/tiles.json."""
    return cache_directory() / "tiles.json"


def write_cache(path: Path, content: Any) -> None:
    """Replace a file of the cache atomically, because another process may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(content, file, indent=1)
    Path(file.name).replace(path)


def cache_group(device_kind: str) -> str:
    # Another jax compiles other code, for which other tiles may be the best.
    return f"{device_kind}, jax {jax.__version__}"


def _cached(device_kind: str) -> dict[Entry, Tiles]:
    path = cache_path()
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return {}
    return _entries(path, changed, device_kind)


@functools.lru_cache(maxsize=8)
def _entries(path: Path, changed: int, device_kind: str) -> dict[Entry, Tiles]:
    entries = {}
    for row, tiles in _load(path).get(cache_group(device_kind), {}).items():
        implementation, dtype, head_dim, length = row.split(" | ")
        entry = Entry(implementation, device_kind, dtype, int(head_dim), int(length))
        entries[entry] = Tiles(*tiles[:2])
    return entries


def _load(path: Path) -> dict[str, dict[str, list[int]]]:
    """Read the cached groups of tiles; warn and return nothing if the file cannot be read."""
    if not path.exists():
        return {}
    try:
        groups = read_json(path)
        for group in groups.values():
            for row, tiles in group.items():
                _, _, head_dim, length = row.split(" | ")
                sizes = (int(head_dim), int(length), *tiles)
                # Older caches also tell warps and stages, which no kernel asks for any more.
                if len(tiles) < 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
                    raise ValueError(f"{row!r} has {tiles}")
    except (UserError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(
            f"{path} is no table of tiles and is ignored ({error}); ops.autotune writes a new one",
            stacklevel=2,
        )
        return {}
    return groups
