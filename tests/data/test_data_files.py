"""Parallel text in files: what is read, what is skipped and counted, what stops the run."""

import gzip
from pathlib import Path

import pytest

from attnzoo.alignment.links import Links
from attnzoo.config.data import FilePartConfig, FilesConfig
from attnzoo.data.corpus import load_corpus
from attnzoo.data.files import Reading, read_pair, read_table
from attnzoo.data.sources import read_lines
from attnzoo.errors import UserError


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(x.encode() if isinstance(x, str) else x for x in lines) + b"\n")
    return path


def error_of(call, *arguments, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_two_files_and_links(tmp_path: Path) -> None:
    source = write(tmp_path / "a.en", "the house", "I sleep")
    target = write(tmp_path / "a.fr", "la maison", "je dors")
    links = write(tmp_path / "a.links", "0-0 1-1", "0?0 1p1 0-1")
    corpus, report = read_pair(source, target, links, Reading(source_language="en"))
    assert corpus.source == ["the house", "I sleep"]
    assert corpus.target == ["la maison", "je dors"]
    assert corpus.links == [
        Links.of([(0, 0), (1, 1)]),
        Links.of([(0, 1)], [(0, 0), (1, 1)]),
    ]
    assert (corpus.source_language, report.read, report.kept) == ("en", 2, 2)
    assert read_pair(source, target)[0].links is None


def test_links_that_name_the_target_first_and_count_from_one(tmp_path: Path) -> None:
    source = write(tmp_path / "a.en", "one two three")
    target = write(tmp_path / "a.fr", "un deux")
    links = write(tmp_path / "a.links", "2-3 1?1")
    reading = Reading(target_first=True, one_based=True)
    corpus, _ = read_pair(source, target, links, reading)
    assert corpus.links == [Links.of([(2, 1)], [(0, 0)])]


def test_table_with_chosen_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "id7\tun chat\ta cat\t0-0 1-1", 'id8\t"x\t"y z"\t')
    corpus, _ = read_table(path, Reading(columns=(2, 1, 3)))
    assert corpus.source == ["a cat", '"y z"']  # no quoting: quotes are characters
    assert corpus.target == ["un chat", '"x']
    assert corpus.links == [Links.of([(0, 0), (1, 1)]), Links.of([])]


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    packed = tmp_path / "packed.txt"
    packed.write_bytes(gzip.compress(b"a\nb\n"))
    plain = write(tmp_path / "plain.gz", "a", "b")
    assert read_lines(packed) == read_lines(plain) == [b"a", b"b"]


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028still one\x0b\x1c\r\ntwo\x85 two".encode())
    assert [line.decode() for line in read_lines(path)] == [
        "one\u2028still one\x0b\x1c",
        "two\x85 two",
    ]


def test_single_bad_lines_are_skipped_counted_and_named(tmp_path: Path) -> None:
    long = " ".join(["word"] * 10_000)
    source = write(tmp_path / "s", "good", "", "good", b"caf\xe9", long, "good", "last")
    target = write(tmp_path / "t", "bon", "vide", " \t ", "café", "long", b"\xff\xfe", "fin")
    links = write(tmp_path / "l", "0-0", "", "", "0-0", "7-0", "0-0", "0-0")
    corpus, report = read_pair(source, target, links)
    assert corpus.source == ["good", "last"]
    assert corpus.target == ["bon", "fin"]
    assert corpus.links == [Links.of([(0, 0)])] * 2
    assert report.read == 7
    assert report.skipped == {"empty sentence": 2, "not UTF-8": 2, "more than 1,000 words": 1}
    assert report.places == {
        "empty sentence": [f"{source}:2", f"{target}:3"],
        "not UTF-8": [f"{source}:4", f"{target}:6"],
        "more than 1,000 words": [f"{source}:5"],
    }


def test_the_word_limit_is_inclusive(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "a b c\tx", "x\ta b c d")
    corpus, report = read_table(path, reading=Reading(max_words=3))
    assert corpus.source == ["a b c"]
    assert report.places == {"more than 3 words": [f"{path}:2"]}


