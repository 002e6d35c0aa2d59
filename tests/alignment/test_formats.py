"""Files of links: every format gives the same links, and what is written is read again."""

import re

import numpy as np
import pytest

from attnzoo.alignment.aligner import Alignment
from attnzoo.alignment.breakdown import counts_by, tables
from attnzoo.alignment.formats import READERS, WRITERS, check_links
from attnzoo.alignment.links import Links
from attnzoo.alignment.scores import Counts, count_corpus, paired_bootstrap, score_corpus
from attnzoo.errors import UserError

# Pair 2 has no links. Sure: 0-0, 1-2; possible: 2-1. Formats without a distinction: all sure.
LINKS = [Links.of([(0, 0), (1, 2)], [(2, 1)]), Links.of([]), Links.of([(0, 1)])]
SURE = [Links.of(one.possible) for one in LINKS]
FILES = {
    "pharaoh": ["0-0 1-2:0.5 2?1", "", "0-1:1e-05"],
    "talp": ["1-1 2-3 3p2", "", "1-2"],
    "naacl": ["0001 1 1 S", "0001 2 3 S 0.9", "0001 3 2 P", "0001 3 0 S", "0003 1 2"],
    "blinker": ['<s snum="1">', "1 1", "2 3", "3 2", "0 4", "</s>", '<s snum="3">', "1 2", "</s>"],
    "a3": [
        "# Sentence pair (1) source length 3 target length 3 alignment score : 0.1", "x y z",
        "NULL ({ }) a ({ 1 }) b ({ 3 }) c ({ 2 })",
        "# Sentence pair (2) source length 1 target length 1 alignment score : 0.1", "x",
        "NULL ({ 1 }) a ({ })",
        "# Sentence pair (3) source length 1 target length 2 alignment score : 0.1", "x y",
        "NULL ({ 1 }) a ({ 2 })",
    ],
}  # fmt: skip


def test_every_reader_has_a_file_here() -> None:
    assert set(FILES) == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_readers_agree(name: str) -> None:
    wanted = LINKS if name in ("pharaoh", "talp", "naacl") else SURE
    assert READERS[name](FILES[name], "gold") == wanted
    turned = READERS[name](FILES[name], "gold", target_first=True)
    assert turned == [one.inverse() for one in wanted]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("pharaoh", ["0-0", "0_1"], "gold:2: link 1 is '0_1'"),
        ("talp", ["0-1"], "gold:1: link 1 is '0-1', but words count from 1"),
        ("naacl", ["1 1 1", "x 1 1"], "gold:2: 'x 1 1'"),
        ("naacl", ["1 1 1 Q"], "gold:1: 'Q', wanted S"),
        ("naacl", ["0 1 1"], "gold:1: pair 0"),
        ("blinker", ["1"], "gold:1: '1', wanted source word"),
        ("a3", ["x y", "z", "NULL"], "gold:1: 'x y', wanted '# Sentence pair"),
        ("a3", [FILES["a3"][0], "x", "NULL ({ }) a ({ 1 }) b"], "gold:3: 2 words with numbers"),
    ],
)
def test_a_wrong_line_is_named(name: str, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        READERS[name](lines, "gold")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("one_based", [False, True])
def test_what_is_written_is_read_again(name: str, one_based: bool) -> None:
    some = [
        Alignment(["a", "b", "c"], ["x", "y", "z"], {(0, 0): 0.93, (1, 2): 1.0, (2, 1): 1e-7}),
        Alignment([], ["x"]),
        Alignment(["a"], ["x", "y"], {(0, 1): 0.5}),
    ]
    lines = list(WRITERS[name](some, one_based=one_based))
    reader = READERS["a3" if name == "a3" else "pharaoh"]
    order = {} if name == "a3" else {"one_based": one_based}
    assert reader(lines, "own", **order) == [Links.of(one.links) for one in some]


def test_links_beyond_the_text_are_refused() -> None:
    check_links(LINKS, [(3, 3), (0, 0), (1, 2)], "gold")
    with pytest.raises(UserError, match=r"gold: pair 3, .*link 0-1 is outside"):
        check_links(LINKS, [(3, 3), (0, 0), (1, 1)], "gold")
    with pytest.raises(UserError, match="gold: links of 3 pairs, the text has 2"):
        check_links(LINKS, [(3, 3), (0, 0)], "gold")


def random_corpus(seed: int = 0):
    generator = np.random.default_rng(seed)
    sides: tuple[list, list] = ([], [])
    references, links = [], []
    for _ in range(23):
        S, T = generator.integers(2, 17, size=2)
        sides[0].append([f"s{generator.integers(9)}" for _ in range(S)])
        sides[1].append([f"t{generator.integers(9)}" for _ in range(T)])
        sure, more, own = (
            {(int(generator.integers(S)), int(generator.integers(T))) for _ in range(n)}
            for n in (4, 2, 5)
        )
        references.append(Links.of(sure, more))
        links.append(own | set(list(sure)[:2]))
    return sides, references, links


@pytest.mark.parametrize("restrict", [False, True])
def test_groups_add_up_to_the_whole(restrict: bool) -> None:
    sides, references, links = random_corpus()
    tags = [[word[-1] for word in words] for words in sides[1]]
    whole = score_corpus(links, references, restrict=restrict)
    groupings = tables(*sides, references, tags)
    assert len(groupings) == 6
    for group in groupings.values():
        counts = counts_by(group, links, references, restrict=restrict)
        assert len(counts) > 1
        assert sum(counts.values(), Counts()) == whole


def test_groups_by_hand() -> None:
    sides = [["a", "b"]], [["x", "x"]]
    groups = {k.split()[0]: g(0, (0, 1)) for k, g in tables(*sides, [Links.of([(0, 1)])]).items()}
    assert groups["words"].split() == ["1", "..", "10"]
    assert groups["distance"] == "0.4 .."
    assert groups["source"].split() == ["1", "..", "1"]
    assert groups["target"].split() == ["2", "..", "5"]
    assert groups["reference"] == "one to one"


def test_a_paired_bootstrap_sees_what_single_intervals_do_not() -> None:
    # The second aligner lacks one right link in every sentence, however hard the sentence is.
    first, second = [], []
    for k in range(40):
        right = k % 10 + 2
        first.append(Counts(hypothesis=12, sure=12, in_possible=right, in_sure=right))
        second.append(Counts(hypothesis=12, sure=12, in_possible=right - 1, in_sure=right - 1))
    found = paired_bootstrap(first, second)
    assert found.mean == pytest.approx(-1 / 12)
    assert (found.low, found.high) == pytest.approx((-1 / 12, -1 / 12))
    assert found.p_value == 0
    same = paired_bootstrap(first, first)
    assert same.mean == 0
    assert same.p_value == 1
    turned = paired_bootstrap(second, first)
    assert turned.mean == pytest.approx(1 / 12)
    with pytest.raises(ValueError, match="40 and 39 counts"):
        paired_bootstrap(first, second[1:])
    assert count_corpus([{(0, 0)}], [Links.of([(0, 0)])])[0].aer == 0
