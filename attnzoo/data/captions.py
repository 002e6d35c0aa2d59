"""Pictures with several captions each: reading, parts, and batches of pictures with captions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Bool, Int64, UInt8

from attnzoo.config.cache import CacheConfig
from attnzoo.data.batching import Batch, BucketPlan
from attnzoo.data.build import cores
from attnzoo.data.corpus import PARTS, Report, Splits, add_strings
from attnzoo.data.images import PIXELS_HELD, files_of_pattern
from attnzoo.data.labelled import split_off_parts
from attnzoo.data.locations import identity
from attnzoo.data.order import MAX_BUCKETS, Buckets, RowOrder
from attnzoo.data.picture_files import in_folder, in_tar, indexed, listed
from attnzoo.data.pictures import EncodedImages, Pictures, decode
from attnzoo.data.sources import read_lines, read_text, records, text_of
from attnzoo.data.text import array_fingerprint
from attnzoo.data.tokenizers import Tokenizer
from attnzoo.errors import UserError

NUMBERED = re.compile(r"#\d+$")
"""Number of a caption behind the name of its picture, in Flickr8k's own file."""


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures in order; ``captions[i]`` are those of ``images[i]``, whose name is ``names[i]``.

    ``cells[i][j]`` tells, for each word of ``captions[i][j]`` between spaces, the cells of a grid
    that are the right place of the word, row by row; none for a word without a known place. It is
    empty where no places are known.
    """

    images: UInt8[np.ndarray, "pictures H W C"] | EncodedImages
    captions: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    name: str = ""
    cells: tuple[tuple[Bool[np.ndarray, "_ cells"], ...], ...] = ()

    def __len__(self) -> int:
        return len(self.captions)

    def texts(self) -> list[str]:
        """Return all captions, those of one picture one after the other."""
        return [text for texts in self.captions for text in texts]

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every caption and pixel, or of name and size of the pictures."""
        digest = xxhash.xxh3_128()
        for texts in self.captions:
            digest.update(len(texts).to_bytes(4, "little"))
            add_strings(digest, texts)
        add_strings(digest, self.names)
        of_files = isinstance(self.images, EncodedImages)
        images = self.images.fingerprint() if of_files else array_fingerprint(self.images)
        digest.update(images.encode())
        return digest.hexdigest()


