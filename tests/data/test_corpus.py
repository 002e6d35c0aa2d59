"""Corpora, their reports and fingerprints, and the way from a config to one."""

from types import SimpleNamespace

import pytest

from attnzoo.alignment.links import Links
from attnzoo.config.data import CldrConfig
from attnzoo.data.corpus import Corpus, Report, Splits, load_corpus
from attnzoo.errors import UserError

LINKS = [Links.of([(0, 0)]), Links.of([(0, 1), (1, 0)], [(1, 1)]), Links.of([])]


def corpus(**changes: object) -> Corpus:
    fields = {
        "source": ["a", "b c", "d"],
        "target": ["A", "C B", "D"],
        "links": LINKS,
        "source_language": "xx",
        "target_language": "yy",
        "name": "three",
    }
    return Corpus(**(fields | changes))


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="source has 3 sentences, target has 2"):
        corpus(target=["A", "B"])
    with pytest.raises(ValueError, match="links has 1 entries for 3"):
        corpus(links=LINKS[:1])


def test_select_keeps_pairs_and_links_together() -> None:
    chosen = corpus().select([2, 1])
    assert chosen == corpus(
        source=["d", "b c"], target=["D", "C B"], links=[Links.of([]), LINKS[1]]
    )
    assert len(corpus(links=None).select(range(2))) == 2
    assert corpus(links=None).select([0]).links is None


def test_fingerprint_changes_with_every_part_of_the_content_and_nothing_else() -> None:
    print_of = corpus().fingerprint()
    assert corpus(name="other").fingerprint() == print_of
    changed = [
        corpus(source=["a", "b", "c d"]),  # a space across a boundary
        corpus(target=["A", "C B", "d"]),
        corpus(source=["a", "d", "b c"]),
        corpus(links=None),
        corpus(links=[LINKS[0], Links.of([(0, 1), (1, 0), (1, 1)]), LINKS[2]]),
        Corpus(["a", "b c"], ["dA", "C B"]),
        Corpus(["a", "b cd"], ["A", "C B"]),
    ]
    prints = {print_of, *(each.fingerprint() for each in changed)}
    assert len(prints) == len(changed) + 1
    splits = Splits(corpus(), corpus(links=None), corpus())
    assert splits.fingerprint() != Splits(corpus(), corpus(), corpus(links=None)).fingerprint()


def test_fingerprint_is_a_known_value() -> None:
    # Runs compare it months later: it may not change with a version of ours.
    assert corpus().fingerprint() == "32b7a6452de855ae15e6e157aa5bde6f"


def test_report_counts_everything_and_names_the_first_places() -> None:
    report = Report("pairs.tsv", read=1_234)
    for line in range(1, 8):
        report.skip("empty sentence", f"pairs.tsv:{line}")
    report.skip("not UTF-8", "pairs.tsv:99")
    assert report.kept == 1_226
    assert report.lines() == [
        "pairs.tsv: 1,226 of 1,234 pairs",
        "pairs.tsv: skipped 7: empty sentence (pairs.tsv:1, pairs.tsv:2, pairs.tsv:3, "
        "pairs.tsv:4, pairs.tsv:5, ...)",
        "pairs.tsv: skipped 1: not UTF-8 (pairs.tsv:99)",
    ]


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'sql' is none of cldr, files, hub, synthetic"):
        load_corpus(SimpleNamespace(kind="sql"))


def test_embedded_corpus_is_reached_by_config() -> None:
    with pytest.raises(UserError, match="xq"):
        load_corpus(CldrConfig(target_locale="xq"))
