"""Building of the embedded corpus: CLDR phrases in two languages, with true word alignment."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import babel
import xxhash
from babel import Locale, UnknownLocaleError
from babel.localedata import locale_identifiers

from attnzoo.alignment.links import Links, format_pharaoh, parse_pharaoh
from attnzoo.data.cldr.phrases import Phrase
from attnzoo.data.cldr.render import Renderer
from attnzoo.data.cldr.sample import Sampler
from attnzoo.data.cldr.tokens import Token, links_between
from attnzoo.data.corpus import Corpus, Splits
from attnzoo.errors import UserError
from attnzoo.files import cache_directory, open_regular

# Minimum number of occurrences in training of each held-out word.
SEEN_IN_TRAINING = 5
MAX_WORDS = 20
# With fewer kinds of phrases the corpus would be only a word list.
MIN_TEMPLATES = 6
# Number of draws in a row without a new pair after which the search stops.
PATIENCE = 2_000
PARTS = ("train", "validation", "test")

Pair = tuple[str, str, Links]


def build_cldr(
    source_locale: str,
    target_locale: str,
    *,
    train: int = 30_000,
    validation: int = 1_000,
    test: int = 1_000,
    seed: int = 0,
) -> Splits:
    """Build the corpus of a pair of locales ("en", "pt_BR", "zh-Hant").

    Dates, times, intervals, quantities, money, names and lists are rendered field by field through
    both locales' patterns, so that the word alignment is known (see docs/embedded_corpus.md).
    Sentences are words separated by single spaces. The same arguments and version of babel give the
    same corpus in every process. All sources are distinct and so are all targets, over the three
    parts together, and every word of validation and test occurs at least `SEEN_IN_TRAINING` times
    in train. An unknown locale, or one with too little data, is a UserError.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"{name}={size}: a number of pairs, 0 or more, is wanted")
    source, target = find_locale(source_locale), find_locale(target_locale)
    if source == target:
        raise UserError(f"source and target locale are both {source}: two languages are wanted")
    pairs = _distinct_pairs(source, target, seed)
    seen_most = list(itertools.islice(pairs, train + 2 * (validation + test)))
    random.Random(seed).shuffle(seen_most)  # single names come early in the stream
    train_pairs = seen_most[:train]
    candidates = itertools.chain(seen_most[train:], pairs)
    held_out = list(itertools.islice(_familiar(candidates, train_pairs), validation + test))
    if len(train_pairs) < train or len(held_out) < validation + test:
        raise UserError(
            f"the CLDR data of {source} and {target} give {len(train_pairs)} training pairs and "
            f"{len(held_out)} others whose words all occur {SEEN_IN_TRAINING} times in them; "
            f"{train} and {validation + test} were asked: ask for less held out, or another train"
        )
    parts = (train_pairs, held_out[:validation], held_out[validation:])
    name = f"cldr-{source}-{target}"
    corpora = [
        Corpus(
            source=[pair[0] for pair in part],
            target=[pair[1] for pair in part],
            links=[pair[2] for pair in part],
            source_language=str(source),
            target_language=str(target),
            name=f"{name}/{split}",
        )
        for split, part in zip(sizes, parts, strict=True)
    ]
    return Splits(train=corpora[0], validation=corpora[1], test=corpora[2])


def find_locale(identifier: str) -> Locale:
    """Return the babel locale of "en", "pt_BR" or "pt-BR".

    An unknown identifier is a UserError with the nearest known ones.
    """
    known = locale_identifiers()
    try:
        locale = Locale.parse(identifier.strip().replace("-", "_"))
        if str(locale) not in known:  # babel also knows "root", the data that all locales inherit
            raise UnknownLocaleError(identifier)
        return locale
    except (UnknownLocaleError, ValueError):
        near = difflib.get_close_matches(identifier.replace("-", "_"), known, n=3, cutoff=0.3)
        hint = f"nearest: {', '.join(near)}" if near else f"examples: {', '.join(known[:3])}"
        raise UserError(f"unknown locale {identifier!r}; {hint}") from None


def translate(phrase: Phrase, source: Renderer, target: Renderer) -> Pair:
    """Render one phrase in both languages, with its links."""
    left, right = source.render(phrase), target.render(phrase)
    return _text(left), _text(right), links_between(left, right)