@final
class CaptionPlan(BucketPlan):
    """Batches of pictures, each with one of its captions; an epoch has every caption once.

    Captions of similar length come together (`RowOrder`), without `shuffle` sorted by length.
    Captions without a token, and of more than `max_length` tokens, are left out: `report` counts
    them.
    """

    def __init__(
        self,
        data: CaptionedPictures,
        tokenizer: Tokenizer,
        batch_size: int,
        max_length: int,
        buckets: Sequence[int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self.data, self.batch_size = data, batch_size
        self.report = Report(f"{data.name} captions as tokens", unit="captions")
        self._ids: list[list[int]] = []
        self._places: list[tuple[int, int]] = []
        self._words: list[Sequence[int]] = []
        for picture, texts in enumerate(data.captions):
            for number, text in enumerate(texts):
                encoding = tokenizer.encode(text)
                self.report.read += 1
                if 0 < len(encoding.ids) <= max_length:
                    self._ids.append(list(encoding.ids))
                    self._places.append((picture, number))
                    self._words.append(encoding.word_ids)
                else:
                    why = f"more than {max_length:,} tokens" if encoding.ids else "empty caption"
                    self.report.skip(why, f"{data.names[picture]} caption {number + 1}")
        self._frame, self._pad = tokenizer.frames["target"], tokenizer.pad_id
        around = len(self._frame.around(()))
        needs = np.asarray([len(ids) + around - 1 for ids in self._ids], np.int64)
        self._order = RowOrder(len(needs), batch_size, seed, shuffle, needs)
        self._buckets = Buckets(needs, buckets, max_buckets)
        digest = xxhash.xxh3_128(data.fingerprint().encode())
        digest.update(np.asarray([i for ids in self._ids for i in (*ids, -1)], "<i4").tobytes())
        self._fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._ids)

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these captions.

        `source`: uint8 `B H W C`, black in a padding row. `target`: int32 `B T+1`, ids with the
        tokens around a target, and padding. `rows`: int32 `B`, each row's index, -1 for padding.
        `picture`: int32 `B`, the number of each row's picture. Where places are known: `cells`,
        bool `B T cells`, the right place of each predicted token.
        """
        length = self._buckets.of(rows)
        chosen = [(self._places[row] if row >= 0 else (0, 0)) for row in rows.tolist()]
        source = self.data.images[np.asarray([picture for picture, _ in chosen], np.int64)]
        source[rows < 0] = 0
        target = np.full((len(rows), length + 1), self._pad, np.int32)
        for i, row in enumerate(rows.tolist()):
            framed = self._frame.around(self._ids[row]) if row >= 0 else []
            target[i, : len(framed)] = framed
        pictures = np.asarray([picture for picture, _ in chosen], np.int32)
        batch = {"source": source, "target": target, "picture": pictures}
        if self.data.cells:
            size = self.data.cells[0][0].shape[1]
            batch["cells"] = np.zeros((len(rows), length, size), np.bool_)
            for i, row in enumerate(rows.tolist()):
                if row >= 0:
                    picture, number = chosen[i]
                    places = self.data.cells[picture][number][np.asarray(self._words[row], int)]
                    batch["cells"][i, : len(places)] = places
        return batch | {"rows": rows.astype(np.int32)}


def load_captions(
    config: Any, cache: Path | None = None, part: str | None = None
) -> Splits[CaptionedPictures]:
    """Load the parts of a ``CaptionsConfig``; a missing part is empty.

    Captions that are empty or of a picture that is not there, and pictures that cannot be decoded,
    are left out and counted. Parts of at most 256 MiB of pixels are decoded now; pictures of larger
    ones when they are asked for, and a damaged one is an error then. With ``part`` the pictures of
    the others are not read.

    Raises:
      UserError: a file that cannot be read, more left out than ``config.max_skipped``, or a picture
        in two parts.
    """
    pictures = _pictures(config, cache or CacheConfig().path)
    rows = _rows_by_name(pictures)
    reports, found = [], {}
    for name in PARTS:
        found[name], more = _captions(config, name, rows)
        reports += more
    drawn = _parts(config, found, rows, reports)
    used = {row for texts in found.values() for row in texts}
    listed_ = Report(str(config.pictures), read=len(pictures), unit="pictures")
    for row in range(len(pictures)):
        if row not in used:
            listed_.skip("without a caption", pictures.names[row])
    sets = {
        name: _part(config, pictures, texts if part in (None, name) else {}, name, reports)
        for name, texts in drawn.items()
    }
    return Splits(**sets, reports=[*reports, listed_])


def _pictures(config: Any, cache: Path) -> Pictures:
    path = config.pictures
    if path.is_dir():
        return listed(str(path), [], in_folder(path, classified=False))
    files = files_of_pattern(path, "directory or tar file")
    prefixes = [f"{file.name}: " if len(files) > 1 else "" for file in files]
    key = {"files": [identity(file) for file in files], "classes": False}
    return indexed(
        str(path),
        files,
        key,
        sum(file.stat().st_size for file in files),
        lambda copies: [
            record
            for number, file in enumerate(files)
            for record in in_tar(
                file, number, copies, len(files), None, prefixes[number], classified=False
            )
        ],
        cache,
    )


def _rows_by_name(pictures: Pictures) -> dict[str, int]:
    """Return the row of each picture by its path, and by its file name if no other has it."""
    by_path, by_name = {}, {}
    for row, name in enumerate(pictures.names):
        path = name.rpartition(": ")[2]
        by_path[path] = row
        file = path.rpartition("/")[2]
        by_name[file] = -1 if file in by_name else row
    return {name: row for name, row in by_name.items() if row >= 0} | by_path


def _captions(
    config: Any, part: str, rows: dict[str, int]
) -> tuple[dict[int, list[str]], list[Report]]:
    """Return the captions of one part's files by the row of their picture."""
    texts: dict[int, list[str]] = {}
    reports = []
    for pattern in getattr(config, part):
        for path in files_of_pattern(pattern, "file"):
            report = Report(str(path), unit="captions")
            for place, name, text in _READERS[config.format](config, path):
                report.read += 1
                row = rows.get(name, rows.get(NUMBERED.sub("", name)))
                if row is None:
                    report.skip("no such picture", f"{place} {name}")
                elif not text:
                    report.skip("empty caption", place)
                else:
                    texts.setdefault(row, []).append(text)
            if not report.kept:
                reasons = "; ".join(line.partition(": skipped ")[2] for line in report.lines()[1:])
                raise UserError(
                    f"{path}: none of its {report.read:,} captions has a text and a picture of "
                    f"{config.pictures}" + (reasons and f": {reasons}")
                )
            report.check(config.max_skipped)
            reports.append(report)
    return texts, reports


def _table(config: Any, path: Path) -> Iterator[tuple[str, str, str]]:
    columns = (config.picture_column, config.caption_column)
    for place, record in records(
        path, config.format, columns, header=config.header, encoding=config.encoding
    ):
        name, text = (" ".join(text_of(record[column]).split()) for column in columns)
        yield place, name, text


def _coco(config: Any, path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        found = json.loads(read_text(path, config.encoding))
        names = {image["id"]: image["file_name"] for image in found["images"]}
        captions = [(one["image_id"], one["caption"]) for one in found["annotations"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not COCO's captions ({type(error).__name__}: {error}); wanted images with id "
            "and file_name, and annotations with image_id and caption"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    for number, (picture, caption) in enumerate(captions):
        name = text_of(names.get(picture, f"image_id {picture}"))
        yield f"{path}: annotation {number}", name, " ".join(text_of(caption).split())


_READERS = dict.fromkeys(("csv", "tsv", "jsonl", "parquet"), _table) | {"coco": _coco}


def _parts(
    config: Any,
    found: dict[str, dict[int, list[str]]],
    rows: dict[str, int],
    reports: list[Report],
) -> dict[str, dict[int, list[str]]]:
    """Return the captions of each part, by files, lists of names, or drawn by picture."""
    names = {row: name for name, row in rows.items()}
    for name in ("validation", "test"):
        for other in ("train", "validation"):
            twice = found[name].keys() & found[other].keys() if name != other else ()
            if twice:
                raise UserError(
                    f"data: {names[min(twice)]} ({len(twice):,} pictures) is in the {other} and in "
                    f"the {name} part; wanted each picture in one"
                )
    parts: dict[str, list[int]] = {name: list(texts) for name, texts in found.items()}
    for name in ("validation", "test"):
        path = getattr(config, f"{name}_names")
        if path is not None:
            chosen, report = _named(path, rows, set(parts["train"]))
            reports.append(report)
            parts[name] = chosen
            parts["train"] = [row for row in parts["train"] if row not in set(chosen)]
    drawn = split_off_parts(parts, config)
    everything = {row: texts for part in found.values() for row, texts in part.items()}
    return {name: {row: everything[row] for row in chosen} for name, chosen in drawn.items()}


def _named(path: Path, rows: dict[str, int], train: set[int]) -> tuple[list[int], Report]:
    """Return the training pictures that a list names, in its order."""
    report, chosen = Report(str(path), unit="pictures"), {}
    for number, line in enumerate(read_lines(path), start=1):
        name = line.decode("utf-8", "replace").strip()
        if name:
            report.read += 1
            row = rows.get(name)
            if row in train and row is not None:
                chosen[row] = None
            else:
                report.skip("no training picture of this name", f"{path}:{number} {name}")
    if not chosen:
        raise UserError(f"{path}: none of its {report.read:,} lines names a training picture")
    return list(chosen), report


def _part(
    config: Any,
    pictures: Pictures,
    texts: dict[int, list[str]],
    name: str,
    reports: list[Report],
) -> CaptionedPictures:
    """Return one part, its pictures decoded if they are few."""
    rows = np.fromiter(texts, np.int64, len(texts))
    settings = {"size": config.size, "resize": None, "channels": config.channels}
    shape = (config.size, config.size, config.channels)
    images: Any = EncodedImages(pictures, rows, shape, settings)
    if np.prod(images.shape) <= PIXELS_HELD and len(rows):
        report = Report(f"{config.pictures} {name}", read=len(rows), unit="pictures")
        images, kept = _decoded(pictures, rows, settings, report)
        report.check(config.max_skipped)
        reports.append(report)
        rows = rows[kept]
    return CaptionedPictures(
        images,
        tuple(tuple(texts[row]) for row in rows.tolist()),
        tuple(pictures.names[row] for row in rows.tolist()),
        name,
    )


def _decoded(
    pictures: Pictures,
    rows: Int64[np.ndarray, " pictures"],
    settings: dict[str, Any],
    report: Report,
) -> tuple[UInt8[np.ndarray, "kept H W C"], list[int]]:
    """Return the pixels of the pictures that can be decoded, and their places in ``rows``."""
    kept, pixels = [], []

    def pixels_of(row: int) -> UInt8[np.ndarray, "H W C"] | UserError:
        try:
            return decode(pictures.read(row), pictures.place(row), **settings)
        except UserError as error:
            return error

    with ThreadPoolExecutor(cores() + 4) as pool:
        for place, found in enumerate(pool.map(pixels_of, rows.tolist())):
            row = int(rows[place])
            if isinstance(found, UserError):
                reason = str(found).removeprefix(f"{pictures.place(row)}: ")
                report.skip(reason, pictures.names[row])
            else:
                pixels.append(found)
                kept.append(place)
    if not kept:
        raise UserError(f"{report.name}: no picture can be read: {report.lines()[1]}")
    return np.stack(pixels), kept
