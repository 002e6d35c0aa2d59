"""Choice of layer, head and timing for alignment: a survey, and a choice on validation data."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from attnzoo.cli.texts import evenly
from attnzoo.errors import UserError
from attnzoo.tasks.alignment_reader import transposed

SHOWN = 3
TIMING_PAIRS = 200
"""Validation pairs on which the timing is chosen."""


class Place(NamedTuple):
    """Layer, head (None: the mean of all) and the word that the weights of a step belong to."""

    layer: int
    head: int | None
    timing: str

    def __str__(self) -> str:
        head = "" if self.head is None else f" --head {self.head}"
        return f"--layer {self.layer}{head} --timing {self.timing}"


Links = list[set[tuple[int, int]]]


def links_by_place(
    translator: Any, sources: Sequence[str], targets: Sequence[str], level: str
) -> dict[Place, Links]:
    """Return the links by every layer, head and timing."""
    links: dict[Place, Links] = {}
    for name, results in translator.survey(sources, targets).items():
        layer, head = name.split("/")
        for timing in translator.timings:
            place = Place(int(layer), None if head == "mean" else int(head), timing)
            links[place] = [
                set() if r is None else translator.links(r, timing=timing, level=level)
                for r in results
            ]
    return links


def survey(translator: Any, corpus: Any, name: str, arguments: Any) -> None:
    """Print the alignment error rate of each layer and head, for both timings."""
    from attnzoo.alignment.choice import by_error_rate

    if corpus.links is None:
        raise UserError(
            f"--survey scores links, but {name} has no reference links; --choose agreement "
            "--reverse RUN_DIR needs none"
        )
    links = links_by_place(translator, corpus.source, corpus.target, arguments.level)
    rates = by_error_rate(links, corpus.links, restrict=arguments.restrict)
    timings = translator.timings
    print(
        f"{len(corpus)} pairs of {name}: AER by layer/head, of the word a step {'/'.join(timings)}"
    )
    for layer, head in dict.fromkeys((place.layer, place.head) for place in links):
        label = f"{layer}/{'mean' if head is None else head}"
        row = [rates[Place(layer, head, timing)] for timing in timings]
        print(f"  {label:<10} " + " ".join(f"{aer:9.3f}" for aer in row))
    best = next(iter(rates))
    print(f"best: {best}, AER {rates[best]:.3f}")


def choose_timing(trained: Any, translator: Any, level: str, restrict: bool) -> str:
    """Return the timing of "auto": the better on validation links, else that of the model's paper.

    The choice and its reason are printed on standard error.
    """
    from attnzoo.alignment.choice import by_error_rate

    path = trained.directory.path
    if len(translator.timings) == 1:
        return translator.timings[0]
    corpus = None if trained.step is None else trained.corpus("validation")
    if corpus is None or corpus.links is None or not len(corpus):
        reason = "as in the model's paper; no validation links to choose by"
        print(f"{path}: --timing {translator.credits} ({reason})", file=sys.stderr)
        return translator.credits
    corpus = corpus.select(evenly(len(corpus), TIMING_PAIRS))
    results = translator.force(corpus.source, corpus.target)
    links = {
        timing: [
            set() if r is None else translator.links(r, timing=timing, level=level) for r in results
        ]
        for timing in translator.timings
    }
    rates = by_error_rate(links, corpus.links, restrict=restrict)
    found = ", ".join(f"{timing} {rate:.3f}" for timing, rate in rates.items())
    best = next(iter(rates))
    print(
        f"{path}: --timing {best} (AER of {len(corpus)} validation pairs: {found})", file=sys.stderr
    )
    return best


def choose(trained: Any, other: Any | None, arguments: Any) -> tuple[Place, Place | None]:
    """Choose the place of the run, and of the run in the other direction, on validation data.

    With "aer" each direction is scored against the reference links of the validation part; with
    "agreement" the two places with the most similar links are taken.
    """
    from attnzoo.alignment.choice import by_agreement, by_error_rate

    corpus = trained.corpus("validation")
    if not len(corpus):
        raise UserError(f"--choose: the data of {trained.directory.path} has no validation part")
    corpus = corpus.select(evenly(len(corpus), arguments.choose_pairs))
    forward = links_by_place(trained.translator(), corpus.source, corpus.target, arguments.level)
    backward: dict[Place, Links] | None = None
    if other is not None:
        read = links_by_place(other.translator(), corpus.target, corpus.source, arguments.level)
        backward = {place: transposed(links) for place, links in read.items()}
    if arguments.choose == "agreement":
        assert backward is not None
        pairs = by_agreement(forward, backward)
        print(f"{len(corpus)} pairs of validation: layers and heads of both that agree best")
        for pair in pairs[:SHOWN]:
            print(f"  {pair.agreement:.3f}  {pair.forward}; reverse {pair.reverse}")
        best: Any = pairs[0]
        return best.forward, best.reverse
    if corpus.links is None:
        raise UserError("--choose aer: the validation part has no reference links")
    chosen: list[Place | None] = []
    for label, links in (("", forward), ("reverse, ", backward)):
        if links is None:
            chosen.append(None)
            continue
        rates = by_error_rate(links, corpus.links, restrict=arguments.restrict)
        print(f"{len(corpus)} pairs of validation: {label}AER by layer and head, the best")
        for place in list(rates)[:SHOWN]:
            print(f"  {rates[place]:.3f}  {place}")
        chosen.append(next(iter(rates)))
    assert chosen[0] is not None
    return chosen[0], chosen[1]
