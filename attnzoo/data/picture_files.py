"""Lists of the pictures in folders, tar and parquet files, with a cache of lists and copies."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from attnzoo.data.build import store_folder
from attnzoo.data.corpus import PARTS
from attnzoo.data.locations import Stream
from attnzoo.data.pictures import ESCAPE, OWN_FILE, Pictures
from attnzoo.data.store import only_writer
from attnzoo.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff"}
# Sources up to this size are unpacked in memory, larger ones into a file of the cache.
HELD_BYTES = 2**26
# An archive of at most HELD_BYTES that unpacks to more than this is refused.
UNPACKED_BYTES = 2**30
# Bytes of a picture of which nothing is known.
USUAL_PICTURE = 100_000
# A part of the cache's key: to be raised when records or the order of pictures change.
FORMAT = 1


# Part, name, class, file number, offset, size.
Record = tuple[str, str, str, int, int, int]


def in_folder(root: Path, part: str | None = None, *, classified: bool = True) -> list[Record]:
    """Return the pictures of a directory of class directories, by name.

    Without ``classified`` the directories are no classes, and all pictures have the class "".
    """
    known = _classified if classified else _unclassified
    found = [
        (known(root, path.relative_to(root).as_posix(), part), path.stat().st_size)
        for path in root.rglob("*")
        if _is_picture(path.name) and path.is_file()
    ]
    return [(*about, OWN_FILE, 0, size) for about, size in sorted(found)]


def in_tar(
    path: Path,
    number: int,
    copies: Stream,
    copy_number: int,
    part: str | None,
    prefix: str,
    *,
    classified: bool = True,
) -> list[Record]:
    """Return the pictures of a tar file by name, those of a compressed one copied to ``copies``.

    The class is the content of a ``.cls`` file beside the picture, or else its directory; ""
    without ``classified``.
    """
    found: dict[str, tuple[int, int, int]] = {}
    classes: dict[str, str] = {}
    try:
        archive, compressed = _opened(path)
        with archive:
            while (member := archive.next()) is not None:
                archive.members = []  # a kilobyte for each  # ty: ignore[missing-attribute]
                name = member.name.removeprefix("./")
                if member.isfile() and _is_picture(name):
                    found[name] = (number, member.offset_data, member.size)
                    if compressed:
                        _check_room(path, copies, member.size)
                        found[name] = (copy_number, copies.tell(), member.size)
                        file = archive.extractfile(member)
                        assert file is not None
                        shutil.copyfileobj(file, copies, 2**20)
                elif member.isfile() and name.endswith(".cls"):
                    file = archive.extractfile(member)
                    assert file is not None
                    classes[name.removesuffix(".cls")] = file.read(1000).decode().strip()
                elif (member.islnk() or member.issym()) and _is_picture(name):
                    target = member.linkname.removeprefix("./")
                    if member.issym():
                        target = os.path.normpath(PurePosixPath(name).parent / target)
                    if target in found:
                        found[name] = found[target]
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise _damaged(path, "tar", error) from None
    records = []
    for name, place in sorted(found.items()):
        label = classes.get(name.rpartition(".")[0])
        known = (part or "train", prefix + name, label or "")
        if label is None:
            known = (_classified if classified else _unclassified)(path, name, part, prefix)
        records.append((*known, *place))
    return records


def _opened(path: Path) -> tuple[tarfile.TarFile, bool]:
    """Open a tar file to be read in place if it is plain, or else as a stream."""
    try:
        return tarfile.open(path, "r:"), False
    except tarfile.ReadError:
        return tarfile.open(path, "r|*"), True


def in_parquet(
    path: Path,
    fields: tuple[str, str],
    copies: Stream,
    copy_number: int,
    part: str,
) -> Iterator[Record]:
    """Yield the pictures of a parquet file, copied to ``copies``: a row costs its whole group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        image_field, label_field = fields
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
        columns = file.schema_arrow.names
        for name in (image_field, label_field):
            if name not in columns:
                raise UserError(f"{path}: no field {name!r}; it has {', '.join(columns)}")
        names = _class_names(file.schema_arrow.metadata, label_field)
        batches = (
            batch
            for group in range(file.num_row_groups)
            for batch in file.iter_batches(
                128, [group], columns=[image_field, label_field], use_threads=False
            )
        )
        row = 0
        for batch in batches:
            classes = batch.column(label_field).to_pylist()
            for value, label in zip(batch.column(image_field).to_pylist(), classes, strict=True):
                name = f"{path.name} row {row}"
                if label is None:
                    raise UserError(f"{path} row {row}: no class in field {label_field!r}")
                known = names is not None and 0 <= label < len(names)
                label = names[label] if names is not None and known else str(label)
                yield (part, name, label, copy_number, *copied(value, f"{path} row {row}", copies))
                row += 1
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "parquet", error) from None


def count_pictures(path: Path) -> tuple[int, int]:
    """Return the number of pictures in a tar or parquet file, and the bytes copied from the file.

    Those of a compressed tar are estimated from its size.
    """
    size = path.stat().st_size
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.ParquetFile(path).metadata.num_rows, size
    archive, compressed = _opened(path)
    archive.close()
    if compressed:
        return size // USUAL_PICTURE, size
    return len(in_tar(path, 0, io.BytesIO(), 0, None, "")), 0


