"""`predict RUN INPUT ...`: what a trained model says of pictures, sounds, texts or questions.

One line for each input, in their order: a caption, a transcript, an answer, a summary, boxes or a
class, by the task of the run. An input that cannot be read leaves its line empty and is named on
standard error.
"""

import argparse
import contextlib
import functools
import itertools
import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnzoo.cli.common import (
    Failures,
    add_labels,
    add_languages,
    add_trust,
    add_weights,
    compilation_cache,
    new_name,
    open_model,
    require_positive,
    run,
)
from attnzoo.cli.texts import add_encoding
from attnzoo.errors import UserError

if TYPE_CHECKING:
    from attnzoo.tasks.prediction import Prediction


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, or a folder")
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help="files; - is standard input, for texts",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with more")
    parser.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="draw what the model attended to"
    )
    parser.add_argument("--batch-size", type=int, help="inputs together (default: the config's)")
    parser.add_argument("--beam", type=int, help="hypotheses of a text; 1: greedy")
    parser.add_argument(
        "--max-length", type=int, help="tokens of a text, or of a window that is read"
    )
    parser.add_argument(
        "--heads",
        nargs="+",
        type=_head,
        metavar="LAYER.HEAD",
        help="cross-attentions of a Whisper that align words (default: the folder's), such as 3.1",
    )
    parser.add_argument(
        "--timestamps",
        action="store_true",
        default=None,
        help="times of segments by the time tokens of a Whisper, as for sounds longer than its "
        "window; see --json",
    )
    add_languages(parser)
    parser.add_argument("--which", choices=("best", "latest"), default="best", help="checkpoint")
    add_encoding(parser)
    add_labels(parser)
    add_weights(parser)
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write a line for each input; return 1 if some, and 2 if all of them cannot be read."""
    return run(lambda: _predict(parse(argv)))


def _predict(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "batch_size", "beam", "max_length")
    folder = arguments.figures
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--figures {folder}: a file; wanted a folder, or a new name")
    from attnzoo import plotting
    from attnzoo.tasks.prediction import PredictSettings

    compilation_cache()
    trained = open_model(arguments.run, arguments)
    task: Any = trained.task
    if task is None or task.predicts is None:
        raise UserError(
            f"{arguments.run}: {trained.description}, which does not answer to inputs; wanted a "
            "run that does; translate, align, generate, recommend or explain may take this one"
        )
    for name in ("beam", "max_length", "heads", "timestamps"):
        if getattr(arguments, name) is not None and name not in task.predict_options:
            option = name.replace("_", "-")
            raise UserError(f"--{option} has no effect on {trained.description}; leave it out")
    settings = PredictSettings(
        arguments.batch_size,
        arguments.beam,
        arguments.max_length,
        arguments.encoding,
        None if arguments.heads is None else tuple(arguments.heads),
        arguments.timestamps,
    )
    failures = Failures()
    drawn: set[str] = set()
    answer = functools.partial(task.predict, trained.model, settings=settings)
    with contextlib.closing(_answers(answer, arguments.inputs)) as answers:
        for one in answers:
            failures.total += 1
            if one.problem is not None:
                failures.add(one.name, one.problem)
            problem = {} if one.problem is None else {"problem": one.problem}
            record = {"input": one.name, **one.record, **problem}
            print(
                json.dumps(record, ensure_ascii=False) if arguments.json else one.text, flush=True
            )
            if arguments.figures is not None and one.figure is not None:
                path = arguments.figures / _figure_name(one.name, drawn)
                plotting.save(one.figure(), path)
    if arguments.figures is not None and not drawn:
        print(f"--figures: nothing to draw for {trained.description}", file=sys.stderr)
    return failures.status()


def _head(text: str) -> tuple[int, int]:
    """Return layer and head of an argument such as 3.1."""
    layer, _, head = text.partition(".")
    if not (layer.isdecimal() and head.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}; wanted LAYER.HEAD, such as 3.1")
    return int(layer), int(head)


def _answers(
    answer: Callable[..., Iterator["Prediction"]], paths: Sequence[Path]
) -> Generator["Prediction"]:
    """Yield the answers for files in their order, also for what is no file or is empty."""
    from attnzoo.tasks.prediction import Prediction

    for readable, some in itertools.groupby(paths, key=lambda path: _why_not(path) is None):
        if readable:
            yield from answer(inputs=list(some))
        else:
            yield from (Prediction(str(path), "", problem=_why_not(path)) for path in some)


def _why_not(path: Path) -> str | None:
    """Return why a path cannot be an input; None if it may be one."""
    if str(path) == "-":
        return None
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "a folder; wanted a file"
    return "an empty file" if path.is_file() and not path.stat().st_size else None


def _figure_name(name: str, taken: set[str]) -> str:
    """Return a new file name made of the input's."""
    path, colon, line = name.rpartition(":")
    stem = f"{Path(path).stem}-{line}" if colon and line.isdigit() else Path(name).stem
    return f"{new_name(stem, taken)}.png"
