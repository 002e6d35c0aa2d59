"""Labelled images: reading, scaling and batching."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from attnzoo.data.batching import Batch
from attnzoo.data.corpus import Report, Splits
from attnzoo.data.labelled import PARTS, class_names, class_numbers, split_off_parts
from attnzoo.data.order import RowOrder
from attnzoo.data.planted import planted_images
from attnzoo.data.sources import read_bytes
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff"}
# Prefixes of MNIST's file names by part.
IDX_FILES = {"train": "train", "test": "t10k"}

# Place where it was read, image or encoded bytes, class.
Found = tuple[str, Any, str]


@dataclass(frozen=True)
class ImageSet:
    """Images in order: `images[i]` is of class `names[labels[i]]`."""

    images: UInt8[np.ndarray, "images H W C"]
    labels: Int32[np.ndarray, " images"]
    names: tuple[str, ...]
    name: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every pixel and class."""
        return array_fingerprint(self.images, self.labels, " ".join(self.names))


@final
class ImagePlan:
    """Batches of images; an epoch has every image once (`RowOrder`), without `shuffle` in order."""

    def __init__(
        self, data: ImageSet, batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self._order = RowOrder(len(data), batch_size, seed, shuffle)
        self._fingerprint = data.fingerprint()

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def batch(self, step: int) -> Batch:
        """Return the batch of a step; steps count from 0 through all epochs.

        `images`: uint8 `B H W C`. `labels`: int32 `B`. `rows`: int32 `B`, the image's index, -1 for
        a padding row, which is black and of class 0.
        """
        return self._collate(self._order.step(step))

    def batches(self, epoch: int = 0) -> Iterator[Batch]:
        """Yield all batches of one epoch."""
        for rows in self._order.epoch(epoch):
            yield self._collate(rows)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {"data": self._fingerprint, **self._order.fingerprint()}

    def _collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        images, labels = self.data.images[rows], self.data.labels[rows]
        images[rows < 0] = 0
        labels[rows < 0] = 0
        return {"images": images, "labels": labels, "rows": rows.astype(np.int32)}


def channel_statistics(
    images: UInt8[np.ndarray, "images H W C"],
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per channel, float32 `C`, of values scaled to 0 .. 1."""
    # From counts: the pixels of a data set as float64 would take eight times its memory.
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
    values = np.arange(256) / 255
    shares = np.stack(counts) / counts[0].sum()
    mean = shares @ values
    return (
        mean.astype(np.float32),
        np.sqrt(np.maximum(shares @ values**2 - mean**2, 0)).astype(np.float32),
    )


def load_images(config: Any, cache_dir: Path | None = None) -> Splits[ImageSet]:
    """Load or draw the parts of an `Images` config; a missing part is empty.

    Files that are not images, images of different sizes without a `size` in the config, and a class
    that the training part does not have, are a UserError.
    """
    source = config.source
    if source.kind == "digits":
        found: dict[str, Iterable[Found]] = {"train": _digits()}
    elif source.kind == "idx":
        found = {part: _idx(source.directory, stem) for part, stem in IDX_FILES.items()}
    elif source.kind == "hub":
        found = _hub(source, cache_dir)
    elif source.kind == "planted":
        found = dict(planted_images(source))
    else:
        found = _folder(source.path)
    channels = getattr(source, "channels", 1)
    parts: dict[str, list[tuple[np.ndarray, str]]] = {part: [] for part in PARTS}
    reports = []
    for part, images in found.items():
        for place, image, label in images:
            parts[part].append((_pixels(place, image, config.size, channels), label))
            if parts[part][0][0].shape != parts[part][-1][0].shape:
                raise UserError(
                    f"{place}: {_size(parts[part][-1][0])} pixels, others have "
                    f"{_size(parts[part][0][0])}: set 'size'"
                )
        if not parts[part]:
            raise UserError(f"{source.kind} {part}: there is no image in it")
        reports.append(Report(f"{source.kind} {part}", read=len(parts[part]), unit="images"))
    parts = split_off_parts(parts, config)
    if not parts["train"]:
        raise UserError(f"{source.kind}: there is no training image")
    names = class_names(label for _, label in parts["train"])
    shape = parts["train"][0][0].shape
    return Splits(
        **{
            part: ImageSet(
                images=np.stack([image for image, _ in examples])
                if examples
                else np.empty((0, *shape), np.uint8),
                labels=np.asarray(class_numbers([c for _, c in examples], names, part), np.int32),
                names=names,
                name=part,
            )
            for part, examples in parts.items()
        },
        reports=reports,
    )


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


def _digits() -> Iterator[Found]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            f"data.source=digits needs scikit-learn: pip install scikit-learn ({error})"
        ) from None
    data = load_digits()
    # Values are 0 .. 16.
    images = np.minimum(data.images * 16, 255).astype(np.uint8)
    for i, (image, label) in enumerate(zip(images, data.target, strict=True)):
        yield f"digit {i}", image[:, :, None], str(label)


def _idx(directory: Path, stem: str) -> Iterator[Found]:
    images = read_idx(directory / f"{stem}-images-idx3-ubyte")
    labels = read_idx(directory / f"{stem}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(f"{directory}: {images.shape} images and {labels.shape} labels ({stem})")
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield f"{directory} {stem} {i}", image[:, :, None], str(label)


def _folder(path: Path) -> dict[str, Iterable[Found]]:
    """Return images by part; class directories outside of part directories are training."""
    if path.is_dir():
        files = [(p.relative_to(path), p) for p in sorted(path.rglob("*")) if p.is_file()]
        named: Iterable[tuple[Path, Any]] = files
    elif path.is_file():
        named = _tar(path)
    else:
        raise UserError(f"{path}: no such directory or tar file")
    parts: dict[str, list[Found]] = {}
    for inner, image in named:
        if inner.suffix.lower() not in SUFFIXES:
            continue
        if len(inner.parts) < 2:
            raise UserError(f"{path}: {inner} lies in no class directory")
        part = next((step for step in inner.parts[:-2] if step in PARTS), "train")
        parts.setdefault(part, []).append((f"{path}: {inner}", image, inner.parts[-2]))
    if not parts:
        raise UserError(f"{path}: there is no image in it ({', '.join(sorted(SUFFIXES))})")
    for found in parts.values():
        found.sort(key=lambda entry: entry[0])
    return {part: parts[part] for part in PARTS if part in parts}


def _tar(path: Path) -> Iterator[tuple[Path, bytes]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield Path(member.name), file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a tar file, or damaged: {error}") from None


def _hub(source: Any, cache_dir: Path | None) -> dict[str, Iterable[Found]]:
    from attnzoo.data.hub import check_field, hub_label, hub_splits, label_column, load_table

    found: dict[str, Iterable[Found]] = {}
    for part, split in hub_splits(source).items():
        label = hub_label(source, split)
        table = load_table(source, split, cache_dir, flatten=False)
        check_field(table, label, source.image_field)
        classes = label_column(table, label, source.label_field)
        images = (row[source.image_field] for row in table.select_columns([source.image_field]))
        found[part] = [
            (f"{label} row {i}", image, name)
            for i, (image, name) in enumerate(zip(images, classes, strict=True))
        ]
    return found


def _pixels(place: str, image: Any, size: int | None, channels: int) -> np.ndarray:
    """Return uint8 `H W C` of an array, of a Pillow image, or of a file as path or bytes."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        if size is None or image.shape[:2] == (size, size):
            return image
        image = Image.fromarray(image[:, :, 0])
    try:
        if isinstance(image, bytes):
            image = Image.open(io.BytesIO(image))
        elif isinstance(image, Path):
            image = Image.open(image)
        elif not isinstance(image, Image.Image):
            raise UserError(f"{place}: a {type(image).__name__}, wanted an image")
        image = image.convert("L" if channels == 1 else "RGB")
    except OSError as error:
        raise UserError(f"{place}: not an image: {error}") from None
    if size is not None and image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image)
    return pixels[:, :, None] if channels == 1 else pixels


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
