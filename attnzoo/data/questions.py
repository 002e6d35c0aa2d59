"""Questions on documents: files of SQuAD's JSON, and their windows as batches."""

from __future__ import annotations

import fnmatch
import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Int64

from attnzoo.data.batching import Batch, BucketPlan
from attnzoo.data.corpus import PARTS, Report, Splits, add_strings
from attnzoo.data.labelled import pad_rows, split_off_parts
from attnzoo.data.library_tokenizers import between_pair
from attnzoo.data.locations import LIMIT, expand, open_stream, read_bytes, reading
from attnzoo.data.order import MAX_BUCKETS, Buckets, RowOrder
from attnzoo.data.text import array_fingerprint
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.errors import UserError

ARCHIVE = re.compile(r"\.(tar|tgz|tbz2?|txz)(\.(gz|bz2|xz|zst))?$")
NOWHERE = -1


@dataclass(frozen=True)
class Question:
    """One question on a document.

    Attributes:
      id: name in files of predictions.
      place: file, and where in it.
      answers: text and first character of each known answer, -1 where the document has another text
        at that place; none if the document does not answer the question, or nobody knows.
      article: number of the article, within a part of the data.
      problem: why the question cannot be used, in a few words; empty if it can.
    """

    id: str
    text: str
    document: str
    answers: tuple[tuple[str, int], ...] = ()
    place: str = ""
    article: int = 0
    problem: str = ""

    @property
    def located(self) -> tuple[str, int] | None:
        """First answer that is found in the document; None if there is none."""
        return next((one for one in self.answers if one[1] != NOWHERE), None)