def _text(tokens: list[Token]) -> str:
    return " ".join(token.text for token in tokens)


def _distinct_pairs(source: Locale, target: Locale, seed: int) -> Iterator[Pair]:
    """Yield pairs with distinct sources and distinct targets, so that translation is a function.

    The iterator ends when new pairs have become rare.
    """
    renderers = Renderer(source), Renderer(target)
    sampler = Sampler(*renderers)
    if not (sampler.territories or sampler.languages):
        # Such a locale inherits its data from the root: numbers and codes, no language.
        raise UserError(
            f"the CLDR data of {source} and {target} have too few names of territories and "
            f"languages in common: choose a locale that the CLDR covers better"
        )
    if len(sampler.templates()) < MIN_TEMPLATES:
        raise UserError(
            f"the CLDR data of {source} and {target} fill only {len(sampler.templates())} kinds of "
            f"phrases, {MIN_TEMPLATES} are wanted"
        )
    sources: set[str] = set()
    targets: set[str] = set()
    repeated = 0
    for phrase in sampler.stream(random.Random(seed)):
        left, right, links = translate(phrase, *renderers)
        too_long = max(left.count(" "), right.count(" ")) >= MAX_WORDS
        if too_long or left in sources or right in targets:
            repeated += 1
            if repeated > PATIENCE:
                return
            continue
        repeated = 0
        sources.add(left)
        targets.add(right)
        yield left, right, links


def _familiar(candidates: Iterable[Pair], train: list[Pair]) -> Iterator[Pair]:
    """Yield candidates whose words all occur `SEEN_IN_TRAINING` times on their side of `train`."""
    counts = [Counter(word for pair in train for word in pair[side].split()) for side in (0, 1)]
    unfamiliar = 0
    for pair in candidates:
        if all(counts[side][w] >= SEEN_IN_TRAINING for side in (0, 1) for w in pair[side].split()):
            unfamiliar = 0
            yield pair
        else:
            unfamiliar += 1
            if unfamiliar > PATIENCE:
                return


def load_cldr(config: Any) -> Splits:
    """Build the corpus of a `Cldr` config, or read it from the user's cache if it is there.

    Building 30,000 pairs takes seconds. The name of the cached file depends on the arguments, the
    version of babel and the code of this package; a damaged file is built again.
    """
    sizes = {part: getattr(config, part) for part in PARTS}
    languages = config.source_locale, config.target_locale
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    key = xxhash.xxh3_128(f"{languages} {sizes} {config.seed} {babel.__version__}".encode())
    key.update(b"".join(code))
    try:
        path = cache_directory() / f"cldr-{key.hexdigest()}.json"
        return _read(path)
    except (OSError, UserError, ValueError):
        splits = build_cldr(*languages, **sizes, seed=config.seed)
    with contextlib.suppress(OSError, UserError):  # there is no cache, or it cannot be written
        path = cache_directory() / f"cldr-{key.hexdigest()}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, splits)
    return splits


def _write(path: Path, splits: Splits) -> None:
    """Write a digest, and the fields of each part as JSON."""
    parts = [vars(getattr(splits, part)) for part in PARTS]
    content = json.dumps(parts, default=format_pharaoh).encode()
    partial = path.with_suffix(f".{os.getpid()}")
    with open(partial, "wb", opener=open_regular) as file:
        file.write(xxhash.xxh3_128_hexdigest(content).encode() + b"\n" + content)
    partial.replace(path)


def _read(path: Path) -> Splits:
    """Read what `_write` wrote; ValueError for anything else."""
    with open(path, "rb", opener=open_regular) as file:
        digest, _, content = file.read().partition(b"\n")
    if digest != xxhash.xxh3_128_hexdigest(content).encode():
        raise ValueError(f"{path}: damaged")
    links_of = functools.cache(parse_pharaoh)  # few patterns, in many pairs
    parts = json.loads(content)
    for part in parts:
        part["links"] = [links_of(links) for links in part["links"]]
    train, validation, test = (Corpus(**part) for part in parts)
    return Splits(train, validation, test)
