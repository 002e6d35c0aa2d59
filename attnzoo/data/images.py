"""Labelled images: reading, scaling and batching."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from attnzoo.config.cache import CacheConfig
from attnzoo.data.batching import Batch, RowPlan
from attnzoo.data.corpus import PARTS, Report, Splits
from attnzoo.data.labelled import class_names, class_numbers, split_off_parts
from attnzoo.data.locations import Stream, identity
from attnzoo.data.order import RowOrder
from attnzoo.data.picture_files import (
    Record,
    copied,
    in_folder,
    in_parquet,
    in_tar,
    indexed,
    listed,
)
from attnzoo.data.pictures import EncodedImages, Pictures, check_shape, decode, fitted
from attnzoo.data.planted import planted_images
from attnzoo.data.random_numbers import permutation
from attnzoo.data.sources import read_bytes
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError

# Prefixes of MNIST's file names by part.
IDX_FILES = {"train": "train", "test": "t10k"}
# Sets of at most this many bytes of pixels are decoded once and kept in memory.
PIXELS_HELD = 2**28
# Statistics of larger sets are of all images up to this number, of a random sample above: the error
# of a mean over 2,000 photographs is 0.003, a hundredth of their deviation.
SAMPLED_ABOVE = 20_000
SAMPLE = 2000
# Statistics read this many values at a time.
BLOCK = 2**25


@dataclass(frozen=True)
class ImageSet:
    """Images in order: `images[i]` is of class `names[labels[i]]`.

    `images` is an array, or reads and decodes the rows that it is asked for.
    """

    images: UInt8[np.ndarray, "images H W C"] | EncodedImages
    labels: Int32[np.ndarray, " images"]
    names: tuple[str, ...]
    name: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every class and pixel, or name and size of encoded images."""
        of_files = isinstance(self.images, EncodedImages)
        images = self.images.fingerprint() if of_files else self.images
        return array_fingerprint(images, self.labels, " ".join(self.names))


