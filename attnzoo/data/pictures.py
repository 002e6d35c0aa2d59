"""Encoded pictures: their bytes, decoding, and arrays that are decoded when they are asked for."""

from __future__ import annotations

import functools
import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64, UInt8

from attnzoo.data.build import cores
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError

# Pillow's own limit against decompression bombs.
MAX_PIXELS = 89_478_485
# File number of a picture that is a file of its own under the root.
OWN_FILE = -1
# File names may be no valid UTF-8.
ESCAPE = "surrogateescape"


@dataclass
class Pictures:
    """Encoded pictures of all parts in order, each with its part, class and place.

    ``where`` holds file number, offset and size in bytes. The number after the last one of
    ``files`` is ``held``: bytes that were unpacked in memory.
    """

    root: str
    files: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    where: Int64[np.ndarray, "pictures 3"] = field(
        default_factory=lambda: np.zeros((0, 3), np.int64)
    )
    held: bytes = b""

    def __len__(self) -> int:
        return len(self.names)

    def place(self, row: int) -> str:
        """Return the place of a picture for messages."""
        return f"{self.root}: {self.names[row]}"

    def read(self, row: int) -> bytes:
        """Return the encoded bytes of a picture; safe to call from many threads.

        Raises:
            UserError: the file is gone, or was changed since it was listed.
        """
        number, offset, size = self.where[row].tolist()
        if number == len(self.files):
            return self.held[offset : offset + size]
        name = self.names[row]
        path = Path(self.root, name) if number == OWN_FILE else self.files[number]
        try:
            file = os.open(path, os.O_RDONLY)
            try:
                if hasattr(os, "posix_fadvise"):  # five times as many cold reads a second
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
                # One byte more than listed shows a file that has grown.
                data = os.pread(file, size + (number == OWN_FILE), offset)
            finally:
                os.close(file)
        except OSError as error:
            raise UserError(f"{self.place(row)}: cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise UserError(
                f"{self.place(row)}: its size changed since the pictures were listed; start again"
            )
        return data


@final
class EncodedImages:
    """Images that are decoded when they are asked for: ``images[rows]`` are their pixels.

    ``rows`` are those of ``pictures``. Threads decode; their number has no effect on the pixels.
    """

    def __init__(
        self,
        pictures: Pictures,
        rows: Int64[np.ndarray, " images"],
        shape: tuple[int, int, int],
        settings: dict[str, Any],
        threads: int | None = None,
    ) -> None:
        self.pictures = pictures
        self.rows = rows
        self.shape = (len(rows), *shape)
        self.threads = threads or cores() + 4  # some wait for the disk
        self._settings = settings

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> UInt8[np.ndarray, "*rows H W C"]:
        """Return the pixels of one row, a slice, or an array of rows."""
        chosen = self.rows[rows]
        if not chosen.ndim:
            return self._decode(int(chosen))
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)

        def fill(places: Int64[np.ndarray, " places"]) -> None:
            for place in places:
                pixels[place] = self._decode(int(chosen[place]))

        threads = min(self.threads, len(chosen))
        if threads < 2:
            fill(np.arange(len(chosen)))
            return pixels
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(fill, np.array_split(np.arange(len(chosen)), 4 * threads)):
                pass  # raises the first error
        return pixels

    def fingerprint(self) -> str:
        """Return the xxh3_128 of the names and sizes of the files, without reading them."""
        names = "\0".join(self.pictures.names[row] for row in self.rows)
        escaped = np.frombuffer(names.encode("utf-8", ESCAPE), np.uint8)
        return array_fingerprint(
            escaped, self.pictures.where[self.rows, 2], f"{self.shape} {self._settings}"
        )

    def _decode(self, row: int) -> UInt8[np.ndarray, "H W C"]:
        place = self.pictures.place(row)
        pixels = decode(self.pictures.read(row), place, **self._settings)
        check_shape(place, pixels.shape, self.shape[1:])
        return pixels


def decode(
    data: bytes, place: str, *, size: int | None, resize: int | None, channels: int
) -> UInt8[np.ndarray, "H W C"]:
    """Return the pixels of an encoded picture.

    The shorter side is scaled to ``resize`` (None: ``size``), then the centre is cropped to
    ``size``; None leaves the picture as it is.
    """
    image = fitted(open_picture(data, place, channels), size, resize)
    pixels = np.asarray(image)
    return pixels[:, :, None] if channels == 1 else pixels


def open_picture(data: bytes, place: str, channels: int) -> Any:
    """Decode a picture of any mode and depth as a Pillow image, "L" or "RGB".

    It is turned as its EXIF orientation says, transparent pixels are shown on white, 16 bits are
    cut to the upper 8, and of an animation the first frame is taken.

    Raises:
        UserError: a damaged file, one that is no image, floating point pixels, or too many pixels.
    """
    Image, ImageOps, UnidentifiedImageError = _pillow()
    try:
        image: Any = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"{place}: {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read"
            )
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F":
            raise UserError(f"{place}: floating point pixels; wanted 8 or 16 bits")
        if image.mode.startswith("I"):
            wide = np.asarray(image).astype(np.int64)
            image = Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        wanted = "L" if channels == 1 else "RGB"
        return image if image.mode == wanted else image.convert(wanted)
    except UserError:
        raise
    # Pillow's readers of damaged files raise what their parsers do: SyntaxError, struct.error, ...
    except Exception as error:
        reason = str(error).splitlines() or [type(error).__name__]
        if isinstance(error, UnidentifiedImageError):  # it names the buffer
            reason = ["no known format"]
        raise UserError(f"{place}: not an image, or damaged: {reason[0]}") from None


@functools.cache
def _pillow() -> Any:
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    # `open_picture` says in one line what this warning says in two.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image, ImageOps, UnidentifiedImageError


def fitted(image: Any, size: int | None, resize: int | None = None) -> Any:
    """Scale a Pillow image's shorter side and crop the centre to a square of ``size``."""
    from PIL import Image

    if size is None or (image.size == (size, size) and resize in (None, size)):
        return image
    shorter = resize or size
    scale = shorter / min(image.size)
    if scale != 1:
        width, height = (max(shorter, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def check_shape(place: str, shape: tuple[int, ...], others: tuple[int, ...]) -> None:
    if shape != others:
        raise UserError(
            f"{place}: {shape[1]} x {shape[0]} pixels, others have {others[1]} x {others[0]}: "
            "set 'size'"
        )
