"""`align RUN_DIR`: word alignments read off the attention, scored, drawn and written."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import compilation_cache, run
from attnzoo.errors import UserError


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    from attnzoo.alignment.symmetrize import HEURISTICS
    from attnzoo.cli.texts import add_pair_arguments

    parser = argparse.ArgumentParser(
        prog="align",
        description=__doc__,
        epilog="Links name source and target words from 0 in Pharaoh form, i-j. Scores need links "
        "in the data. Sentences typed with --sentence are translated and drawn.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    add_pair_arguments(parser)
    parser.add_argument(
        "--generated",
        action="store_true",
        help="align the model's own translations instead of the references (nothing to score)",
    )
    parser.add_argument(
        "--sentence",
        action="append",
        default=[],
        metavar="TEXT",
        help="translate, align and draw this",
    )
    parser.add_argument(
        "--timing",
        choices=("auto", "predicted", "input"),
        default="auto",
        help="which word a step's attention is credited to: the one it predicts or the one it "
        "reads (auto: as the model's paper says)",
    )
    parser.add_argument(
        "--layer", type=int, help="whose cross-attention, from 0 (default: the model's own choice)"
    )
    parser.add_argument("--head", type=int, help="which head, from 0 (default: their mean)")
    parser.add_argument(
        "--survey",
        action="store_true",
        help="score every layer and head, credited to the predicted and to the input word; choose "
        "on --split validation",
    )
    parser.add_argument(
        "--level",
        choices=("word", "token"),
        default="word",
        help="link each target word, or each of its subwords, to its heaviest source",
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        type=Path,
        metavar="RUN_DIR",
        help="score another run on the same pairs in the same table (may be repeated)",
    )
    parser.add_argument(
        "--eflomal",
        action="store_true",
        help="score the statistical aligner eflomal too, trained here and now on the run's "
        "training pairs and these (pip install eflomal)",
    )
    parser.add_argument(
        "--reverse", type=Path, metavar="RUN_DIR", help="a run of the other direction"
    )
    parser.add_argument(
        "--symmetrize",
        choices=tuple(HEURISTICS),
        default="grow-diag-final-and",
        help="how the two directions are combined (default: grow-diag-final-and)",
    )
    parser.add_argument(
        "--restrict",
        action="store_true",
        help="score only links between words that have a reference link on their side",
    )
    parser.add_argument("-o", "--output", type=Path, help="write Pharaoh links here, a line a pair")
    parser.add_argument(
        "--figures", type=int, default=0, metavar="N", help="draw the first N pairs"
    )
    parser.add_argument(
        "--figure-dir", type=Path, help="where pictures go (default: RUN_DIR/figures)"
    )
    parser.add_argument("--which", choices=("best", "latest"), default="best", help="checkpoint")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the scores, and the path of everything written."""
    return run(lambda: _align(parse(argv)))


def _align(arguments: argparse.Namespace) -> int:
    from attnzoo.cli.texts import check_pair_arguments

    check_pair_arguments(arguments)
    if arguments.figures < 0:
        raise UserError(f"--figures {arguments.figures}: wanted 0 or more")
    if arguments.reverse is not None and arguments.generated:
        raise UserError("--reverse needs known pairs, --generated makes new ones")
    from attnzoo.alignment.links import Links, format_pharaoh
    from attnzoo.alignment.symmetrize import symmetrize
    from attnzoo.cli.texts import read_pairs
    from attnzoo.training.run import load_run

    compilation_cache()
    trained = load_run(arguments.run, which=arguments.which)
    translator = trained.translator(layer=arguments.layer, head=arguments.head)
    decoding = trained.config.decoding
    search: dict[str, Any] = {
        "beam": decoding.beam,
        "alpha": decoding.length_penalty,
        "max_length": decoding.max_length,
    }
    folder = arguments.figure_dir or trained.directory.figures
    if arguments.sentence:
        results = translator.translate(arguments.sentence, **search)
        for number, (text, result) in enumerate(zip(arguments.sentence, results, strict=True)):
            if result is None:
                raise UserError(f"--sentence {text!r}: empty or too long")
            path = folder / f"sentence-{number + 1}"
            print(f"{text}\t{result.text}\t{_draw(translator, result, path, arguments.timing)}")
        return 0

    corpus, name = read_pairs(trained, arguments)
    if arguments.survey:
        _survey(translator, corpus, name, arguments)
        return 0
    if arguments.generated:
        found = translator.translate(corpus.source, **search)
    else:
        found = translator.force(corpus.source, corpus.target)
    left_out = [row for row, result in enumerate(found) if result is None]
    if left_out:
        print(f"{len(left_out)} pairs are empty or too long and get no links", file=sys.stderr)
    options = {"timing": arguments.timing, "level": arguments.level}
    links = [set() if r is None else translator.links(r, **options) for r in found]
    rows = {"attention": links}
    if arguments.reverse is not None:
        other = load_run(arguments.reverse, which=arguments.which).translator()
        backwards = [
            set() if r is None else {(i, j) for j, i in other.links(r, **options)}
            for r in other.force(corpus.target, corpus.source)
        ]
        links = [symmetrize(a, b, arguments.symmetrize) for a, b in zip(links, backwards)]
        rows |= {"reverse": backwards, arguments.symmetrize: links}
    for path in arguments.compare:
        other = load_run(path, which=arguments.which).translator()
        forced = other.force(corpus.source, corpus.target)
        rows[path.name] = [set() if r is None else other.links(r, **options) for r in forced]
    if arguments.eflomal:
        rows |= _eflomal(trained, corpus)
    if corpus.links is not None and not arguments.generated:
        _check_words(found, corpus)
        _print_scores(rows, corpus, name, arguments.restrict)
    elif not arguments.generated:
        print(f"{name} has no reference links: nothing to score")
    if arguments.output is not None:
        lines = [format_pharaoh(Links.of(pair)) for pair in links]
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"links: {arguments.output}")
    for row in range(min(arguments.figures, len(found))):
        if (result := found[row]) is not None:
            reference = None if corpus.links is None or arguments.generated else corpus.links[row]
            path = folder / f"{name}-{row + 1}"
            print(f"figure: {_draw(translator, result, path, arguments.timing, reference)}")
    return 0


