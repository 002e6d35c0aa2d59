"""Synthetic tasks with known word links: copying, reversing and sorting."""

from __future__ import annotations

import random
from typing import Any

from attnzoo.alignment.links import Links
from attnzoo.data.corpus import Corpus, Splits
from attnzoo.errors import UserError

TASKS = ("copy", "reverse", "sort")


def build_synthetic(
    task: str,
    *,
    symbols: int,
    min_length: int,
    max_length: int,
    train: int,
    validation: int,
    test: int,
    seed: int,
) -> Splits:
    """Build distinct random sequences of symbols, no source twice in all parts.

    The symbols are the numbers below `symbols`, written with equally many digits. Lengths are
    uniform between the two bounds, and so are the symbols. In `copy` and `reverse` all links are
    sure. In `sort` links are sure for a symbol that occurs once; the copies of a repeated symbol
    cannot be told apart, so all their links are possible.

    More pairs than half of all possible sequences is a UserError.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is none of {', '.join(TASKS)}")
    if symbols < 1 or not 1 <= min_length <= max_length:
        raise ValueError(
            f"symbols={symbols}, min_length={min_length}, max_length={max_length}: "
            "at least one symbol and 1 <= min_length <= max_length are wanted"
        )
    wanted = train + validation + test
    available = sum(symbols**length for length in range(min_length, max_length + 1))
    if 2 * wanted > available:
        raise UserError(
            f"synthetic data: {wanted:,} pairs are wanted, but there are only {available:,} "
            f"sequences of {min_length} to {max_length} of {symbols} symbols; half is the most"
        )
    # Only random() is guaranteed to be the same in every version of Python.
    generator = random.Random(seed)
    seen: dict[tuple[int, ...], None] = {}
    while len(seen) < wanted:
        length = min_length + int(generator.random() * (max_length - min_length + 1))
        seen[tuple(int(generator.random() * symbols) for _ in range(length))] = None
    sequences = list(seen)
    digits = len(str(symbols - 1))
    return Splits(
        train=_corpus(task, sequences[:train], digits),
        validation=_corpus(task, sequences[train : train + validation], digits),
        test=_corpus(task, sequences[train + validation :], digits),
    )


def load_synthetic(config: Any) -> Splits:
    """Build the data set of a `Synthetic` config."""
    return build_synthetic(
        config.task,
        symbols=config.symbols,
        min_length=config.min_length,
        max_length=config.max_length,
        train=config.train,
        validation=config.validation,
        test=config.test,
        seed=config.seed,
    )


def _corpus(task: str, sequences: list[tuple[int, ...]], digits: int) -> Corpus:
    sources, targets, links = [], [], []
    for sequence in sequences:
        order = _order(task, sequence)
        names = [f"{symbol:0{digits}}" for symbol in sequence]
        sources.append(" ".join(names))
        targets.append(" ".join(names[i] for i in order))
        links.append(_links(task, sequence, order))
    return Corpus(sources, targets, links, "symbols", "symbols", task)


def _order(task: str, sequence: tuple[int, ...]) -> list[int]:
    """Return the source position of each target position."""
    positions = range(len(sequence))
    if task == "copy":
        return list(positions)
    if task == "reverse":
        return list(reversed(positions))
    return sorted(positions, key=sequence.__getitem__)


def _links(task: str, sequence: tuple[int, ...], order: list[int]) -> Links:
    if task != "sort":
        return Links.of((i, j) for j, i in enumerate(order))
    return Links.of(
        sure=((i, j) for j, i in enumerate(order) if sequence.count(sequence[i]) == 1),
        possible=(
            (i, j)
            for i, symbol in enumerate(sequence)
            for j, origin in enumerate(order)
            if sequence[origin] == symbol
        ),
    )
