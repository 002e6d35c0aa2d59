"""The same text gives the same examples, whatever it comes through."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from attnzoo.cli import translate
from attnzoo.config.data import (
    FilePartConfig,
    FilesConfig,
    HubSourceConfig,
    LabelledTextConfig,
    TaggedTextConfig,
    TextConfig,
)
from attnzoo.data import sources
from attnzoo.data.corpus import load_corpus
from attnzoo.data.documents import load_text
from attnzoo.data.files import Reading, read_pair, read_table
from attnzoo.data.labelled import load_labelled
from attnzoo.data.tables import read_records
from attnzoo.data.tagged import read_conll
from attnzoo.errors import UserError

# Words that readers take for missing values, kinds of space, separators, quotes, an inner mark.
TEXTS = [
    "plain é text",
    "null",
    "NA",
    "nan",
    "007",
    "one\u00a0two\u3000three",
    "one\u2028two\u2029three\x85four",
    "one\x0btwo\x0cthree\x1cfour\x1dfive\x1esix\x1fseven",
    "zero\u200bwidth\ufeffmark",
    'a "quoted, word',
    "#no comment",
    "\U0001f600 e\u0301",
]
BROKEN = "two\nlines"  # only where a line end can be quoted
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "two gzips": lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]),
}
# How the bytes are written, and what the reader is told.
ENCODINGS = (
    ("utf-8", "utf-8"),
    ("utf-8-sig", "utf-8"),
    ("utf-8-sig", "latin-1"),  # the mark decides
    ("utf-16", "utf-8"),
    ("utf-32", "utf-8"),
    ("utf-16-be", "utf-16-be"),
)


def lines_of(file_format: str, end: str) -> str:
    """A file of the format with the texts, without the last line end."""
    if file_format == "jsonl":
        rows = [json.dumps({"text": t, "label": "x"}, ensure_ascii=False) for t in TEXTS]
    elif file_format == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([("text", "label"), *((t, "x") for t in TEXTS)])
        rows = out.getvalue().split("\n")[:-1]
    elif file_format == "tsv":
        rows = ["text\tlabel", *(f"{t}\tx" for t in TEXTS)]
    elif file_format == "conll":
        rows = [f"{t.split(' ')[0]}\tx" for t in TEXTS]
    else:
        rows = TEXTS
    return end.join(rows)


def labelled(path: Path, file_format: str, encoding: str) -> list[str]:
    config = LabelledTextConfig(train=(path,), format=file_format, encoding=encoding)
    return load_labelled(config).train.first


def stdin_lines(path: Path, encoding: str) -> list[str]:
    with sources.open_stream(path) as stream:
        return [sources.decode(line) for line in sources.stream_lines(stream, encoding)]


def by_blocks(path: Path, encoding: str, size: int) -> list[str]:
    found = list(sources.blocks(path, size, encoding))
    assert all(block.endswith(b"\n") for block in found[:-1])
    return b"".join(found).decode().removesuffix("\n").split("\n")


READERS: dict[str, tuple[str, Callable[[Path, str], list[str]]]] = {
    "pair": ("txt", lambda p, e: read_pair(p, p, None, Reading(encoding=e))[0].source),
    "table": ("tsv", lambda p, e: read_table(p, reading=Reading(encoding=e))[0].source[1:]),
    "lines": (
        "txt",
        lambda p, e: (
            load_text(TextConfig(train=(p,), documents="lines", encoding=e)).train.documents
        ),
    ),
    "file": (
        "txt",
        lambda p, e: (
            load_text(TextConfig(train=(p,), encoding=e))
            .train.documents[0]
            .removesuffix("\n")
            .split("\n")
        ),
    ),
    "stream": ("txt", stdin_lines),
    "blocks of 1": ("txt", lambda p, e: by_blocks(p, e, 1)),
    "blocks of 37": ("txt", lambda p, e: by_blocks(p, e, 37)),
    **{f: (f, lambda p, e, f=f: labelled(p, f, e)) for f in ("tsv", "csv", "jsonl")},
    "conll": ("conll", lambda p, e: read_conll(p, 0, -1, e)[0][0]),
}


@pytest.mark.parametrize("pack", [*PACK, "zip", "memory"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_every_file(tmp_path: Path, reader: str, pack: str) -> None:
    file_format, read = READERS[reader]
    wanted = [t.split(" ")[0] for t in TEXTS] if reader == "conll" else TEXTS
    cases = itertools.product(ENCODINGS, ("\n", "\r\n", "\r"), (False, True))
    for (written, told), end, last in cases:
        data = (lines_of(file_format, end) + end * last).encode(written)
        path = tmp_path / "file"
        if pack == "zip":
            with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("folder/file", data)
            path = tmp_path / "z.zip" / "folder" / "file"
        elif pack == "memory":
            path = Path("memory://folder/file")
            with fsspec.open("memory://folder/file", "wb") as stream:
                stream.write(data)
        else:
            path.write_bytes(PACK[pack](data))
        assert read(path, told) == wanted, (written, end, last)


@pytest.mark.parametrize("builder", ["csv", "json", "parquet", "text"])
def test_builders_of_the_hub(tmp_path: Path, builder: str) -> None:
    texts = TEXTS if builder == "text" else [*TEXTS, BROKEN]
    for number, (mark, end) in enumerate((("", "\n"), ("\ufeff", "\r\n"))):
        path = tmp_path / f"{number}.{builder}"
        rows = [(text, "x") for text in texts]
        if builder == "parquet":
            columns = dict(zip(("text", "label"), map(list, zip(*rows, strict=True)), strict=True))
            pyarrow.parquet.write_table(pa.table(columns), path)
        elif builder == "csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                file.write(mark)
                csv.writer(file, lineterminator=end).writerows([("text", "label"), *rows])
        else:
            dump = json.dumps if builder == "json" else lambda row: row["text"]
            lines = [dump({"text": text, "label": label}) for text, label in rows]
            path.write_text(mark + end.join(lines), encoding="utf-8", newline="")
        split = {"train_split": "train", "validation_split": None, "test_split": None}
        hub = HubSourceConfig(name=builder, data_files={"train": path}, **split)
        cache = tmp_path / "cache"
        if builder == "text":
            found = load_text(TextConfig(hub=hub), cache).train.documents
        else:
            found = load_labelled(LabelledTextConfig(hub=hub), cache).train.first
        assert found == texts
        if builder != "text":
            read = labelled(path, "jsonl" if builder == "json" else builder, "utf-8")
            assert read == texts


@pytest.mark.parametrize(
    ("file_format", "content"),
    [
        (
            "jsonl",
            '{"text": null, "label": 1}\n{"text": NaN, "label": 1}\n{"text": "", "label": 1}',
        ),
        ("csv", 'text,label\n"",1\n ,1\n"\n",1\n'),
        ("tsv", "text\tlabel\n\t1\n \t1\n\u3000\t1\n"),
        ("parquet", [None, "", " "]),
    ],
)
def test_missing_text_is_skipped_and_too_much_of_it_refused(
    tmp_path: Path, file_format: str, content: str | list
) -> None:
    path = tmp_path / "file"
    good = ["one", "two", "three"]
    if isinstance(content, list):
        table = pa.table({"text": [*good, *content], "label": ["1"] * 6})
        pyarrow.parquet.write_table(table, path)
    else:
        row = {"jsonl": '\n{{"text": "{}", "label": 1}}', "csv": "{},1\n", "tsv": "{}\t1\n"}
        path.write_text(content + "".join(map(row[file_format].format, good)), encoding="utf-8")
    config = {"train": (path,), "format": file_format}
    splits = load_labelled(LabelledTextConfig(**config, max_skipped=0.5))
    assert splits.train.first == good
    assert splits.reports[0].skipped == {"blank text": 3}
    with pytest.raises(UserError, match="3 of 6 examples cannot be used, more than"):
        load_labelled(LabelledTextConfig(**config))


def test_an_example_without_a_class_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"text": "a", "label": null}\n{"text": "b", "label": 0}', encoding="utf-8")
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"], "label": [None, 0]}), f"{path}.p")
    split = {"train_split": "train", "validation_split": None, "test_split": None}
    hub = HubSourceConfig(name="parquet", data_files={"train": Path(f"{path}.p")}, **split)
    for config in ({"train": (path,), "format": "jsonl"}, {"hub": hub}):
        splits = load_labelled(LabelledTextConfig(**config, max_skipped=0.5), tmp_path / "cache")
        assert (splits.train.first, splits.train.names) == (["b"], ("0",))
        assert splits.reports[0].skipped == {"no class": 1}
    path.write_text('{"text": "\\ud800", "label": 0}', encoding="utf-8")
    with pytest.raises(UserError, match=r"file:1: not JSON: .*surrogates not allowed"):
        labelled(path, "jsonl", "utf-8")


@pytest.mark.parametrize("kind", [FilesConfig, TextConfig, LabelledTextConfig, TaggedTextConfig])
def test_an_address_is_shown_with_both_slashes(kind: type) -> None:
    """A Path has one of them."""
    path = Path("memory://none/a.tsv")
    train = FilePartConfig(table=path) if kind is FilesConfig else (path,)
    with pytest.raises(UserError, match=r"^memory://none/a\.tsv: no such file"):
        load_corpus(kind(train=train))


def test_a_latin_1_file_is_refused_until_its_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes("un été\ta summer\nun chat\ta cat\n".encode("latin-1"))
    part = {"train": FilePartConfig(table=path)}
    with pytest.raises(UserError, match=r"1 of 2 pairs .*not UTF-8 .*:1.*`encoding: cp1252`"):
        load_corpus(FilesConfig(**part))
    splits = load_corpus(FilesConfig(**part, encoding="latin-1"))
    assert splits.train.source == ["un été", "un chat"]
    assert load_corpus(FilesConfig(**part, max_skipped=0.5)).train.source == ["un chat"]
    for read in (
        sources.read_text,
        lambda p: list(read_records(p, "tsv", header=False, encoding="utf-8")),
    ):
        with pytest.raises(UserError, match=r"pairs.tsv:1: not UTF-8 .*`encoding: cp1252`"):
            read(path)
    with pytest.raises(UserError, match="encoding 'klingon' is not known"):
        load_corpus(FilesConfig(**part, encoding="klingon"))


def test_bad_bytes_of_any_encoding_spoil_their_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for encoding, bad in (("utf-8", b"\xff"), ("cp1252", b"\x81"), ("utf-16-le", b"\x00\xd8")):
        lines = [text.encode(encoding) for text in ("good", "last")]
        lines.insert(1, bad)
        path.write_bytes("\n".encode(encoding).join(lines))
        found = sources.read_lines(path, encoding)
        assert [found[0], found[2]] == [b"good", b"last"]
        with pytest.raises(UnicodeDecodeError):
            sources.decode(found[1])


def test_every_line_keeps_its_number_where_all_are_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_bytes(b"one\n\nthree\ncaf\xe9\nfive\n")
    target.write_bytes(b"un\ndeux\n\nquatre\ncinq\n")
    corpus, report = read_pair(source, target, None, Reading(keep_all=True))
    assert corpus.source == ["one", "", "three", "", "five"]
    assert corpus.target == ["un", "deux", "", "quatre", "cinq"]
    assert report.skipped == {"empty sentence": 2, "not UTF-8": 1}


def test_what_is_no_text_and_what_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes("UTF-16 without a mark".encode("utf-16-le"))
    with pytest.raises(UserError, match="encoding: utf-16-le"):
        sources.read_text(path)
    path.write_bytes(gzip.compress(bytes(10_000)))
    with pytest.raises(UserError, match="more than 9,999 bytes, unpacked"):
        sources.read_bytes(path, 9_999)
    monkeypatch.setattr(sources, "LIMIT", 99)
    path.write_bytes(gzip.compress(b"a" * 10_000))
    for read in (lambda: list(sources.blocks(path, 10)), lambda: stdin_lines(path, "utf-8")):
        with pytest.raises(UserError, match="a line of more than 99 bytes"):
            read()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a pipe or device, wanted a file"):
        sources.read_bytes(tmp_path / "pipe")


def test_places_and_fields_of_records(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('a,b\n"one\ntwo",1\nthree,2\n', encoding="utf-8")
    found = [(place.rpartition(":")[2], row["a"]) for place, row in sources.records(path, "csv")]
    assert found == [("2", "one\ntwo"), ("4", "three")]
    path.write_text('{"t": {"en": "a", "de": null}, "t.fr": "b"}', encoding="utf-8")
    (record,) = sources.records(path, "jsonl", ["t.en", "t.de", "t.fr"])
    assert record[1] == {"t.en": "a", "t.de": None, "t.fr": "b"}
    with pytest.raises(UserError, match=r"file:1: no field 't.es'.*it has t, t.fr"):
        list(sources.records(path, "jsonl", ["t.es"]))


def test_what_a_list_of_files_means(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.zst", "deep/c.txt.gz", "README.md", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("x/d.tsv", "")
    with fsspec.open("memory://expand/e.txt", "wb"):
        pass
    base = str(tmp_path)
    cases = {
        base: ["a.jsonl.zst", "b.txt", "deep/c.txt.gz"],
        f"{base}/*.txt": ["b.txt"],
        f"{base}/**/c*": ["deep/c.txt.gz"],
        f"{base}/z.zip": ["z.zip/x/d.tsv"],
        f"{base}/README.md": ["README.md"],
    }
    for spec, names in cases.items():
        found = [path.removeprefix(f"{base}/") for path in sources.expand([spec])]
        assert [name for name in found if name != ".hidden.txt"] == names
    for spec in ("memory://expand", "memory://expand/*.txt", "memory://expand/e.txt"):
        (found,) = sources.expand([spec])
        assert sources.read_bytes(found) == b""
        assert sources.identity(found)["size"] == 0
    with pytest.raises(UserError, match="no file there"):
        sources.expand([f"{base}/none*"])
    with pytest.raises(UserError, match="none: no such file"):
        sources.read_bytes("memory://none")


def test_standard_input_is_read_as_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data = "\r\n".join(TEXTS).encode("utf-16")
    stdin = types.SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
    monkeypatch.setattr(translate.sys, "stdin", stdin)
    ((first, lines),) = translate._chunks(None)
    assert first == 1
    assert [sources.decode(line) for line in lines] == TEXTS