@dataclass(frozen=True)
class Questions:
    """Questions of one part of the data, in order."""

    items: Sequence[Question]

    def __len__(self) -> int:
        return len(self.items)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every question, document and answer, the same in every process."""
        digest = xxhash.xxh3_128()
        for one in self.items:
            add_strings(digest, (one.id, one.text, one.document, str(one.answers)))
        return digest.hexdigest()


def load_questions(config: Any) -> Splits[Questions]:
    """Load or draw the parts of a ``QuestionsConfig``; a missing part is empty.

    Questions without a document or a text, with an id that occurred before, or with answers of
    which none stands in the document, are skipped and counted; more than ``config.max_skipped`` and
    a file that is not SQuAD's JSON are a UserError. Parts are drawn by articles.
    """
    parts: dict[str, list[Question]] = {}
    reports = []
    article = itertools.count()
    for part in PARTS:
        parts[part], known = [], set()
        for path in getattr(config, part):
            for name, found in read_questions(path, article):
                report = Report(name, unit="questions")
                for one in found:
                    report.read += 1
                    problem = one.problem or "an id that occurred before" * (one.id in known)
                    if problem:
                        report.skip(problem, one.place)
                    else:
                        known.add(one.id)
                        parts[part].append(one)
                if not report.kept:
                    raise UserError(f"{name}: no usable question in {report.read:,}")
                report.check(config.max_skipped)
                reports.append(report)
    groups = {
        part: [list(g) for _, g in itertools.groupby(found, lambda one: one.article)]
        for part, found in parts.items()
    }
    drawn = split_off_parts(groups, _Unlimited(config))
    split = {part: list(itertools.chain(*some)) for part, some in drawn.items()}
    split["train"] = split["train"][: config.limit]
    return Splits(**{p: Questions(found) for p, found in split.items()}, reports=reports)


class _Unlimited:
    """Settings of a split, whose limit counts questions and not articles."""

    limit = None

    def __init__(self, config: Any) -> None:
        self.split_seed = config.split_seed
        self.validation_share, self.test_share = config.validation_share, config.test_share


def read_questions(
    path: str | Path, article: Iterator[int] | None = None
) -> Iterator[tuple[str, Iterator[Question]]]:
    """Yield the questions of each file that a path names, with the file's name.

    A path is a file of SQuAD's JSON (compressed or not), a pattern of files, a tar archive, or
    a name or pattern within such an archive. A file that is not JSON, or not of this form, is a
    UserError.
    """
    article = itertools.count() if article is None else article
    for name, data in _files(path):
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}: not JSON: {error}") from None
        articles = content.get("data") if isinstance(content, dict) else None
        if not isinstance(articles, list):
            raise UserError(f"{name}: wanted SQuAD's JSON, an object with a list 'data'")
        yield name, _questions(name, articles, article)


def is_json(path: str | Path) -> bool:
    """Return whether a path names a file of JSON or an archive, by its name."""
    names = Path(path).name.lower().split(".")
    return "json" in names or any(ARCHIVE.search(p) for p in Path(path).parts)


def _questions(name: str, articles: list[Any], count: Iterator[int]) -> Iterator[Question]:
    for i, one in enumerate(articles, start=1):
        number = next(count)
        for j, paragraph in enumerate(_list(one, "paragraphs"), start=1):
            document = _text(paragraph, "context")
            for k, asked in enumerate(_list(paragraph, "qas"), start=1):
                place = f"{name}: article {i}, paragraph {j}, question {k}"
                text = _text(asked, "question")
                answers, problem = _answers(asked, document or "")
                if text is None or not text.strip():
                    problem = "no question"
                elif document is None or not document.strip():
                    problem = "an empty document"
                called = asked.get("id", place) if isinstance(asked, dict) else place
                yield Question(
                    str(called), text or "", document or "", answers, place, number, problem
                )


def _answers(asked: Any, document: str) -> tuple[tuple[tuple[str, int], ...], str]:
    """Return the answers of a question with their places, and a problem or an empty text."""
    found: list[tuple[str, int]] = []
    if isinstance(asked, dict) and asked.get("is_impossible") is True:
        return (), ""
    for one in _list(asked, "answers"):
        text = _text(one, "text") or ""
        start = one.get("answer_start") if isinstance(one, dict) else None
        if not isinstance(start, int) or start < 0 or not text.strip():
            start = NOWHERE
        elif document[start : start + len(text)] != text:
            start = NOWHERE
        found.append((text, start))
    if found and all(start == NOWHERE for _, start in found):
        return tuple(found), "an answer that is not in the document at its place"
    return tuple(found), ""


def _list(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _text(value: Any, key: str) -> str | None:
    found = value.get(key) if isinstance(value, dict) else None
    # Half a character cannot be written as UTF-8.
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else None


def _files(path: str | Path) -> Iterator[tuple[str, bytes]]:
    whole = Path(path).expanduser()
    archive = next((p for p in (whole, *whole.parents) if ARCHIVE.search(p.name)), None)
    if archive is None or not archive.is_file():
        for name in expand([path]):
            yield name, read_bytes(name)
        return
    pattern = "*.json" if archive == whole else whole.relative_to(archive).as_posix()
    found: dict[str, bytes] = {}
    size = 0
    try:
        with (
            reading(archive),
            open_stream(archive) as stream,
            tarfile.open(fileobj=stream, mode="r|") as members,
        ):
            for member in members:
                name = member.name.removeprefix("./")
                if member.isfile() and fnmatch.fnmatch(name, pattern):
                    size += member.size
                    if size > LIMIT:
                        raise UserError(f"{path}: more than {LIMIT:,} bytes, unpacked")
                    file: Any = members.extractfile(member)
                    found[name] = file.read()
    except tarfile.TarError as error:
        raise UserError(f"{archive}: cannot be read: {error}") from None
    if not found:
        raise UserError(f"{path}: the archive has no file {pattern}")
    for name in sorted(found):
        yield f"{archive}/{name}", found[name]


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a document as the model reads it: CLS, question, SEP, part, SEP.

    Attributes:
      question: index of the question. ids: tokens. border: index of the part's first token.
      first: number of that token in the document. start, end: first and last token of the answer,
        as indices into ids; 0 if it is not in the window.
    """

    question: int
    ids: np.ndarray
    border: int
    first: int
    start: int
    end: int