@final
class ImagePlan(RowPlan):
    """Batches of images; an epoch has every image once (`RowOrder`), without `shuffle` in order."""

    def __init__(
        self, data: ImageSet, batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self._order = RowOrder(len(data), batch_size, seed, shuffle)
        self._fingerprint = data.fingerprint()

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Return the batch of a step, or some of its rows; steps count from 0 through all epochs.

        `images`: uint8 `B H W C`. `labels`: int32 `B`. `rows`: int32 `B`, the image's index, -1 for
        a padding row, which is black and of class 0.
        """
        return self.collate(self._order.step(step)[slice(None) if rows is None else rows])

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        images, labels = self.data.images[rows], self.data.labels[rows]
        images[rows < 0] = 0
        labels[rows < 0] = 0
        return {"images": images, "labels": labels, "rows": rows.astype(np.int32)}


def channel_statistics(
    images: UInt8[np.ndarray, "images H W C"] | EncodedImages,
) -> tuple[Float32[np.ndarray, " C"], Float32[np.ndarray, " C"]]:
    """Return mean and standard deviation per channel of values scaled to 0 .. 1.

    Exact for up to 20,000 images or 256 MiB of pixels; else of 2,000 random images, always the
    same ones.
    """
    # Pillow counts four times as fast as np.bincount.
    from PIL import Image

    total, *shape = images.shape
    rows = np.arange(total)
    if total > SAMPLED_ABOVE and np.prod(images.shape) > PIXELS_HELD:
        rows = np.sort(permutation(total, 0, stream=8)[:SAMPLE])
    # From counts: the pixels of a data set as float64 would take eight times its memory.
    counts = np.zeros((shape[-1], 256), np.int64)
    size = max(BLOCK // int(np.prod(shape)), 1)
    for start in range(0, len(rows), size):
        block = images[rows[start : start + size]].reshape(-1, *shape[1:])
        planes = [np.ascontiguousarray(block[..., c]) for c in range(shape[-1])]
        counts += [Image.fromarray(plane).histogram() for plane in planes]
    values = np.arange(256) / 255
    shares = counts / counts[0].sum()
    mean = shares @ values
    return (
        mean.astype(np.float32),
        np.sqrt(np.maximum(shares @ values**2 - mean**2, 0)).astype(np.float32),
    )


class Caches(NamedTuple):
    """Directories of this package's cache and of the cache of `datasets`, and the known classes."""

    own: Path
    datasets: Path | None
    names: tuple[str, ...]


# Function that returns the images of some rows, class of every row, rows of the parts.
Found = tuple[
    Callable[[Int64[np.ndarray, " rows"]], np.ndarray | EncodedImages],
    Sequence[str],
    dict[str, list[int]],
]


def load_images(
    config: Any,
    cache: Path | None = None,
    datasets_cache: Path | None = None,
    names: tuple[str, ...] = (),
    part: str | None = None,
) -> Splits[ImageSet]:
    """Load, list or draw the parts of an `Images` config; a missing part is empty.

    Parts of at most 256 MiB of pixels are decoded and kept in memory. Of larger ones the encoded
    images stay in their files, or in a copy in ``cache`` where a file has no random access
    (parquet, compressed tar), and are decoded when they are asked for. ``datasets_cache`` is the
    cache of the `datasets` library. ``names`` are the classes in the order of their numbers, by
    default those of the training part. With ``part`` the others are empty.

    Files that are not images, images of different sizes without a `size` in the config, and a class
    that is none of these, are a UserError.
    """
    source = config.source
    take, labels, parts = _SOURCES[source.kind](
        config, Caches(cache or CacheConfig().path, datasets_cache, names)
    )
    for name, rows in parts.items():
        if not len(rows):
            raise UserError(f"{source.kind} {name}: there is no image in it")
    reports = [
        Report(f"{source.kind} {name}", read=len(rows), unit="images")
        for name, rows in parts.items()
    ]
    drawn = split_off_parts({name: parts.get(name, []) for name in PARTS}, config)
    if not drawn["train"] and not names:
        raise UserError(f"{source.kind}: there is no training image")
    names = names or class_names(labels[row] for row in drawn["train"])
    drawn = {name: rows if part in (None, name) else [] for name, rows in drawn.items()}
    sets = {}
    for name, rows in drawn.items():
        numbers = np.asarray(class_numbers([labels[row] for row in rows], names, name), np.int32)
        sets[name] = ImageSet(take(np.asarray(rows, np.int64)), numbers, names, name)
    return Splits(**sets, reports=reports)


def read_idx(path: Path) -> UInt8[np.ndarray, "*shape"]:
    """Read an array of bytes in the format of MNIST's files, gzipped or not."""
    file = path if path.is_file() else path.with_name(f"{path.name}.gz")
    data = read_bytes(file)
    # Two zero bytes, 8 for unsigned bytes, the number of axes, their sizes as big-endian int32.
    axes = data[3] if data[:3] == b"\0\0\x08" else 0
    shape = tuple(np.frombuffer(data, ">i4", axes, 4).tolist()) if axes else ()
    if not axes or len(data) != 4 + 4 * axes + int(np.prod(shape)):
        raise UserError(f"{file}: not an idx file of bytes, or cut short")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _digits(config: Any, caches: Caches) -> Found:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            f"data.source=digits needs scikit-learn: pip install scikit-learn ({error})"
        ) from None
    data = load_digits()
    # Values are 0 .. 16.
    images = np.minimum(data.images * 16, 255).astype(np.uint8)[..., None]
    return _in_memory({"train": (images, list(map(str, data.target)))}, config.size)


def _idx(config: Any, caches: Caches) -> Found:
    directory, parts = config.source.directory, {}
    for part, stem in IDX_FILES.items():
        if caches.names and not list(directory.glob(f"{stem}-*")):
            continue  # to score the other part
        images = read_idx(directory / f"{stem}-images-idx3-ubyte")
        labels = read_idx(directory / f"{stem}-labels-idx1-ubyte")
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UserError(
                f"{directory}: {images.shape} images and {labels.shape} labels ({stem})"
            )
        parts[part] = images[..., None], list(map(str, labels))
    return _in_memory(parts, config.size)


def _planted(config: Any, caches: Caches) -> Found:
    parts = {}
    for part, drawn in planted_images(config.source).items():
        _, images, labels = zip(*drawn, strict=True)
        parts[part] = np.stack(images), list(labels)
    return _in_memory(parts, config.size)


def _in_memory(parts: dict[str, tuple[np.ndarray, list[str]]], size: int | None) -> Found:
    """Return the images of arrays, uint8 `H W 1`, by part."""
    if size is not None:
        parts = {part: (_scaled(images, size), labels) for part, (images, labels) in parts.items()}
    first, rows, start = next(iter(parts.values()))[0], {}, 0
    for part, (images, labels) in parts.items():
        check_shape(part, images.shape[1:], first.shape[1:])
        rows[part] = list(range(start, start := start + len(labels)))
    pixels = np.concatenate([images for images, _ in parts.values()])
    return pixels.__getitem__, [label for _, labels in parts.values() for label in labels], rows


