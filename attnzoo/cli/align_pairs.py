"""`align --aligner KIND`: align pairs of a file by any aligner, without a run."""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attnzoo.cli.align_input import (
    Pair,
    add_input_arguments,
    check_share,
    columns_of,
    input_pairs,
    tell,
    training_text,
)
from attnzoo.errors import UserError

BLOCK = 2_048
"""Pairs that an aligner is given at a time, if it does not need all."""
SHOW_AFTER = 5.0
"""Seconds between two messages about progress."""


def add_aligner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    group = parser.add_argument_group("pairs of a file, by any aligner (docs/alignment.md)")
    group.add_argument(
        "--aligner",
        metavar="KIND",
        help="attention, hmm, eflomal, similarity, learned or vote, with settings as key=value; "
        "or a YAML file with an `aligner:`",
    )
    add_input_arguments(group)
    group.add_argument(
        "--format",
        choices=("pharaoh", "scores", "a3", "npz"),
        default="pharaoh",
        help="of -o: links, links with scores i-j:0.93, GIZA++ A3, or the matrices (default: "
        "pharaoh)",
    )
    group.add_argument(
        "--against", metavar="FILE", help="Pharaoh links of another aligner, for a paired bootstrap"
    )
    group.add_argument("--tables", action="store_true", help="scores by length, frequency, ...")
    group.add_argument(
        "--tags", metavar="FILE", help="a tag for every target word, for a table by tag"
    )
    group.add_argument(
        "--page", type=Path, metavar="FILE.html", help="a page to walk through the pairs by error"
    )
    group.add_argument(
        "--tune",
        type=Path,
        metavar="FILE.yaml",
        help="choose the weights, rule and threshold of a vote by these reference links, and write "
        "its config",
    )


def check(arguments: argparse.Namespace) -> None:
    """Check the arguments, as far as possible without reading a file."""
    from attnzoo.cli.texts import check_pair_arguments

    check_pair_arguments(arguments)
    columns = columns_of(arguments)
    for name in ("skipped", "unread"):
        share = getattr(arguments, f"max_{name}")
        if not 0 <= share <= 1:
            raise UserError(f"--max-{name} {share}: wanted a share from 0 to 1")
    if arguments.run is not None:
        raise UserError(
            f"{arguments.run}: --aligner takes no RUN_DIR; a run's attention is "
            f"--aligner attention run={arguments.run}"
        )
    named = arguments.pairs is not None, arguments.source is not None
    if sum(named) != 1:
        raise UserError("--aligner: wanted --pairs FILE, or --source FILE --target FILE")
    if columns is not None and arguments.pairs is None:
        raise UserError("--columns goes with --pairs")
    links = arguments.gold is not None or (columns is not None and len(columns) > 2)
    for name in ("tables", "tags", "against", "tune", "page", "figures"):
        if getattr(arguments, name) and not links:
            raise UserError(f"--{name} needs reference links: --gold, or a third of --columns")
    if arguments.format == "npz" and arguments.output is None:
        raise UserError("--format npz: wanted -o FILE.npz")


def aligner_config(arguments: argparse.Namespace) -> Any:
    """Return the config of --aligner with its settings."""
    from attnzoo.config.alignment import AlignConfig
    from attnzoo.config.loader import load

    kind = arguments.aligner
    settings = [o if o.startswith("aligner.") else f"aligner.{o}" for o in arguments.settings]
    if kind.endswith((".yaml", ".yml")):
        found = load(AlignConfig, Path(kind), settings).aligner
    else:
        found = load(AlignConfig, None, [f"aligner={kind}", *settings]).aligner
    return _with_languages(found, arguments)


def _with_languages(config: Any, arguments: argparse.Namespace) -> Any:
    """Return a config whose translators have the languages of the command line."""
    import dataclasses

    from attnzoo.config.alignment import AttentionConfig, VoteConfig

    sides = ("source_language", "target_language")
    named = {side: getattr(arguments, side) for side in sides if getattr(arguments, side)}
    if not named:
        return config
    members = config.members if isinstance(config, VoteConfig) else (config,)
    if not any(isinstance(member, AttentionConfig) for member in members):
        option = f"--{next(iter(named)).replace('_', '-')}"
        raise UserError(f"{option} goes with --aligner attention, not with {config.kind}")
    told = tuple(
        dataclasses.replace(member, **named) if isinstance(member, AttentionConfig) else member
        for member in members
    )
    return dataclasses.replace(config, members=told) if isinstance(config, VoteConfig) else told[0]


