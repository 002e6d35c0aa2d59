"""Pictures with labelled boxes: readers of COCO and Pascal VOC files, made shapes, and batches.

Boxes are (left, top, right, bottom), in pixels of the picture from its top left corner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Float32, Int32, Int64, UInt8

from attnzoo.data.batching import Batch, RowPlan
from attnzoo.data.box_files import PictureFiles, Record, read_coco, read_voc
from attnzoo.data.build import cores
from attnzoo.data.corpus import PARTS, Report, Splits, add_strings
from attnzoo.data.labelled import split_off_parts
from attnzoo.data.order import RowOrder
from attnzoo.data.pictures import open_picture
from attnzoo.data.shapes import SHAPES, draw_shapes
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError

PIXELS_HELD = 2**29
"""Parts of at most this many bytes of pixels are decoded once and kept in memory."""
Pixels = UInt8[np.ndarray, "H W C"]


@dataclasses.dataclass(frozen=True)
class BoxSet:
    """Pictures in order, each with its boxes: those of ``i`` are ``starts[i] : starts[i + 1]``.

    Attributes:
      pixels: function from a row to its pixels in the size of the config.
      pictures: file names, for messages. names: classes by number.
      sizes: height and width of the pictures themselves, to which the boxes refer.
      extents: shares of height and width that the picture takes in its pixels, in the middle.
      ignored: True for boxes that are neither learnt nor scored: crowds, difficult objects.
      areas: area by which the scores tell small objects from large ones, in square pixels.
    """

    pixels: Callable[[int], Pixels]
    pictures: tuple[str, ...]
    names: tuple[str, ...]
    sizes: Int32[np.ndarray, "pictures 2"]
    extents: Float32[np.ndarray, "pictures 2"]
    boxes: Float32[np.ndarray, "boxes 4"]
    labels: Int32[np.ndarray, " boxes"]
    ignored: np.ndarray
    areas: Float32[np.ndarray, " boxes"]
    starts: Int64[np.ndarray, " ends"]

    def __len__(self) -> int:
        return len(self.pictures)

    def of(self, row: int) -> slice:
        """Return the boxes of a picture."""
        return slice(int(self.starts[row]), int(self.starts[row + 1]))

    def most(self) -> int:
        """Return the largest number of boxes of a picture."""
        return int(np.diff(self.starts).max(initial=0))

    def fingerprint(self) -> str:
        """Return the xxh3_128 of all names, sizes, boxes and classes, without the pixels."""
        digest = xxhash.xxh3_128()
        add_strings(digest, (*self.pictures, *self.names))
        arrays = self.sizes, self.boxes, self.labels, self.ignored, self.areas, self.starts
        digest.update(array_fingerprint(*arrays, self.extents).encode())
        return digest.hexdigest()


@final
class BoxPlan(RowPlan):
    """Batches of pictures with boxes, in the order of ``RowOrder``; all have the same shapes.

    Args:
      most: room for boxes of a picture, M.
    """

    def __init__(
        self, data: BoxSet, batch_size: int, most: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        self.data, self.batch_size, self.most = data, batch_size, max(most, 1)
        self._order = RowOrder(len(data), batch_size, seed, shuffle)
        self._fingerprint = data.fingerprint()

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these rows.

        ``images``: uint8 ``B H W C``. ``boxes``: float32 ``B M 4``, corners in shares of the
        images. ``labels``: int32 ``B M``, -1 at padding. ``ignored``: bool ``B M``. ``areas``:
        float32 ``B M``. ``extent``: float32 ``B 2``. ``sizes``: int32 ``B 2``. ``rows``: int32
        ``B``, the picture's number, -1 for a padding row, which is black.
        """
        data, shape = self.data, (len(rows), self.most)
        chosen = np.maximum(rows, 0)
        images = _all_pixels(data.pixels, chosen)
        images[rows < 0] = 0
        boxes, areas = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32)
        labels, ignored = np.full(shape, -1, np.int32), np.zeros(shape, bool)
        for place, row in enumerate(rows.tolist()):
            if row < 0:
                continue
            own = data.of(row)
            count = own.stop - own.start
            corners = to_shares(data.boxes[own], data.sizes[row], data.extents[row])
            boxes[place, :count], labels[place, :count] = corners, data.labels[own]
            ignored[place, :count], areas[place, :count] = data.ignored[own], data.areas[own]
        return {
            "images": images,
            "boxes": boxes,
            "labels": labels,
            "ignored": ignored,
            "areas": areas,
            "extent": data.extents[chosen],
            "sizes": data.sizes[chosen],
            "rows": rows.astype(np.int32),
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {**super().fingerprint(), "most": self.most}


def to_shares(
    boxes: np.ndarray, size: np.ndarray, extent: np.ndarray
) -> Float32[np.ndarray, "n 4"]:
    """Return boxes as shares of the image that a picture is centred in.

    Args:
      boxes: corners in pixels of the picture, ``n 4``.
      size: height and width of the picture in pixels.
      extent: height and width of the picture as shares of the image.
    """
    scale, margin = (extent / size)[[1, 0, 1, 0]], ((1 - extent) / 2)[[1, 0, 1, 0]]
    return (boxes * scale + margin).astype(np.float32)


def to_pixels(
    boxes: np.ndarray, size: np.ndarray, extent: np.ndarray
) -> Float32[np.ndarray, "n 4"]:
    """Return boxes in shares of an image in pixels of the picture, cut at its edges."""
    scale, margin = (size / extent)[[1, 0, 1, 0]], ((1 - extent) / 2)[[1, 0, 1, 0]]
    return np.clip((boxes - margin) * scale, 0, size[[1, 0, 1, 0]]).astype(np.float32)


def fit_picture(image: Any, size: tuple[int, int], fit: str) -> tuple[Pixels, tuple[float, float]]:
    """Scale a Pillow image into height and width; return its pixels and its shares of both.

    With ``fit="letterbox"`` the ratio is kept, and black margins of equal width are left on both
    sides; else both shares are 1.
    """
    from PIL import Image

    room = np.asarray(size)
    own = np.asarray(image.size[::-1])
    taken = room
    if fit == "letterbox":
        taken = np.clip(np.round(own * (room / own).min()).astype(int), 1, room)
        # As many odd pixels as the room: the margins are equal, and a mirrored picture is in place.
        taken = np.clip(taken - (room - taken) % 2, 2 - room % 2, room)
    height, width = map(int, taken)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    pixels = np.asarray(image).reshape(height, width, -1)
    whole = np.zeros((*size, pixels.shape[2]), np.uint8)
    top, left = (room - taken) // 2
    whole[top : top + height, left : left + width] = pixels
    return whole, (height / size[0], width / size[1])


def load_boxes(
    config: Any, channels: int = 3, names: tuple[str, ...] = (), part: str | None = None
) -> Splits[BoxSet]:
    """Load the parts of a ``BoxesConfig``; a missing part is empty.

    ``names`` are the classes of a run in the order of their numbers; by default they are
    ``config.labels``, or those of the training part: COCO's categories by their id, VOC's by name.
    With ``part`` the others are empty. Skipped, counted and named are: boxes outside of their
    picture, without area, or of another class; pictures that are missing or cannot be read. A box
    that is partly outside is cut.

    Raises:
      UserError: files that cannot be read, more than ``config.max_skipped`` of the boxes or
        pictures of a part skipped, or no picture at all.
    """
    source = config.source
    if source.kind == "shapes":
        return _made(config, channels, part)
    read = read_coco if source.kind == "coco" else read_voc
    files, listed, known = read(source)
    classes = names or config.labels or known
    drawn = split_off_parts({p: list(listed.get(p, [])) for p in PARTS}, config)
    sets, reports = {}, []
    for name in PARTS:
        records: list[Record] = drawn[name] if part in (None, name) else []
        sets[name], found = _set(files, records, classes, config, channels, name)
        if records:
            for report in found:
                report.check(config.max_skipped)
            if not len(sets[name]):
                raise UserError(f"{files.root} {name}: no picture that can be read")
            reports += found
    return Splits(**sets, reports=reports)


def _set(
    files: PictureFiles,
    records: Sequence[Record],
    classes: tuple[str, ...],
    config: Any,
    channels: int,
    part: str,
) -> tuple[BoxSet, list[Report]]:
    """Return the pictures of a part, and reports of pictures and boxes."""
    number = {name: i for i, name in enumerate(classes)}
    pictures = Report(f"{files.root} {part}", read=len(records), unit="pictures")
    boxes = Report(f"{files.root} {part}", unit="boxes")
    held = len(records) * config.size[0] * config.size[1] * channels <= PIXELS_HELD

    def look(record: Record) -> Any:
        """Return the size, and the fitted pixels if they are kept; the problem if there is one."""
        try:
            image = open_picture(files.read(record.picture), record.picture, channels)
        except UserError as error:
            return str(error).removeprefix(f"{record.picture}: ")
        fitted, extent = fit_picture(image, config.size, config.fit)
        return (image.height, image.width), extent, fitted if held else None

    kept: list[tuple[Record, Any]] = []
    with ThreadPoolExecutor(cores() + 2) as pool:
        for record, seen in zip(records, pool.map(look, records), strict=True):
            if isinstance(seen, str):
                pictures.skip(seen, record.picture)
            else:
                kept.append((record, seen))
    rows: list[tuple[np.ndarray, int, bool, float]] = []
    starts = [0]
    for record, ((height, width), _, _) in kept:
        for box in record.boxes:
            boxes.read += 1
            corners, problem = _cut(box.corners, height, width)
            if box.label not in number:
                problem = f"class {box.label!r} is none of {', '.join(classes)}"
            if problem is not None:
                boxes.skip(problem, box.place)
                continue
            area = float(np.prod(corners[2:] - corners[:2])) if box.area is None else box.area
            rows.append((corners, number[box.label], box.ignored, area))
        starts.append(len(rows))
    corners, labels, ignored, areas = zip(*rows, strict=True) if rows else ((), (), (), ())
    held_pixels = [seen[2] for _, seen in kept]

    def pixels(row: int) -> Pixels:
        if held:
            return held_pixels[row]
        name = kept[row][0].picture
        return fit_picture(open_picture(files.read(name), name, channels), config.size, config.fit)[
            0
        ]

    made = BoxSet(
        pixels,
        tuple(record.picture for record, _ in kept),
        classes,
        np.asarray([seen[0] for _, seen in kept], np.int32).reshape(-1, 2),
        np.asarray([seen[1] for _, seen in kept], np.float32).reshape(-1, 2),
        np.asarray(corners, np.float32).reshape(-1, 4),
        np.asarray(labels, np.int32),
        np.asarray(ignored, bool),
        np.asarray(areas, np.float32),
        np.asarray(starts, np.int64),
    )
    return made, [pictures, boxes]


def _cut(corners: Sequence[float], height: int, width: int) -> tuple[np.ndarray, str | None]:
    """Return a box cut at the edges of its picture, and the problem if nothing of it is left."""
    whole = np.asarray(corners, np.float64)
    if not np.isfinite(whole).all():
        return whole, "a box that is not four numbers"
    if (whole[2:] <= whole[:2]).any():
        return whole, "a box without area"
    cut = np.clip(whole, 0, (width, height, width, height))
    return cut, "a box outside of its picture" if (cut[2:] <= cut[:2]).any() else None


def _all_pixels(
    pixels: Callable[[int], Pixels], rows: Int64[np.ndarray, " B"]
) -> UInt8[np.ndarray, "B H W C"]:
    return np.stack([pixels(row) for row in rows.tolist()])


def _made(config: Any, channels: int, part: str | None) -> Splits[BoxSet]:
    """Draw the parts of a ``ShapesConfig`` in the size of the config."""
    sets = {}
    for number, name in enumerate(PARTS):
        count = getattr(config.source, name) if part in (None, name) else 0
        count = min(count, config.limit or count) if name == "train" else count
        drawn = [
            draw_shapes(config.size, config.source.most, channels, config.source.seed, number, i)
            for i in range(count)
        ]
        corners = [boxes for _, boxes, _ in drawn]
        boxes = np.concatenate([np.zeros((0, 4)), *corners]).astype(np.float32)
        images = [image for image, _, _ in drawn]
        sets[name] = BoxSet(
            images.__getitem__,
            tuple(f"shapes {name} {i}" for i in range(count)),
            SHAPES,
            np.tile(np.asarray([config.size], np.int32), (count, 1)),
            np.ones((count, 2), np.float32),
            boxes,
            np.concatenate([np.zeros(0), *(labels for _, _, labels in drawn)]).astype(np.int32),
            np.zeros(len(boxes), bool),
            np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
            np.cumsum([0, *map(len, corners)], dtype=np.int64),
        )
    reports = [Report(f"shapes {n}", read=len(x), unit="pictures") for n, x in sets.items()]
    return Splits(**sets, reports=reports)