@final
class QuestionPlan(BucketPlan):
    """Batches of the windows of documents, of similar length together.

    A question and its document are one row where they fit into ``max_length``, else windows that
    begin every ``stride`` tokens (Devlin et al. 2019, appendix A.5 and the authors' code). An
    answer that ends within a token takes in the whole token; ``widened`` counts these, ``lost``
    the answers that no window holds. ``cut_rows`` are the indices of questions of more than
    ``max_question`` tokens, which are cut, and ``cut`` their number.
    """

    def __init__(
        self,
        questions: Questions,
        tokenizer: TextTokenizer,
        batch_size: int,
        max_length: int,
        stride: int,
        max_question: int,
        buckets: Sequence[int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self.questions, self.batch_size, self.pad_id = questions, batch_size, tokenizer.pad_id
        self.widened = self.lost = 0
        self.cut_rows: list[int] = []
        self.windows: list[Window] = []
        self._documents: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._ends = tokenizer.special("cls"), tokenizer.special("sep")
        self._between = between_pair(tokenizer)
        for number, one in enumerate(questions.items):
            if one.document not in self._documents:
                self._documents[one.document] = tokenizer.encode_offsets(one.document)
            asked = tokenizer.encode_ids(one.text)
            if len(asked) > max_question:
                self.cut_rows.append(number)
            self._cut(number, one, asked[:max_question], max_length, stride)
        self._rows = [window.ids for window in self.windows]
        lengths = np.asarray([len(row) for row in self._rows], np.int64)
        self._order = RowOrder(len(lengths), batch_size, seed, shuffle, lengths)
        self._buckets = Buckets(lengths, buckets, max_buckets)
        columns = [[w.question, w.border, w.first, w.start, w.end] for w in self.windows]
        self._fingerprint = array_fingerprint(
            np.concatenate(self._rows), lengths, np.asarray(columns, np.int64)
        )

    @property
    def cut(self) -> int:
        """Number of questions that are cut."""
        return len(self.cut_rows)

    def _cut(
        self, number: int, one: Question, asked: list[int], max_length: int, stride: int
    ) -> None:
        """Add the windows of one question."""
        ids, offsets = self._documents[one.document]
        (cls, sep), between = self._ends, self._between
        room = max_length - len(asked) - len(between) - 2
        if room < 1:
            raise UserError(
                f"training.max_length={max_length} leaves no room for a document behind a question "
                f"of {len(asked)} tokens: raise it, or lower task.max_question"
            )
        span = None if one.located is None else span_of(offsets, one.document, *one.located)
        if span is not None and one.located is not None:
            text = one.document[offsets[span[0], 0] : offsets[span[1], 1]].strip()
            self.widened += text != one.located[0].strip()
        held, border = False, 1 + len(asked) + len(between)
        for first in range(0, max(len(ids), 1), min(stride, room)):
            part = ids[first : first + room]
            start = end = 0
            if span is not None and first <= span[0] and span[1] < first + len(part):
                start, end = (border + place - first for place in span)
                held = True
            row = np.asarray([cls, *asked, *between, *part, sep], np.int32)
            self.windows.append(Window(number, row, border, first, start, end))
            if first + room >= len(ids):
                break
        self.lost += one.located is not None and not held

    def text_of(self, window: Window, start: int, end: int) -> tuple[str, int]:
        """Return the text of the document from one token of a window to another, and its place."""
        document = self.questions.items[window.question].document
        offsets = self._documents[document][1]
        first, last = (place - window.border + window.first for place in (start, end))
        begin, text = int(offsets[first, 0]), document[offsets[first, 0] : offsets[last, 1]]
        return text.strip(), begin + len(text) - len(text.lstrip())

    def offsets_of(self, window: Window) -> Int64[np.ndarray, "part 2"]:
        """Return the first and the end character of each token of the document in a window."""
        document = self.questions.items[window.question].document
        count = len(window.ids) - window.border - 1
        return self._documents[document][1][window.first : window.first + count]

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these windows.

        ``tokens``: int32 ``B T``. ``segments``: int32 ``B T``, 1 from the document on. ``valid``:
        bool ``B T``, false at padding. ``document``: bool ``B T``, where an answer may begin or
        end: tokens of the document, and the first one of the row, which stands for no answer.
        ``starts``, ``ends``: int32 ``B``, first and last token of the answer, 0 for none.
        ``rows``: int32 ``B``, the window's index, -1 for a padding row.
        """
        tokens, valid = pad_rows(self._rows, rows, self._buckets.of(rows), self.pad_id)
        column = np.arange(tokens.shape[1])
        real = rows >= 0
        some = [self.windows[row] if row >= 0 else None for row in rows]
        border = np.asarray([1 if w is None else w.border for w in some])[:, None]
        last = np.asarray([0 if w is None else len(w.ids) - 1 for w in some])[:, None]
        inside = (column == 0) | ((column >= border) & (column < last))
        return {
            "tokens": tokens,
            "segments": (valid & (column >= border)).astype(np.int32),
            "valid": valid,
            "document": inside,
            "starts": np.asarray([0 if w is None else w.start for w in some], np.int32),
            "ends": np.asarray([0 if w is None else w.end for w in some], np.int32),
            "counted": real,
            "rows": rows.astype(np.int32),
        }


def span_of(
    offsets: Int64[np.ndarray, "tokens 2"], document: str, text: str, start: int
) -> tuple[int, int] | None:
    """Return the first and the last token that hold a character of an answer; None: no token does.

    White space at the ends of the answer does not count.
    """
    begin = start + len(text) - len(text.lstrip())
    end = begin + len(text.strip())
    inside = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < end))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def read_predictions(path: str | Path) -> dict[str, str]:
    """Read a file of predictions of SQuAD's format: an object with a text for each id."""
    try:
        found = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise UserError(f"{path}: wanted an object with the text of an answer for each id")
    return found


def written_predictions(predictions: Mapping[str, Any]) -> str:
    """Return the content of a file of predictions of SQuAD's format."""
    return json.dumps(dict(predictions), ensure_ascii=False, indent=1) + "\n"
