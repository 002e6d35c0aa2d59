"""The embedded corpus: hand-made expected alignments, and what every corpus must satisfy."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from babel import Locale

from attnzoo.alignment.links import Links, parse_pharaoh
from attnzoo.config.data import CldrConfig
from attnzoo.data.cldr import build as module
from attnzoo.data.cldr import build_cldr, describe
from attnzoo.data.cldr.build import SEEN_IN_TRAINING, translate
from attnzoo.data.cldr.phrases import (
    Annotated,
    Interval,
    Measure,
    Moment,
    Money,
    Name,
    Percent,
    Phrase,
    Price,
    Relative,
    Series,
)
from attnzoo.data.cldr.render import Renderer
from attnzoo.data.cldr.sample import Sampler
from attnzoo.data.cldr.tokens import Token, links_between, split_words
from attnzoo.data.corpus import Corpus
from attnzoo.errors import UserError

DAY = datetime(2015, 9, 8, 14, 30)
FRENCH, GERMAN, SPANISH = (Name("language", code) for code in ("fr", "de", "es"))


def _pair(phrase: Phrase, source: str, target: str) -> tuple[str, str, Links]:
    return translate(phrase, Renderer(Locale.parse(source)), Renderer(Locale.parse(target)))


# Links are in Pharaoh format: i-j is sure, i?j is possible only.
EXPECTED = [
    # The date of the task: the day and the month change places, two commas have no counterpart.
    (
        Moment("full", DAY),
        "en-fr",
        "Tuesday , September 8 , 2015",
        "mardi 8 septembre 2015",
        "0-0 2-2 3-1 5-3",
    ),
    # The comma after the weekday has a counterpart, the German dot has none.
    (
        Moment("full", DAY),
        "en-de",
        "Tuesday , September 8 , 2015",
        "Dienstag , 8 . September 2015",
        "0-0 1-1 2-4 3-2 5-5",
    ),
    (
        Moment("long", DAY),
        "en-es",
        "September 8 , 2015",
        "8 de septiembre de 2015",
        "0-2 1-0 3-4",
    ),
    # Year first; 年, 月 and 日 belong to the pattern, not to the fields.
    (
        Moment("full", DAY),
        "en-ja",
        "Tuesday , September 8 , 2015",
        "2015 年 9 月 8 日 火曜日",
        "0-6 2-2 3-4 5-0",
    ),
    (
        Moment("numeric", DAY),
        "en-de",
        "9 / 8 / 2015",
        "8 . 9 . 2015",
        "0-2 1-1 2-0 3-3 4-4",
    ),
    # 14 says 2, surely, and takes part in saying PM.
    (Moment("time", DAY), "en-fr", "2 : 30 PM", "14 : 30", "0-0 1-1 2-2 3?0"),
    (
        Interval("date", DAY, DAY.replace(day=10)),
        "en-fr",
        "September 8 – 10 , 2015",
        "8 – 10 septembre 2015",
        "0-3 1-0 2-1 3-2 5-4",
    ),
    (
        Interval("date", DAY, DAY.replace(year=2016, month=1, day=2)),
        "en-tr",
        "September 8 , 2015 – January 2 , 2016",
        "8 Eylül 2015 – 2 Ocak 2016",
        "0-1 1-0 3-2 4-3 5-5 6-4 8-6",
    ),
    (Measure("length-kilometer", 1), "en-fr", "1 kilometer", "1 kilomètre", "0-0 1-1"),
    (Measure("length-kilometer", 3), "en-fr", "3 kilometers", "3 kilomètres", "0-0 1-1"),
    (Measure("length-kilometer", 3), "en-ru", "3 kilometers", "3 километра", "0-0 1-1"),
    (Measure("length-kilometer", 5), "en-ru", "5 kilometers", "5 километров", "0-0 1-1"),
    # French counts 1.5 as singular.
    (
        Measure("length-kilometer", Decimal("1.5")),
        "en-fr",
        "1.5 kilometers",
        "1,5 kilomètre",
        "0-0 1-1",
    ),
    (Measure("length-meter", 4000), "en-fr", "4,000 meters", "4 000 mètres", "0-0 0-1 1-2"),
    # Two words against one are sure, two against two are possible.
    (
        Measure("area-square-kilometer", 5),
        "en-de",
        "5 square kilometers",
        "5 Quadratkilometer",
        "0-0 1-1 2-1",
    ),
    (
        Measure("area-square-kilometer", 5),
        "en-fr",
        "5 square kilometers",
        "5 kilomètres carrés",
        "0-0 1?1 1?2 2?1 2?2",
    ),
    # The Arabic dual is a unit that says its number.
    (Measure("duration-hour", 2), "en-ar", "2 hours", "ساعتان", "0?0 1-0"),
    (Money("EUR", 10), "en-fr", "10 euros", "10 euros", "0-0 1-1"),
    (
        Money("USD", 10),
        "en-fr",
        "10 US dollars",
        "10 dollars des États-Unis",
        "0-0 1?1 1?2 1?3 2?1 2?2 2?3",
    ),
    (Price("EUR", 4000), "en-de", "EUR 4,000", "4.000 EUR", "0-1 1-0"),
    (Percent(47), "en-tr", "47 %", "% 47", "0-1 1-0"),
    (
        Relative("day", "past", 3),
        "en-fr",
        "3 days ago",
        "il y a 3 jours",
        "0-3 1-4 2-0 2-1 2-2",
    ),
    (Relative("year", "future", 3), "en-ja", "in 3 years", "3 年 後", "0-2 1-0 2-1"),
    (Relative("month", "future", 1), "en-he", "in 1 month", "בעוד חודש", "0-0 1?1 2-1"),
    # The Oxford comma has no counterpart; the first comma has.
    (
        Series("standard", (FRENCH, GERMAN, SPANISH)),
        "en-fr",
        "French , German , and Spanish",
        "français , allemand et espagnol",
        "0-0 1-1 2-2 4-3 5-4",
    ),
    # Arabic writes "and" each time: it answers the comma where there is nothing else.
    (
        Series("standard", (FRENCH, GERMAN, SPANISH)),
        "en-ar",
        "French , German , and Spanish",
        "الفرنسية و الألمانية و الإسبانية",
        "0-0 1-1 2-2 4-3 5-4",
    ),
    (
        Series("or", (Name("territory", "PG"), Measure("duration-day", 2))),
        "en-fr",
        "Papua New Guinea or 2 days",
        "Papouasie-Nouvelle-Guinée ou 2 jours",
        "0-0 1-0 2-0 3-1 4-2 5-3",
    ),
    (
        Annotated(Name("territory", "BF"), Interval("year", DAY, DAY.replace(year=2018))),
        "en-fr",
        "Burkina Faso ( 2015 – 2018 )",
        "Burkina Faso ( 2015 – 2018 )",
        "0-0 1-1 2-2 3-3 4-4 5-5 6-6",
    ),
]


@pytest.mark.parametrize(("phrase", "locales", "source", "target", "pharaoh"), EXPECTED)
def test_phrase_and_its_alignment(phrase, locales, source, target, pharaoh):
    left, right, links = _pair(phrase, *locales.split("-"))
    assert (left, right) == (source, target)
    assert links == parse_pharaoh(pharaoh)


def test_every_alignment_is_symmetric():
    for phrase, locales, *_ in EXPECTED:
        source, target = locales.split("-")
        assert _pair(phrase, target, source)[2] == _pair(phrase, source, target)[2].inverse()


def test_words_of_a_text():
    assert split_words("L’État d’Aruba, 2.5 km.") == ("L’État", "d’Aruba", ",", "2.5", "km", ".")
    assert split_words("Guinea-Bissau – X\u200e\u202f(Y)") == (
        "Guinea-Bissau", "–", "X", "(", "Y", ")",
    )  # fmt: skip
    assert split_words("हिन्दी भाषा") == ("हिन्दी", "भाषा")  # vowel signs are no punctuation
    assert split_words(" \u200b") == ()


def test_several_words_against_several_are_only_possible():
    left = [Token("a", ("x",)), Token("b", ("x",)), Token("c"), Token("d", ("alone",))]
    right = [Token("A", ("x",)), Token("B", ("x",)), Token("C")]
    assert links_between(left, right) == parse_pharaoh("0?0 0?1 1?0 1?1")


def test_a_word_repeated_on_both_sides_is_linked_in_order():
    left = [Token("May", ("month",)), Token("May", ("month",))]
    right = [Token("mai", ("month",)), Token(",", None), Token("mai", ("month",))]
    assert links_between(left, right) == parse_pharaoh("0-0 1-2")


LOCALES = ["en-fr", "en-de", "en-ja", "en-tr", "de-en", "fi-ar", "ru-hu", "zh_Hant-th"]
BUILD = """
import json, sys
from attnzoo.alignment.links import format_pharaoh
from attnzoo.data.cldr import build_cldr
built = {}
for name in sys.argv[1:]:
    splits = build_cldr(*name.split("-"), train=1000, validation=20, test=20)
    parts = (splits.train, splits.validation, splits.test)
    built[name] = [
        dict(source=part.source, target=part.target, links=list(map(format_pharaoh, part.links)))
        for part in parts
    ]
    built[name].append(splits.fingerprint())