def copied(value: Any, place: str, copies: Stream) -> tuple[int, int]:
    """Copy the bytes of a picture as `datasets` keeps it; return their offset and size."""
    data = value
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if data is None and path is not None:
            data = Path(path).read_bytes()
    if not isinstance(data, bytes):
        raise UserError(f"{place}: a {type(value).__name__}, wanted an image")
    offset = copies.tell()
    copies.write(data)
    return offset, len(data)


def _class_names(metadata: dict[bytes, bytes] | None, label_field: str) -> list[str] | None:
    """Return the class names that `datasets` wrote into a parquet file."""
    kept = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    return kept.get("info", {}).get("features", {}).get(label_field, {}).get("names")


def listed(root: str, files: Iterable[Path], records: Iterable[Record]) -> Pictures:
    """Put records in the order of their parts.

    Raises:
        UserError: there is no record.
    """
    rows = sorted(records, key=lambda record: PARTS.index(record[0]))
    if not rows:
        raise UserError(f"{root}: there is no image in it ({', '.join(sorted(SUFFIXES))})")
    parts, names, labels, *where = zip(*rows, strict=True)
    return Pictures(
        root, [str(file) for file in files], list(names), list(parts), list(labels),
        np.stack([np.asarray(column, np.int64) for column in where], axis=1),
    )  # fmt: skip


def indexed(
    root: str,
    files: list[Path],
    identity: Any,
    size: int,
    records: Callable[[Stream], Iterable[Record]],
    cache: Path,
) -> Pictures:
    """Return the pictures of archives; the list of large ones, and copies, are kept in a cache.

    Args:
        root: name of the source for messages.
        files: files that records number; the next number is that of the copies.
        identity: JSON value that changes when the pictures do.
        size: bytes of the source.
        records: lists the pictures and copies those that cannot be read in place.
        cache: directory of the cache.
    """
    if size <= HELD_BYTES:
        held = io.BytesIO()
        pictures = listed(root, files, records(held))
        pictures.held = held.getvalue()
        return pictures
    key = {"format": FORMAT, "root": root, "pictures": identity}
    folder = store_folder(cache, "images", key)
    copies = folder / "copies"
    try:
        # Of two trainings at once, one copies.
        with only_writer(folder, lambda: None):
            if not _whole(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                try:
                    with copies.open("wb", buffering=2**20) as sink:
                        pictures = listed(root, [*files, copies], records(sink))
                    _save(folder, pictures)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
        return _load(folder, root, [*files, copies])
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror}; pictures of {root} are kept here "
            f"({size / 1e9:.1f} GB; {shutil.disk_usage(folder.parent).free / 1e9:.1f} GB are "
            "free): make room, or set cache.path"
        ) from None


def _save(folder: Path, pictures: Pictures) -> None:
    """Write the index last: a folder without one is made again."""
    texts = {
        name: np.frombuffer("\0".join(getattr(pictures, name)).encode("utf-8", ESCAPE), np.uint8)
        for name in ("names", "labels", "parts")
    }
    unfinished = folder / "index.part"
    copied_bytes = (folder / "copies").stat().st_size
    with unfinished.open("wb") as file:
        index: dict[str, Any] = {"where": pictures.where, "copied": np.int64(copied_bytes), **texts}
        np.savez(file, **index)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / "index.npz")


def _whole(folder: Path) -> bool:
    """Return True if the index is there and the copies have the size it names."""
    try:
        with np.load(folder / "index.npz") as kept:
            return int(kept["copied"]) == (folder / "copies").stat().st_size
    except (OSError, ValueError, KeyError, EOFError):
        return False


def _load(folder: Path, root: str, files: list[Path]) -> Pictures:
    with np.load(folder / "index.npz") as kept:
        texts = {
            name: kept[name].tobytes().decode("utf-8", ESCAPE).split("\0")
            for name in ("names", "labels", "parts")
        }
        # Equal strings become one object: millions of labels are few.
        texts["labels"] = [label for label, same in groupby(texts["labels"]) for _ in same]
        return Pictures(root, [str(file) for file in files], where=kept["where"], **texts)


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _classified(root: Path, inner: str, part: str | None, prefix: str = "") -> tuple[str, str, str]:
    """Return part, name and class of a picture from its path."""
    steps = inner.split("/")
    if len(steps) < 2:
        raise UserError(f"{root}: {inner} lies in no class directory")
    part = part or next((step for step in steps[:-2] if step in PARTS), "train")
    return part, prefix + inner, steps[-2]


def _unclassified(
    root: Path, inner: str, part: str | None, prefix: str = ""
) -> tuple[str, str, str]:
    """Return part, name and the class "" of a picture."""
    return part or "train", prefix + inner, ""


def _damaged(path: Path, kind: str, error: Exception) -> Exception:
    """Return the error of a file that cannot be read; one of a full disk is of the copies."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return UserError(f"{path}: not a {kind} file, or damaged: {error}")


def _check_room(path: Path, copies: Stream, size: int) -> None:
    """Refuse an archive that unpacks to far more than its size."""
    if isinstance(copies, io.BytesIO) and copies.tell() + size > UNPACKED_BYTES:
        raise UserError(
            f"{path}: unpacks to more than {UNPACKED_BYTES / 2**30:.0f} GB; unpack it, and give "
            "the directory"
        )
