"""Preparation of pictures as transformers' preprocessor_config.json describes it."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from attnzoo.errors import UserError
from attnzoo.files import read_json

logger = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""File in which transformers 5 keeps the settings of FILE beside those of a tokenizer."""


def read_preparation(folder: Path, part: str) -> tuple[str, dict[str, Any] | None]:
    """Return the place, for messages, and the settings of a folder's pictures or sounds.

    As in transformers, those of processor_config.json go before those of preprocessor_config.json.

    Args:
      part: object of processor_config.json that has them, "image_processor" or
        "feature_extractor".

    Returns:
      The place, and the settings, None where neither file has them.

    Raises:
      UserError: a file is damaged, or the part is no object.
    """
    path = folder / PROCESSOR
    found = read_json(path).get(part) if path.exists() else None
    if found is not None:
        if not isinstance(found, dict):
            raise UserError(f"{path}: {part}={found!r}; wanted an object")
        return f"{path}: {part}", found
    path = folder / FILE
    return str(path), read_json(path) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class PicturePreparation:
    """Steps from a picture of any size to the pixels that a model reads.

    Attributes:
      size: height and width to resize to, or the shorter side alone; None: no resizing.
      crop: height and width of the centre that is cut out; None: all of it.
      resample: filter by Pillow's number.
      mean, deviation: per channel, of pixels 0 .. 1.
    """

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    resample: int
    mean: Float[np.ndarray, " C"]
    deviation: Float[np.ndarray, " C"]

    @classmethod
    def read(cls, folder: Path, side: int, channels: int) -> PicturePreparation:
        """Read a folder's file; mean and deviation are 1/2 if it does not have them.

        ``side`` is the size of the model's images. Without a size pictures are resized to it, as a
        warning says.

        Raises:
          UserError: a value that is not known, or a size other than the model's.
        """
        path, values = read_preparation(folder, "image_processor")
        values = values or {}
        known = values.get("do_resize", True), values.get("do_center_crop", False)
        size = _size(values.get("size", side), path, "size") if known[0] else None
        if size is not None and "size" not in values and not known[1]:
            size = (side, side)
            logger.warning("%s: no size; pictures are resized to %d x %d", path, side, side)
        crop = None
        if known[1]:
            crop = _size(values.get("crop_size", side), path, "crop_size")
            crop = (crop, crop) if isinstance(crop, int) else crop
        elif isinstance(size, int) and isinstance(values.get("size"), int):
            size = (size, size)  # of older files, where nothing is cut off
        last = crop or size
        if last is not None and last not in (side, (side, side)):
            raise UserError(f"{path}: pictures of {last} pixels; the model's have {side}")
        shift, scale = np.zeros(channels), np.ones(channels)
        if values.get("do_normalize", True):
            named = ("image_mean", "image_std")
            shift, scale = (_channels(values, name, channels, path) for name in named)
        factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
        if not isinstance(factor, int | float) or not 0 < factor < 1e6:
            raise UserError(f"{path}: rescale_factor={factor!r}; wanted a number above 0")
        # Pixels here are divided by 255 before mean and deviation.
        unit = 255.0 * factor
        resample = values.get("resample", 2)
        if not isinstance(resample, int) or not 0 <= resample <= 5:
            raise UserError(f"{path}: resample={resample!r}; wanted a filter of Pillow, 0 to 5")
        return cls(
            size,
            crop,
            resample,
            (shift / unit).astype(np.float32),
            (scale / unit).astype(np.float32),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the values of a preprocessor_config.json that say the same."""
        written: dict[str, Any] = {"do_resize": self.size is not None, "resample": self.resample}
        if isinstance(self.size, int):
            written["size"] = {"shortest_edge": self.size}
        elif self.size is not None:
            written["size"] = dict(zip(("height", "width"), self.size))
        written["do_center_crop"] = self.crop is not None
        if self.crop is not None:
            written["crop_size"] = dict(zip(("height", "width"), self.crop))
        written |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
        mean, deviation = (np.float64(x).tolist() for x in (self.mean, self.deviation))
        return written | {"image_mean": mean, "image_std": deviation}

    def pixels(self, image: Any) -> UInt8[np.ndarray, "h w C"]:
        """Return the pixels 0 .. 255 of a Pillow image, resized and cut out."""
        if self.size is not None:
            width, height = image.size
            if isinstance(self.size, int):
                short = min(width, height)
                height, width = (side * self.size // short for side in (height, width))
            else:
                height, width = self.size
            image = image.resize((width, height), self.resample)
        if self.crop is not None:
            height, width = self.crop
            top, left = (image.height - height) // 2, (image.width - width) // 2
            # Beyond its edge a picture is black.
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(image).reshape(image.height, image.width, len(self.mean))


def _size(value: Any, path: str, name: str) -> tuple[int, int] | int:
    if isinstance(value, dict) and set(value) == {"height", "width"}:
        found: Any = value["height"], value["width"]
    elif isinstance(value, dict) and set(value) == {"shortest_edge"}:
        found = value["shortest_edge"]
    else:
        found = value
    sides = found if isinstance(found, tuple) else (found,)
    if not all(type(side) is int and 0 < side <= 10_000 for side in sides):
        raise UserError(f"{path}: {name}={value!r}; wanted height and width, or shortest_edge")
    return found


def _channels(values: dict[str, Any], name: str, channels: int, path: str) -> np.ndarray:
    found = values.get(name, 0.5)
    each = found if isinstance(found, list) else [found] * channels
    lowest = 0.0 if name == "image_std" else -math.inf
    known = all(type(one) in (int, float) and lowest < one < math.inf for one in each)
    if not known or len(each) != channels:
        kind = "a number above 0" if name == "image_std" else "a number"
        raise UserError(f"{path}: {name}={found!r}; wanted {kind} for each of {channels} channels")
    return np.asarray(each, np.float64)
