"""Options of `align` that belong to a run alone, or to `--aligner` alone."""

import argparse
from collections.abc import Sequence

from attnzoo.errors import UserError

RUN = {
    "split": "",
    "links": "--gold",
    "generated": "",
    "sentence": "",
    "timing": "timing= of attention",
    "layer": "layer= of attention",
    "head": "head= of attention",
    "by": "by= of attention",
    "fill": "",
    "choose": "",
    "choose_pairs": "",
    "survey": "",
    "null": "",
    "level": "",
    "compare": "--against",
    "eflomal": "--aligner eflomal",
    "reverse": "reverse= of attention",
    "symmetrize": "rule=",
    "which": "",
}
"""Option of `align RUN_DIR`, and what does the same for `--aligner`."""

PAIRS = {
    "pairs": "--source FILE --target FILE",
    "columns": "",
    "text": "",
    "max_skipped": "",
    "max_unread": "",
    "gold": "--links",
    "gold_format": "",
    "one_based": "",
    "target_first": "",
    "format": "",
    "against": "--compare",
    "tables": "",
    "tags": "",
    "page": "",
    "tune": "--choose",
}
"""Option of `align --aligner`, and what does the same for a run."""

BOTH = {
    "run", "aligner", "source", "target", "encoding", "limit", "restrict", "output", "figures",
    "figure_dir", "trust_code", "source_language", "target_language",
}  # fmt: skip
"""Options of both."""


def check_door(
    parser: argparse.ArgumentParser, words: Sequence[str] | None, arguments: argparse.Namespace
) -> None:
    """Raise a UserError for an option that `--aligner`, or a run, does not have.

    It is enough that the option is given, though with its default.
    """
    for action in parser._actions:
        action.default = None
    given = vars(parser.parse_intermixed_args(words))
    door, other = (RUN, "a run") if arguments.aligner is not None else (PAIRS, "--aligner")
    for name, instead in door.items():
        if given[name] is not None:
            way = "--aligner" if arguments.aligner is not None else "a run"
            hint = f"; wanted {instead}" if instead else ""
            raise UserError(f"--{name.replace('_', '-')} goes with {other}, not with {way}{hint}")