def test_a_table_line_with_too_few_columns_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "a\tb", "only one", "c\td")
    corpus, report = read_table(path)
    assert corpus.target == ["b", "d"]
    assert report.places == {"too few columns": [f"{path}:2"]}


def test_files_of_different_length_name_both_counts(tmp_path: Path) -> None:
    source, target = write(tmp_path / "s", "a", "b", "c"), write(tmp_path / "t", "A", "B")
    links = write(tmp_path / "l", "", "", "", "")
    message = error_of(read_pair, source, target)
    assert f"{source} has 3 lines, {target} has 2 lines" in message
    assert f"{links} has 4 lines" in error_of(read_pair, source, source, links)


@pytest.mark.parametrize(
    ("links", "wanted"),
    [
        ("0-0 2-0", "link 2-0 is outside a pair of 2 source words and 3 target words"),
        ("0-3", "link 0-3 is outside"),
        ("0-0 1:1", "link 2 is '1:1'"),
        ("-1-0", "link 1 is '-1-0'"),
    ],
)
def test_a_bad_link_names_file_and_line(tmp_path: Path, links: str, wanted: str) -> None:
    path = write(tmp_path / "t.tsv", "a\tb\t0-0", f"a b\tA B C\t{links}")
    message = error_of(read_table, path, Reading(columns=(0, 1, 2)))
    assert message.startswith(f"{path}:2: ")
    assert wanted in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert error_of(read_lines, tmp_path / "none") == f"{tmp_path / 'none'}: no such file"
    assert str(tmp_path) in error_of(read_lines, tmp_path)  # a directory
    packed = gzip.compress(b"sentence\n" * 1_000)
    cut = tmp_path / "cut.gz"
    cut.write_bytes(packed[: len(packed) // 2])
    assert error_of(read_lines, cut).startswith(f"{cut}: cannot be read: ")
    flipped = tmp_path / "flipped.gz"
    flipped.write_bytes(packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:])
    assert error_of(read_lines, flipped).startswith(f"{flipped}: cannot be read: ")


def test_a_file_without_one_usable_pair_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "latin1.tsv"
    path.write_bytes("é\tb\n".encode("latin-1"))
    assert "no usable sentence pair" in error_of(read_table, path)
    empty = tmp_path / "empty.tsv"
    empty.write_bytes(b"")
    assert "no usable sentence pair (no lines)" in error_of(read_table, empty)


def test_parts_by_config(tmp_path: Path) -> None:
    table = write(tmp_path / "t.tsv", "a\tA", "b\tB", "c\tC")
    pair = FilePartConfig(source=write(tmp_path / "s", "d"), target=write(tmp_path / "t", "D"))
    splits = load_corpus(FilesConfig(train=FilePartConfig(table=table), test=pair, limit=2))
    assert splits.train.source == ["a", "b"]
    assert splits.test.target == ["D"]
    assert len(splits.validation) == 0
    assert [report.read for report in splits.reports] == [3, 1]


@pytest.mark.parametrize(
    ("folder", "files", "counts"),
    [
        (
            "bible-en-es",
            {"source_column": 1, "target_column": 2, "links_column": 3},
            (1_000, 2_000),
        ),
        ("tatoeba-en-fr", {}, (1_499, 2_886)),
    ],
)
def test_shared_tables(shared: Path, folder: str, files: dict, counts: tuple[int, int]) -> None:
    parts = {
        part: FilePartConfig(table=shared / "data" / folder / f"{part}.tsv.gz")
        for part in ("validation", "test")
    }
    splits = load_corpus(FilesConfig(**parts, **files))
    assert (len(splits.validation), len(splits.test)) == counts
    assert not any(report.skipped for report in splits.reports)


def test_shared_hansards_have_the_published_number_of_links(shared: Path) -> None:
    folder = shared / "data" / "hansards-dev37"
    part = FilePartConfig(
        source=folder / "hansards37.e",
        target=folder / "hansards37.f",
        links=folder / "hansards37.a",
    )
    corpus = load_corpus(FilesConfig(test=part, links_reversed=True)).test
    assert corpus.links is not None
    assert sum(len(links.sure) for links in corpus.links) == 338
    assert sum(len(links.possible - links.sure) for links in corpus.links) == 1_446
