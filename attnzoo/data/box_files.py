"""Files of pictures with boxes: COCO's JSON and Pascal VOC's XML, in a folder or a tar archive."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from attnzoo.data.picture_files import SUFFIXES, UNPACKED_BYTES
from attnzoo.errors import UserError
from attnzoo.files import read_json

LARGEST_JSON = 2**31
"""Most bytes of a JSON file; that of COCO's training part has 450 million."""
NOT_A_BOX = (float("nan"),) * 4


class Box(NamedTuple):
    """Object box read from a file.

    ``corners`` are (left, top, right, bottom) in pixels; ``place`` is ``file:line`` or the like,
    for messages; ``area`` is the object's area in pixels, None if the file does not give one.
    """

    corners: tuple[float, ...]
    label: str
    place: str
    ignored: bool = False
    area: float | None = None


class Record(NamedTuple):
    """Picture of a file, by its name in ``PictureFiles``, and its boxes."""

    picture: str
    boxes: list[Box]


class PictureFiles:
    """Files of a folder or a tar archive by name; those of a plain archive are read in place."""

    def __init__(self, root: Path):
        self.root = root
        self._places: dict[str, tuple[int, int]] | None = None
        self._held: dict[str, bytes] = {}
        self._by_end: dict[str, str] | None = None
        if root.is_dir():
            return
        if not root.exists():
            raise UserError(f"{root}: no such folder or tar archive")
        try:
            self._places = {}
            with tarfile.open(root, "r:*") as archive:
                packed = archive.fileobj is not None and not _is_plain(root)
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isfile():
                        self._places[name] = member.offset_data, member.size
                        if packed:
                            self._hold(name, archive, member)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise UserError(f"{root}: not a tar file, or damaged: {error}") from None

    def _hold(self, name: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if sum(map(len, self._held.values())) + member.size > UNPACKED_BYTES:
            raise UserError(
                f"{self.root}: unpacks to more than {UNPACKED_BYTES / 2**30:.0f} GB; unpack it, "
                "and give the folder"
            )
        file = archive.extractfile(member)
        assert file is not None
        self._held[name] = file.read()

    def names(self) -> list[str]:
        """Return the names of all files, with ``/`` between folders."""
        if self._places is not None:
            return list(self._places)
        found = (path for path in self.root.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def find(self, name: str) -> str:
        """Return the full name of a file whose first folders may be missing; itself if none is."""
        if self._by_end is None:
            self._by_end = {PurePosixPath(one).name: one for one in self.names()}
        full = self._by_end.get(PurePosixPath(name).name, name)
        return full if full == name or full.endswith(f"/{name}") else name

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; a UserError if it is not there. Safe in many threads."""
        try:
            if self._places is None:
                return (self.root / name).read_bytes()
            offset, size = self._places[name]
            if name in self._held:
                return self._held[name]
            file = os.open(self.root, os.O_RDONLY)
            try:
                return os.pread(file, size, offset)
            finally:
                os.close(file)
        except KeyError:
            raise UserError(f"{name}: no such file") from None
        except OSError as error:
            raise UserError(f"{name}: {(error.strerror or str(error)).lower()}") from None


def _is_plain(root: Path) -> bool:
    try:
        tarfile.open(root, "r:").close()
    except tarfile.ReadError:
        return False
    return True


Listed = tuple[PictureFiles, dict[str, list[Record]], tuple[str, ...]]


def read_coco(source: Any) -> Listed:
    """Read the JSON files of a ``CocoConfig``: pictures by part, and the classes by their id.

    The classes are the categories of the training part, or of the first part that there is.
    Crowds are ignored boxes.
    """
    files = PictureFiles(source.images)
    parts: dict[str, list[Record]] = {}
    classes: tuple[str, ...] = ()
    for part in ("train", "validation", "test"):
        path = getattr(source, part)
        if path is not None:
            parts[part], found = _coco_part(path, files)
            classes = classes or found
    if not parts:
        raise UserError(f"{files.root}: no JSON file is given; wanted data.source.train")
    return files, parts, classes


def _coco_part(path: Path, files: PictureFiles) -> tuple[list[Record], tuple[str, ...]]:
    data = read_json(path, dict, LARGEST_JSON)
    try:
        names = {one["id"]: str(one["name"]) for one in data["categories"]}
        records = {one["id"]: Record(files.find(one["file_name"]), []) for one in data["images"]}
        annotations = data["annotations"]
        for number, one in enumerate(annotations):
            place = f"{path.name}: annotation {one.get('id', number)}"
            if one["image_id"] not in records:
                raise UserError(f"{place}: image_id {one['image_id']!r} is none of 'images'")
            corners = _numbers(one["bbox"])
            label = names.get(one["category_id"], str(one["category_id"]))
            crowd, area = bool(one.get("iscrowd", 0)), one.get("area")
            x, y, width, height = corners
            box = Box((x, y, x + width, y + height), label, place, crowd, area)
            records[one["image_id"]].boxes.append(box)
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not in COCO's format: {missing}") from None
    return list(records.values()), tuple(names[key] for key in sorted(names))


def _numbers(values: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return NOT_A_BOX
    return found if len(found) == 4 else NOT_A_BOX


def read_voc(source: Any) -> Listed:
    """Read the annotations of a ``VocConfig``: pictures by part, and the classes by name.

    VOC's pixels count from 1 and a box includes its last pixel: corners are xmin - 1, ymin - 1,
    xmax and ymax. Without lists in ImageSets/Main all pictures are of the training part.
    """
    files = PictureFiles(source.path)
    names = files.names()
    annotations = {PurePosixPath(n).stem: n for n in names if _in(n, "Annotations", {".xml"})}
    pictures = {PurePosixPath(n).stem: n for n in names if _in(n, "JPEGImages", SUFFIXES)}
    lists = {PurePosixPath(n).stem: n for n in names if _in(n, "Main", {".txt"})}
    if not annotations:
        raise UserError(f"{source.path}: there is no Annotations/*.xml in it")
    chosen = {part: getattr(source, part) for part in ("train", "validation", "test")}
    parts: dict[str, list[Record]] = {}
    for part, wanted in chosen.items():
        if wanted is None:
            continue
        if not lists:
            rows = sorted(annotations) if part == "train" else []
        elif wanted not in lists:
            raise UserError(
                f"{source.path}: no list {wanted!r} in ImageSets/Main; there is "
                f"{', '.join(sorted(lists))} (null: no {part} part)"
            )
        else:
            text = files.read(lists[wanted]).decode("utf-8", "replace")
            rows = [line.split()[0] for line in text.splitlines() if line.strip()]
        parts[part] = [
            Record(
                pictures.get(stem, f"JPEGImages/{stem}"),
                _voc_boxes(files, annotations[stem]) if stem in annotations else [],
            )
            for stem in rows
        ]
    found = {box.label for one in parts.get("train", []) for box in one.boxes}
    return files, parts, tuple(sorted(found))


def _in(name: str, folder: str, suffixes: set[str]) -> bool:
    path = PurePosixPath(name)
    hidden = path.name.startswith(".")
    return path.parent.name == folder and path.suffix.lower() in suffixes and not hidden


def _voc_boxes(files: PictureFiles, name: str) -> list[Box]:
    try:
        root = ET.fromstring(files.read(name))
    except ET.ParseError as error:
        raise UserError(f"{files.root}: {name}:{error.position[0]}: not XML: {error}") from None
    boxes = []
    for number, one in enumerate(root.iter("object"), start=1):
        found = one.find("bndbox")
        corners = NOT_A_BOX
        if found is not None:
            edges = (found.findtext(edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
            left, top, right, bottom = _numbers(list(edges))
            corners = (left - 1, top - 1, right, bottom)
        label = (one.findtext("name") or "").strip()
        difficult = (one.findtext("difficult") or "0").strip() == "1"
        boxes.append(Box(corners, label, f"{name}: object {number}", difficult))
    return boxes
