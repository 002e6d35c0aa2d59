"""Copy, reverse and sort: targets and links that can be worked out by hand."""

import subprocess
import sys

import pytest

from attnzoo.alignment.links import Links
from attnzoo.config.data import SyntheticConfig
from attnzoo.data.corpus import Splits, load_corpus
from attnzoo.data.synthetic import build_synthetic
from attnzoo.errors import UserError

SIZES = {"train": 23, "validation": 5, "test": 7}


def build(task: str, **changes: int) -> Splits:
    settings = {"symbols": 13, "min_length": 2, "max_length": 5, "seed": 3} | SIZES | changes
    return build_synthetic(task, **settings)


@pytest.mark.parametrize("task", ["copy", "reverse", "sort"])
def test_targets(task: str) -> None:
    make = {"copy": list, "reverse": lambda words: words[::-1], "sort": sorted}[task]
    splits = build(task)
    for part in (splits.train, splits.validation, splits.test):
        for source, target in zip(part.source, part.target, strict=True):
            assert target.split() == make(source.split())


def test_links() -> None:
    # One symbol of many: three copies of "0" may have gone anywhere, and nothing is sure.
    same = build("sort", symbols=1, min_length=3, max_length=8, train=1, validation=1, test=1)
    for source, links in zip(same.train.source, same.train.links or [], strict=True):
        length = len(source.split())
        assert links == Links.of([], [(i, j) for i in range(length) for j in range(length)])
    for task, expected in (
        ("copy", lambda n, i: i),
        ("reverse", lambda n, i: n - 1 - i),
    ):
        corpus = build(task).train
        for source, links in zip(corpus.source, corpus.links or [], strict=True):
            n = len(source.split())
            assert links == Links.of((i, expected(n, i)) for i in range(n))


def test_sort_links_join_equal_words_and_are_sure_for_single_ones() -> None:
    corpus = build("sort", train=499).train
    doubles = 0
    for source, target, links in zip(corpus.source, corpus.target, corpus.links or [], strict=True):
        words, ordered = source.split(), target.split()
        equal = {(i, j) for i, a in enumerate(words) for j, b in enumerate(ordered) if a == b}
        assert links.possible == equal
        assert links.sure == {(i, j) for i, j in equal if words.count(words[i]) == 1}
        doubles += len(links.sure) < len(links.possible)
    assert doubles > 50


def test_no_source_twice_and_lengths_within_bounds() -> None:
    splits = build("copy")
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == list(SIZES.values())
    sources = [source for part in parts for source in part.source]
    assert len(set(sources)) == len(sources)
    assert {len(source.split()) for source in sources} == {2, 3, 4, 5}
    assert {word for source in sources for word in source.split()} == {
        f"{symbol:02}" for symbol in range(13)
    }


def test_the_same_in_another_process_and_another_for_another_seed() -> None:
    program = (
        "from attnzoo.data.synthetic import build_synthetic as b;"
        "print(b('sort', symbols=13, min_length=2, max_length=5, seed=3, train=23, validation=5,"
        "test=7).fingerprint())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == build("sort").fingerprint()
    assert build("sort", seed=4).fingerprint() != build("sort").fingerprint()


def test_more_than_there_is_and_senseless_settings() -> None:
    # 2 symbols, length 1 to 3: 2 + 4 + 8 = 14 sequences, of which at most 7 are taken.
    small = {"symbols": 2, "min_length": 1, "max_length": 3, "validation": 1, "test": 1}
    assert len(build("copy", train=5, **small).train) == 5
    with pytest.raises(UserError, match="8 pairs are wanted, but there are only 14 sequences"):
        build("copy", train=6, **small)
    with pytest.raises(ValueError, match="task='swap' is none of copy, reverse, sort"):
        build("swap")
    with pytest.raises(ValueError, match="min_length=3, max_length=2"):
        build("copy", min_length=3, max_length=2)


def test_by_config() -> None:
    splits = load_corpus(SyntheticConfig(task="reverse", train=11, validation=3, test=2, seed=5))
    assert (len(splits.train), splits.train.name) == (11, "reverse")