def _survey(translator, corpus, name: str, arguments: argparse.Namespace) -> None:
    """The alignment error rate of each head, by which word a step is credited to."""
    from attnzoo.alignment.scores import score_corpus

    if corpus.links is None:
        raise UserError(f"--survey scores links, but {name} has no reference links")
    found = translator.survey(corpus.source, corpus.target)
    timings = ("predicted", "input")
    print(
        f"{len(corpus)} pairs of {name}: AER by layer/head, of the word a step {'/'.join(timings)}"
    )
    rows = {}
    for place, results in found.items():
        _check_words(results, corpus)
        rows[place] = [
            score_corpus(
                [
                    set()
                    if r is None
                    else translator.links(r, timing=timing, level=arguments.level)
                    for r in results
                ],
                corpus.links,
                restrict=arguments.restrict,
            ).aer
            for timing in timings
        ]
        print(f"  {place:<10} " + " ".join(f"{aer:9.3f}" for aer in rows[place]))
    place, timing = min(
        ((place, timing) for place in rows for timing in (0, 1)),
        key=lambda pick: rows[pick[0]][pick[1]],
    )
    layer, head = place.split("/")
    chosen = f"--layer {layer}" + ("" if head == "mean" else f" --head {head}")
    print(f"best: {chosen} --timing {timings[timing]}, AER {rows[place][timing]:.3f}")


def _eflomal(trained, corpus) -> dict[str, list]:
    """Eflomal on the text the run was trained on together with the pairs to align."""
    from attnzoo.alignment.eflomal import align
    from attnzoo.alignment.symmetrize import symmetrize

    text = trained.training_pairs()
    forward, reverse = align([*text.source, *corpus.source], [*text.target, *corpus.target])
    forward, reverse = forward[len(text) :], reverse[len(text) :]
    both = [symmetrize(a, b) for a, b in zip(forward, reverse, strict=True)]
    return {
        "eflomal": forward,
        "eflomal reverse": reverse,
        "eflomal grow-diag-f-a": both,
    }


def _check_words(found, corpus) -> None:
    """Reference links count whitespace-separated words: so must the run's tokenizers."""
    for result, source, target in zip(found, corpus.source, corpus.target, strict=True):
        if result is None:
            continue
        for words, text in ((result.source.words, source), (result.target.words, target)):
            if len(words) != len(text.split()):
                raise UserError(
                    f"the run's tokenizer takes {text!r} for {len(words)} words, the reference "
                    f"links count {len(text.split())}: a tokenizer with split: whitespace is wanted"
                )


def _draw(translator, result, path: Path, timing: str, reference=None) -> Path:
    """The alignment matrix of one pair as PNG and SVG; the path of the PNG."""
    from attnzoo import plotting

    figure = plotting.alignment_heatmap(
        translator.word_matrix(result, timing=timing),
        result.source.words,
        result.target.words,
        reference,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    plotting.save(figure, path.with_name(path.name + ".svg"))
    return plotting.save(figure, path.with_name(path.name + ".png"))


def _print_scores(rows: dict, corpus, name: str, restrict: bool) -> None:
    from attnzoo.alignment.scores import (
        bootstrap_interval,
        count_corpus,
        diagonal_links,
        score_corpus,
    )

    pairs = zip(corpus.source, corpus.target, strict=True)
    rows = rows | {"diagonal": [diagonal_links(len(a.split()), len(b.split())) for a, b in pairs]}
    kind = "words with a reference link" if restrict else "all words"
    print(f"{len(corpus)} pairs of {name}, {kind}:")
    print(f"  {'links from':<22} {'AER':>6} {'95 % interval':>16} {'precision':>10} {'recall':>7}")
    for label, links in rows.items():
        counts = count_corpus(links, corpus.links, restrict=restrict)
        total = score_corpus(links, corpus.links, restrict=restrict)
        low, high = bootstrap_interval(counts)
        print(
            f"  {label:<22} {total.aer:6.3f}   {low:6.3f} - {high:.3f} "
            f"{total.precision:10.3f} {total.recall:7.3f}"
        )
