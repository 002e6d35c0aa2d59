"""`align`: word alignments of sentence pairs, scored, drawn and written.

`align RUN_DIR` reads them from the attention of a trained translator: a run, or a folder of
transformers (Marian, BART, mBART, M2M100, T5). `align --aligner KIND` aligns the pairs of any file,
with hmm, eflomal, similarity, attention, learned or a vote of these.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import (
    add_languages,
    add_trust,
    add_which,
    compilation_cache,
    open_model,
    run,
)
from attnzoo.errors import UserError


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from attnzoo.alignment.symmetrize import HEURISTICS
    from attnzoo.cli.align_pairs import add_aligner_arguments
    from attnzoo.cli.texts import add_pair_arguments

    parser = argparse.ArgumentParser(
        prog="align",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Links name source and target words from 0 in Pharaoh form, i-j. Scores need links "
        "in the data.\nSentences typed with --sentence are translated and drawn.",
    )
    parser.add_argument(
        "run",
        nargs="*",
        metavar="RUN_DIR | key=value",
        help="a run or a folder of transformers that translates, or settings of --aligner",
    )
    add_pair_arguments(parser)
    add_aligner_arguments(parser)
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
        "reads (auto: the better on validation links, else as the model's paper says)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        help="number of the cross-attention, from 0 (default: the model's)",
    )
    parser.add_argument("--head", type=int, help="number of the head, from 0 (default: mean)")
    parser.add_argument(
        "--by",
        choices=("attention", "posterior", "erasure", "both"),
        default="attention",
        help="read links off the attention; off its posterior, which has seen the target word "
        "(recurrent models: the output layer is computed for each source token); or off what each "
        "target word loses when a source word is erased (slow: a pair of S words is read S + 1 "
        "times); both: attention and erasure",
    )
    parser.add_argument(
        "--fill",
        choices=("zero", "mean", "unk"),
        default="zero",
        help="vector of an erased word: zero, the table's mean, or the unknown word's",
    )
    parser.add_argument(
        "--choose",
        choices=("aer", "agreement"),
        help="layer, head and timing by the error rate on the validation part, or by where the "
        "links of both directions agree most there (needs no links, but --reverse)",
    )
    parser.add_argument(
        "--choose-pairs", type=int, default=500, metavar="N", help="pairs to choose on (500)"
    )
    parser.add_argument(
        "--survey",
        action="store_true",
        help="score every layer and head, credited to the predicted and to the input word; choose "
        "on --split validation",
    )
    parser.add_argument(
        "--null",
        action="store_true",
        help="a word whose attention is most on the end of the source has no link",
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
        "--reverse",
        type=Path,
        metavar="RUN_DIR",
        help="a run of the other direction: its links, and every combination of the two",
    )
    parser.add_argument(
        "--symmetrize",
        choices=tuple(HEURISTICS),
        default="grow-diag-final-and",
        help="which combination of the two directions -o writes; all are scored (default: "
        "grow-diag-final-and)",
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
        "--figure-dir", type=Path, help="folder of the pictures (default: RUN_DIR/figures)"
    )
    add_which(parser)
    add_languages(parser)
    add_trust(parser)
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    from attnzoo.cli.align_doors import check_door

    parser = argument_parser()
    arguments = parser.parse_intermixed_args(argv)
    # Without --aligner a word with "=" is the name of a run.
    settings = {word for word in arguments.run if arguments.aligner and "=" in word}
    arguments.settings = [word for word in arguments.run if word in settings]
    runs = [Path(word) for word in arguments.run if word not in settings]
    if len(runs) > 1:
        parser.error(f"{runs[1]}: wanted one RUN_DIR")
    if not runs and arguments.aligner is None:
        parser.error("wanted RUN_DIR, or --aligner KIND")
    arguments.run = runs[0] if runs else None
    check_door(parser, argv, arguments)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print the scores, and the path of everything written."""
    return run(lambda: _align(parse(argv)))


def _check(arguments: argparse.Namespace) -> None:
    """Check the arguments, as far as possible without loading a run."""
    from attnzoo.cli.common import require_positive
    from attnzoo.cli.texts import check_pair_arguments

    check_pair_arguments(arguments)
    require_positive(arguments, "choose_pairs", most=10**9)
    if arguments.figures < 0:
        raise UserError(f"--figures {arguments.figures}: wanted 0 or more")
    if arguments.generated:
        for name in ("reverse", "choose"):
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name} needs known pairs, --generated makes new ones")
        if arguments.by != "attention":
            raise UserError(f"--by {arguments.by}: --generated aligns by attention alone")
    if arguments.choose:
        if arguments.survey:
            raise UserError("--survey prints what --choose decides by: wanted one of them")
        if arguments.layer is not None or arguments.head is not None:
            raise UserError("--choose finds layer and head: wanted no --layer and no --head")
        if arguments.choose == "agreement" and arguments.reverse is None:
            raise UserError("--choose agreement: wanted --reverse RUN_DIR, a run to agree with")