def align_pairs(arguments: argparse.Namespace) -> int:
    """Align, write the links, and score them where there are reference links."""
    check(arguments)
    config = aligner_config(arguments)
    from attnzoo.data.corpus import Report
    from attnzoo.files import require_writable

    for path in (arguments.output, arguments.page, arguments.tune):
        if path is not None:
            require_writable(path)
    name = str(arguments.pairs or arguments.source)
    name = "standard input" if name == "-" else name
    faults, unread = Report(name, unit="lines"), Report(name, unit="pairs")
    pairs = input_pairs(arguments, faults)
    if arguments.limit is not None:
        from attnzoo.cli.texts import evenly

        everything = list(pairs)
        pairs = iter([everything[row] for row in evenly(len(everything), arguments.limit)])
    scored = arguments.gold is not None or len(columns_of(arguments) or ()) > 2
    seen, references = [], None
    if scored:
        from attnzoo.cli.align_scores import read_references, report

        seen = list(pairs)
        references = read_references(seen, arguments)
        pairs = iter(seen)
    text = training_text(arguments)
    if arguments.tune is not None:
        assert references is not None
        return _tune(config, seen, references.links, text, arguments)
    from attnzoo.training.aligners import build_aligner

    aligner = build_aligner(config, text)
    kept: list[Any] = []
    found = _aligned(aligner, pairs, unread)
    if scored and not arguments.figures and arguments.page is None:
        found = _without_matrices(found, kept)
    elif scored:
        found = _collecting(found, kept)
    count = _write(found, arguments)
    print(f"{count:,} pairs aligned by {config.kind}", file=sys.stderr)
    tell(faults, "malformed")
    tell(unread, "unread")
    if references is not None:
        report(kept, seen, references, config.kind, arguments)
    check_share(faults, "malformed", arguments.max_skipped, "--max-skipped")
    check_share(unread, "unread", arguments.max_unread, "--max-unread")
    return 0


def _aligned(aligner: Any, pairs: Iterator[Pair], unread: Any) -> Iterator[Any]:
    """Yield the alignments of all pairs, count those unread, and show progress now and then."""
    started = shown = None
    block = None if aligner.learns else BLOCK
    while some := list(itertools.islice(pairs, block)):
        for one in aligner.align([p.source for p in some], [p.target for p in some]):
            now = time.monotonic()
            if started is None or shown is None:  # loading and training are behind
                started = shown = now
            unread.read += 1
            if one.unread is not None:
                unread.skip(one.unread, str(unread.read))
            yield one
            if now - shown > SHOW_AFTER:
                shown = now
                rate = unread.read / (now - started)
                print(f"{unread.read:,} pairs, {rate:,.0f} a second", file=sys.stderr)


def _collecting(found: Iterator[Any], kept: list[Any]) -> Iterator[Any]:
    for one in found:
        kept.append(one)
        yield one


def _without_matrices(found: Iterator[Any], kept: list[Any]) -> Iterator[Any]:
    """Keep the alignments without their matrices, for scores alone."""
    import dataclasses

    for one in found:
        kept.append(dataclasses.replace(one, forward=None, backward=None))
        yield one


def _write(found: Iterator[Any], arguments: argparse.Namespace) -> int:
    """Write all alignments as they come; return how many there were."""
    from attnzoo.alignment.formats import WRITERS
    from attnzoo.files import open_regular

    count = 0

    def counted() -> Iterator[Any]:
        nonlocal count
        for one in found:
            count += 1
            yield one

    if arguments.format == "npz":
        _write_matrices(counted(), arguments.output)
        print(f"matrices: {arguments.output}")
        return count
    scored = arguments.gold is not None or len(columns_of(arguments) or ()) > 2
    with ExitStack() as stack:
        file: Any = None
        if arguments.output is not None:
            file = stack.enter_context(
                open(arguments.output, "w", encoding="utf-8", opener=open_regular)
            )
        elif not scored:
            file = sys.stdout
        for line in WRITERS[arguments.format](counted()):
            if file is not None:
                file.write(line + "\n")
    if arguments.output is not None:
        print(f"links: {arguments.output}")
    return count


def _write_matrices(found: Iterator[Any], path: Path) -> None:
    """Write `forward/N` (T S) and `backward/N` (S T) of each pair, from 0, one at a time."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, one in enumerate(found):
            for name in ("forward", "backward"):
                matrix = getattr(one, name)
                if matrix is not None:
                    with archive.open(f"{name}/{number}.npy", "w") as member:
                        np.lib.format.write_array(
                            member, np.ascontiguousarray(matrix), allow_pickle=False
                        )


def _tune(
    config: Any,
    pairs: Sequence[Pair],
    references: Sequence[Any],
    text: Any,
    arguments: argparse.Namespace,
) -> int:
    from attnzoo.alignment.vote import fit_vote
    from attnzoo.config.alignment import AlignConfig
    from attnzoo.config.loader import dump
    from attnzoo.files import write_text
    from attnzoo.training.aligners import build_aligner

    if config.kind != "vote":
        raise UserError(f"--tune goes with --aligner vote, not with {config.kind}")
    sides = [p.source for p in pairs], [p.target for p in pairs]
    alignments = [list(build_aligner(member, text).align(*sides)) for member in config.members]
    chosen, rate = fit_vote(config, alignments, references, restrict=arguments.restrict)
    write_text(arguments.tune, dump(AlignConfig(aligner=chosen)))
    names = ", ".join(
        f"{member.kind} {weight:g}" for member, weight in zip(chosen.members, chosen.weights)
    )
    print(f"AER {rate:.3f} on {len(pairs)} pairs: {names}; {chosen.rule} from {chosen.threshold:g}")
    print(f"config: {arguments.tune}")
    return 0