def _scaled(
    images: UInt8[np.ndarray, "images H W 1"], size: int
) -> UInt8[np.ndarray, "images size size 1"]:
    from PIL import Image

    scaled = [np.asarray(fitted(Image.fromarray(image[..., 0]), size)) for image in images]
    return np.asarray(scaled, np.uint8).reshape(-1, size, size, 1)


def _folder(config: Any, caches: Caches) -> Found:
    path = config.source.path
    if path.is_dir():
        return _encoded(listed(str(path), [], in_folder(path)), config)
    files = [(None, file) for file in files_of_pattern(path, "directory or tar file")]
    return _archives(str(path), files, config, caches)


def _shards(config: Any, caches: Caches) -> Found:
    files: list[tuple[str | None, Path]] = [
        (part, file)
        for part in PARTS
        for path in getattr(config.source, part)
        for file in files_of_pattern(path, "file")
    ]
    return _archives("shards", files, config, caches)


def _archives(
    root: str, files: list[tuple[str | None, Path]], config: Any, caches: Caches
) -> Found:
    """Return the images of tar and parquet files, each with the part of its images if known."""
    paths, source = [path for _, path in files], config.source

    def records(copies: Stream) -> Iterator[Record]:
        for number, (part, path) in enumerate(files):
            if part is not None and path.suffix == ".parquet":
                fields = source.image_field, source.label_field
                yield from in_parquet(path, fields, copies, len(files), part)
            else:
                prefix = f"{path.name}: " if len(files) > 1 else ""
                yield from in_tar(path, number, copies, len(files), part, prefix)

    key = {
        "files": [identity(path) for path in paths],
        "parts": [part for part, _ in files],
        "fields": [getattr(source, name, None) for name in ("image_field", "label_field")],
    }
    size = sum(path.stat().st_size for path in paths)
    return _encoded(indexed(root, paths, key, size, records, caches.own), config)


def files_of_pattern(path: Path, wanted: str) -> list[Path]:
    """Return the file of a path, or those of a pattern, by name."""
    if path.is_file():
        return [path]
    found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise UserError(f"{path}: no such {wanted}")
    return files


def _hub(config: Any, caches: Caches) -> Found:
    from attnzoo.data.hub import check_field, hub_label, hub_splits, label_column, load_table

    source, columns = config.source, {}
    for part, split in hub_splits(source).items():
        label = hub_label(source, split)
        table = load_table(source, split, caches.datasets, flatten=False)
        check_field(table, label, source.image_field)
        classes = label_column(table, label, source.label_field)
        column = table.select_columns([source.image_field]).with_format("arrow")
        columns[part] = split, column, classes

    def records(copies: Stream) -> Iterator[Record]:
        for part, (split, column, classes) in columns.items():
            values = (value for rows in column.iter(128) for value in rows.column(0).to_pylist())
            for row, (value, label) in enumerate(zip(values, classes, strict=True)):
                name = f"{split} row {row}"
                yield part, name, label, 0, *copied(value, f"{source.name} {name}", copies)

    key = {
        part: [split, column._fingerprint, source.image_field, source.label_field]
        for part, (split, column, _) in columns.items()
    }
    size = sum(column.data.nbytes for _, column, _ in columns.values())
    pictures = indexed(source.name, [], key, size, records, caches.own)
    return _encoded(pictures, config, asked=columns)


def _encoded(pictures: Pictures, config: Any, asked: Iterable[str] = ()) -> Found:
    """Return the images of encoded pictures; parts that were asked for may be empty."""
    source = config.source
    resize = getattr(source, "resize", None)
    settings = {"size": config.size, "resize": resize, "channels": source.channels}
    if config.size is None:
        shape = decode(pictures.read(0), pictures.place(0), **settings).shape
    else:
        shape = (config.size, config.size, source.channels)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for row, part in enumerate(pictures.parts):
        parts[part].append(row)

    def take(rows: Int64[np.ndarray, " rows"]) -> np.ndarray | EncodedImages:
        images = EncodedImages(pictures, rows, shape, settings)
        return images[:] if np.prod(images.shape) <= PIXELS_HELD else images

    found = {part: rows for part, rows in parts.items() if rows or part in asked}
    return take, pictures.labels, found


_SOURCES: dict[str, Callable[[Any, Caches], Found]] = {
    "digits": _digits,
    "idx": _idx,
    "folder": _folder,
    "shards": _shards,
    "hub": _hub,
    "planted": _planted,
}