print(json.dumps(built))
"""


@pytest.fixture(scope="module")
def builds():
    """Train, validation, test and fingerprint of each pair of locales, from two processes that
    hash strings differently.

    They are processes also because the shape checker of the tests makes building slow here.
    """
    built = []
    for seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", BUILD, *LOCALES],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        )
        built.append(json.loads(result.stdout))
    return built


def _corpora(build):
    return [
        Corpus(part["source"], part["target"], [parse_pharaoh(line) for line in part["links"]])
        for part in build[:3]
    ]


@pytest.mark.parametrize("locales", LOCALES)
def test_corpus_is_disjoint_familiar_and_linked(builds, locales):
    parts = _corpora(builds[0][locales])
    assert [len(part) for part in parts] == [1000, 20, 20]
    for side in ("source", "target"):
        lines = [line for part in parts for line in getattr(part, side)]
        assert len(set(lines)) == len(lines), f"a {side} phrase occurs twice"
        seen = Counter(word for line in getattr(parts[0], side) for word in line.split())
        for part in parts[1:]:
            words = {word for line in getattr(part, side) for word in line.split()}
            assert min(seen[word] for word in words) >= SEEN_IN_TRAINING
    for part in parts:
        assert part.links is not None
        for source, target, links in zip(part.source, part.target, part.links, strict=True):
            assert source == " ".join(source.split())
            assert target == " ".join(target.split())
            assert 1 <= len(source.split()) <= 20
            assert 1 <= len(target.split()) <= 20
            assert links.sure <= links.possible
            assert links.possible
            links.check(len(source.split()), len(target.split()))


@pytest.mark.parametrize("locales", LOCALES)
def test_same_corpus_in_every_process(builds, locales):
    assert builds[0][locales] == builds[1][locales]


def test_corpus_reorders_and_leaves_words_alone(builds):
    figures = describe(_corpora(builds[0]["en-fr"])[0])
    assert figures.reordered_pairs > 0.2
    assert figures.source_unaligned > 0.05
    assert figures.fertility[2] > 0.05
    assert figures.source_vocabulary > 800


def test_seed_changes_the_corpus():
    first, second = (
        build_cldr("en", "fr", train=100, validation=0, test=0, seed=seed) for seed in (0, 1)
    )
    assert first.train.source_language == "en"
    assert first.train.target_language == "fr"
    assert set(first.train.source) != set(second.train.source)


def test_unknown_locale_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown locale 'pt_BX'.*pt_BR|pt_BX.*pt"):
        build_cldr("en", "pt_BX")
    for nonsense in ("", "klingon", "en_", "e n", "root"):
        with pytest.raises(UserError, match="unknown locale"):
            build_cldr(nonsense, "fr")


def test_relative_times_are_known_in_every_plural_form():
    # In Sindhi the minute's unit and direction can be told apart in one plural form only.
    renderers = [Renderer(Locale.parse(name)) for name in ("en", "sd")]
    sampler = Sampler(*renderers)
    assert "hour" in sampler.relative
    assert "minute" not in sampler.relative
    for unit in sampler.relative:
        for number in (1, 2, 5, 11, 21):
            for direction in ("future", "past"):
                assert all(r.render(Relative(unit, direction, number)) for r in renderers)


@pytest.mark.parametrize("locale", ["raj", "mus"])
def test_locale_with_hardly_any_data_says_so(locale):
    with pytest.raises(UserError, match=f"CLDR data of en and {locale}"):
        build_cldr("en", locale, train=500, validation=0, test=0)


def test_two_languages_are_wanted():
    with pytest.raises(UserError, match="both en"):
        build_cldr("en", "en")


def test_impossible_sizes_say_so():
    with pytest.raises(ValueError, match="train=-1"):
        build_cldr("en", "fr", train=-1)
    with pytest.raises(UserError, match="10 and 20 were asked"):
        build_cldr("en", "fr", train=10, validation=10, test=10)


def test_description_counts_by_hand():
    corpus = Corpus(
        source=["a b c", "d"],
        target=["A C B", "D E"],
        links=[parse_pharaoh("0-0 1-2 2-1 0?1"), parse_pharaoh("")],
    )
    figures = describe(corpus)
    assert (figures.pairs, figures.source_words, figures.target_words) == (2, 4, 5)
    assert (figures.sure_links, figures.possible_links) == (3, 1)
    assert figures.reordered_pairs == 0.5
    assert figures.source_unaligned == 0.25
    assert figures.target_unaligned == 0.4
    assert figures.fertility == {0: 0.25, 1: 0.5, 2: 0.25}
    with pytest.raises(ValueError, match="no links"):
        describe(Corpus(source=["a"], target=["b"]))


def test_a_corpus_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless its file is damaged, another is wanted, or there is no room for a file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = CldrConfig(train=40, validation=0, test=0)
    built: list[int] = []

    def build(*languages: str, **settings: int) -> Any:
        built.append(settings["seed"])
        return build_cldr(*languages, **settings)

    monkeypatch.setattr(module, "build_cldr", build)
    first = module.load_cldr(config)
    assert module.load_cldr(config) == first
    assert built == [0]
    (file,) = (tmp_path / "attnzoo").iterdir()
    content = file.read_bytes()
    for bad in (content.replace(b"0-0", b"0-1", 1), content[:-1], b""):
        file.write_bytes(bad)
        assert module.load_cldr(config) == first
        assert file.read_bytes() == content
    module.load_cldr(replace(config, seed=1))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert module.load_cldr(config) == first
    assert built == [0, 0, 0, 0, 1, 0]
