"""Scores of `align --aligner`: tables, a paired bootstrap, pictures and a page."""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from attnzoo.alignment.links import Links
from attnzoo.cli.align_input import Pair, read_text
from attnzoo.errors import UserError


def references_of(pairs: Sequence[Pair], arguments: argparse.Namespace) -> list[Links]:
    """Return the reference links of all pairs, from --gold or the table."""
    from attnzoo.alignment.formats import READERS, check_links

    order: dict[str, Any] = {"target_first": arguments.target_first}
    if arguments.one_based is not None:
        order["one_based"] = arguments.one_based
    if arguments.gold is not None:
        name = arguments.gold
        lines = [text for _, text in read_text(name, arguments.encoding)]
        found = READERS[arguments.gold_format](lines, name, **order)
        if arguments.gold_format != "pharaoh":  # pairs at the end may have no link
            found += [Links.of([])] * (len(pairs) - len(found))
        if arguments.limit is not None and len(found) != len(pairs):
            from attnzoo.cli.texts import evenly

            found = [found[row] for row in evenly(len(found), arguments.limit)]
    else:
        name = arguments.pairs
        found = READERS["pharaoh"]([pair.links or "" for pair in pairs], name, **order)
    check_links(found, [(len(pair.source), len(pair.target)) for pair in pairs], name)
    return found


class References(NamedTuple):
    """All that alignments are compared with, read and checked before anything is aligned."""

    links: list[Links]
    against: list[set[tuple[int, int]]] | None
    tags: list[list[str]] | None


def read_references(pairs: Sequence[Pair], arguments: argparse.Namespace) -> References:
    """Read the reference links, the links of --against and the --tags, one for every pair."""
    return References(
        references_of(pairs, arguments),
        None if arguments.against is None else _links_of(arguments, len(pairs)),
        None if arguments.tags is None else _tags(pairs, arguments),
    )


def report(
    alignments: Sequence[Any],
    pairs: Sequence[Pair],
    references: References,
    kind: str,
    arguments: argparse.Namespace,
) -> None:
    """Print and draw what the arguments ask for."""
    from attnzoo.alignment.scores import count_corpus, paired_bootstrap
    from attnzoo.cli.align_report import print_scores
    from attnzoo.data.corpus import Corpus

    gold, other, tags = references
    links = [set(one.links) for one in alignments]
    sides = [" ".join(p.source) for p in pairs], [" ".join(p.target) for p in pairs]
    corpus = Corpus(*sides, links=gold)
    rows: dict[str, list] = {kind: links}
    restrict = arguments.restrict
    if other is not None:
        rows["against"] = other
    print_scores(rows, corpus, str(arguments.pairs or arguments.source), restrict)
    if other is not None:
        own, rival = (count_corpus(x, gold, restrict=restrict) for x in (links, other))
        found = paired_bootstrap(own, rival)
        print(
            f"AER less that of {arguments.against}: {found.mean:+.4f}, 95 % interval "
            f"{found.low:+.4f} to {found.high:+.4f}, p = {found.p_value:.3f} (paired bootstrap)"
        )
    if arguments.tables or tags is not None:
        _print_tables(links, gold, pairs, tags, restrict)
    if arguments.figures:
        _draw(links, gold, pairs, arguments)
    if arguments.page is not None:
        from attnzoo.cli.align_page import write_page

        write_page(arguments.page, alignments, gold, restrict=restrict)
        print(f"page: {arguments.page}")


def _links_of(arguments: argparse.Namespace, count: int) -> list[set[tuple[int, int]]]:
    from attnzoo.alignment.formats import read_pharaoh

    name = arguments.against
    found = read_pharaoh((text for _, text in read_text(name, arguments.encoding)), name)
    if len(found) != count:
        raise UserError(f"{name}: links of {len(found):,} pairs, wanted {count:,}")
    return [set(one.possible) for one in found]


def _tags(pairs: Sequence[Pair], arguments: argparse.Namespace) -> list[list[str]]:
    name = arguments.tags
    tags = [text.split() for _, text in read_text(name, arguments.encoding)]
    if len(tags) != len(pairs):
        raise UserError(f"{name}: {len(tags):,} lines, wanted {len(pairs):,}")
    for number, (some, pair) in enumerate(zip(tags, pairs), start=1):
        if len(some) != len(pair.target):
            raise UserError(f"{name}:{number}: {len(some)} tags for {len(pair.target)} words")
    return tags


def _print_tables(
    links: Sequence[set],
    gold: Sequence[Links],
    pairs: Sequence[Pair],
    tags: list[list[str]] | None,
    restrict: bool,
) -> None:
    from attnzoo.alignment.breakdown import counts_by, tables

    sides = [p.source for p in pairs], [p.target for p in pairs]
    for title, group in tables(*sides, gold, tags).items():
        print(f"{title}:")
        print(f"  {'':<24} {'AER':>6} {'precision':>10} {'recall':>7} {'F1':>6} {'links':>8}")
        for name, counts in counts_by(group, links, gold, restrict=restrict).items():
            print(
                f"  {name:<24} {counts.aer:6.3f} {counts.precision:10.3f} {counts.recall:7.3f} "
                f"{counts.f1:6.3f} {counts.sure:8,}"
            )


def _draw(
    links: Sequence[set], references: Sequence[Links], pairs: Sequence[Pair], arguments: Any
) -> None:
    from pathlib import Path

    from attnzoo import plotting
    from attnzoo.cli.texts import evenly

    folder = arguments.figure_dir or Path("figures")
    rows = [row for row, pair in enumerate(pairs) if pair.source and pair.target]
    for row in (rows[k] for k in evenly(len(rows), arguments.figures)):
        words = pairs[row].source, pairs[row].target
        for name, draw in (("beads", plotting.beads), ("matrix", plotting.link_matrix)):
            figure = draw(*words, links[row], references[row], restrict=arguments.restrict)
            print(f"figure: {plotting.save(figure, folder / f'{name}-{row + 1}.png')}")