def _align(arguments: argparse.Namespace) -> int:
    if arguments.aligner is not None:
        from attnzoo.cli.align_pairs import align_pairs

        return align_pairs(arguments)
    _check(arguments)
    from attnzoo.cli.align_choice import choose, choose_timing, survey
    from attnzoo.cli.align_report import (
        figures,
        print_scores,
        print_shapes,
        search_settings,
        sentences,
        write_links,
    )
    from attnzoo.cli.texts import read_pairs
    from attnzoo.files import require_writable
    from attnzoo.tasks.alignment_reader import Reader

    compilation_cache()
    if arguments.output is not None:
        require_writable(arguments.output)
    trained = open_model(arguments.run, arguments)
    if trained.kind == "word_alignment":
        raise UserError(
            f"{arguments.run}: a run of task.kind=word_alignment; wanted "
            f"--aligner learned run={arguments.run} --pairs FILE"
        )
    translator = trained.translator(layer=arguments.layer, head=arguments.head)
    methods = ("attention", "erasure") if arguments.by == "both" else (arguments.by,)
    options = {"level": arguments.level, "fill": arguments.fill, "null": arguments.null}
    if arguments.timing not in ("auto", *translator.timings):
        raise UserError(
            f"--timing {arguments.timing}: {arguments.run} attends before it reads a step's word, "
            "so that no weights belong to it; wanted --timing predicted"
        )
    if arguments.sentence:
        readers = {m: Reader(translator, m, arguments.timing, **options) for m in methods}
        return sentences(trained, readers, arguments)
    corpus, name = read_pairs(trained, arguments)
    if arguments.survey:
        survey(translator, corpus, name, arguments)
        return 0
    timing, back = arguments.timing, arguments.timing
    other = reverse = None
    if arguments.reverse is not None:
        other = open_model(arguments.reverse, arguments, other_way=True)
        reverse = other.translator()
    if arguments.choose:
        place, behind = choose(trained, other, arguments)
        translator = trained.translator(layer=place.layer, head=place.head)
        timing = place.timing
        if other is not None and behind is not None:
            reverse, back = other.translator(layer=behind.layer, head=behind.head), behind.timing

    def settled(run: Any, reading: Any, wanted: str) -> str:
        if wanted != "auto" or arguments.generated or "attention" not in methods:
            return wanted if wanted in ("auto", *reading.timings) else reading.timings[0]
        return choose_timing(run, reading, arguments.level, arguments.restrict)

    timing = settled(trained, translator, timing)
    readers = {m: Reader(translator, m, timing, **options) for m in methods}
    if arguments.generated:
        found = {"attention": translator.translate(corpus.source, **search_settings(trained))}
    else:
        found = {m: reader.read(corpus.source, corpus.target) for m, reader in readers.items()}
    first = methods[0]
    left_out = sum(result is None for result in found[first])
    if left_out:
        print(f"{left_out} pairs are empty or too long and get no links", file=sys.stderr)
    rows: dict[str, list] = {m: readers[m].links(found[m]) for m in methods}
    links = rows[first]
    if reverse is not None:
        for m in methods:
            backward = Reader(reverse, m, settled(other, reverse, back), **options)
            combined = _both_directions(rows[m], backward, corpus)
            links = combined[arguments.symmetrize] if m == first else links
            prefix = f"{m}, " if len(methods) > 1 else ""
            rows |= {prefix + label: pairs for label, pairs in combined.items()}
    for path in arguments.compare:
        run = open_model(path, arguments)
        reading = run.translator()
        rival = Reader(reading, timing=settled(run, reading, arguments.timing), **options)
        rows[path.name] = rival.links(rival.read(corpus.source, corpus.target))
    if arguments.eflomal:
        rows |= _eflomal(trained, corpus)
    if corpus.links is not None and not arguments.generated:
        print_scores(rows, corpus, name, arguments.restrict)
    elif not arguments.generated:
        print(f"{name} has no reference links: nothing to score")
    print_shapes(
        {
            m: [readers[m].matrix(r) for r in results if r is not None]
            for m, results in found.items()
        }
    )
    if arguments.output is not None:
        write_links(links, arguments.output)
    figures(trained, readers, found, corpus, name, arguments)
    return 0


def _both_directions(forward: list, reader: Any, corpus: Any) -> dict[str, list]:
    """Return links of the reverse reader, and every combination with those of this direction."""
    from attnzoo.alignment.symmetrize import HEURISTICS
    from attnzoo.tasks.alignment_reader import transposed

    backward = transposed(reader.links(reader.read(corpus.target, corpus.source)))
    combined = {
        name: [combine(a, b) for a, b in zip(forward, backward, strict=True)]
        for name, combine in HEURISTICS.items()
    }
    return {"reverse": backward, **combined}


def _eflomal(trained: Any, corpus: Any) -> dict[str, list]:
    """Return eflomal's links; it is run on the training pairs together with the pairs to align."""
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
