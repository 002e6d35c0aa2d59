"""Parts shared by the commands: exit statuses, arguments and the compilation cache."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NoReturn

from attnzoo.config.external import trust_runs
from attnzoo.errors import UserError
from attnzoo.files import cache_directory, standard_streams

INTERRUPTED = 128 + signal.SIGINT
OUTPUT_CLOSED = 128 + signal.SIGPIPE
FAULT = 70
"""Exit status after a fault of this package (EX_SOFTWARE), the only one with a traceback."""
FAULTY = "this should not happen; unless it comes from code of yours, please report it"

ENVIRONMENT = {"jax", "matplotlib"}
"""Libraries that read environment variables while they are imported, and refuse some values."""
CPU_DEVICES = 1024
"""Most devices that jax is started with on one CPU; each costs memory and a thread."""


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; docs/reliability.md lists them.

    What the user can mend becomes one line on standard error and status 2. A reader of the output
    that has gone away (`translate ... | head`) ends the command without a word.
    """
    with standard_streams(), _one_line_each():
        try:
            try:
                return command()
            finally:
                with _writing():
                    sys.stdout.flush()
        except BrokenPipeError:
            return OUTPUT_CLOSED
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            message = _message(error)
            if message is None:
                traceback.print_exc()
            print(f"error: {message or FAULTY}", file=sys.stderr)
            return FAULT if message is None else 2


@contextlib.contextmanager
def _one_line_each() -> Generator[None]:
    """Make a wrong command line a UserError, and a warning of this package one plain line.

    Help that cannot be written is an OSError, which argparse would pass over.
    """

    def refuse(self: argparse.ArgumentParser, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help says what there is")

    def print_help(self: argparse.ArgumentParser, file: Any = None) -> None:
        with _writing():
            (file or sys.stdout).write(self.format_help())

    logger = logging.getLogger("attnzoo")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(logging.Formatter("warning: %(message)s"))
    parser = argparse.ArgumentParser
    before = parser.error, parser.print_help, logger.handlers, logger.propagate
    parser.error, parser.print_help = refuse, print_help
    logger.handlers, logger.propagate = handlers, False
    try:
        yield
    finally:
        parser.error, parser.print_help, logger.handlers, logger.propagate = before


@contextlib.contextmanager
def _writing() -> Generator[None]:
    """Name the output in an error."""
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise


def _message(error: Exception) -> str | None:
    """Return one line about an error that is not a fault of the program; None if it is one."""
    match error:
        case UserError():
            return str(error)
        case UnicodeEncodeError():
            missing = error.object[error.start]
            return f"the output's encoding {error.encoding} has no {missing!a}; set PYTHONUTF8=1"
        case OSError():  # a full disk, or a directory that is missing or not writable
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{error.strerror or error}"
    text = " ".join(str(error).split())
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [frame.f_globals.get("__name__", "") for frame in frames]
    if isinstance(error, ValueError | NotImplementedError) and modules[-1].startswith("attnzoo."):
        return text  # a function of ours names the argument that it refuses
    if isinstance(error, OverflowError):
        return f"a number is too large: {text}"
    if isinstance(error, MemoryError) or text.startswith("RESOURCE_EXHAUSTED"):
        return f"out of memory: {text[:200] or 'this needs more than there is'}"
    if modules[-1] == "jax._src.xla_bridge":
        asked = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX_PLATFORMS={asked}: {text[:200] or 'there is no such device here'}"
    imported = (m for f, m in zip(frames, modules) if f.f_code.co_name == "<module>")
    if isinstance(error, ValueError) and {m.partition(".")[0] for m in imported} & ENVIRONMENT:
        return f"in an environment variable: {text[:200]}"
    return None


class _Trust(argparse.Action):
    def __call__(self, *_: Any, **__: Any) -> None:
        trust_runs()


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--trust-code`` to a command that reads run directories."""
    parser.add_argument(
        "--trust-code",
        nargs=0,
        action=_Trust,
        help="run the code from outside of attnzoo that the config of a run names",
    )


def add_which(parser: argparse.ArgumentParser) -> None:
    """Add the option for the checkpoint of a run, which ``open_model`` follows."""
    parser.add_argument(
        "--which",
        choices=("best", "latest", "average"),
        default="best",
        help="checkpoint of a run: the best on validation, the latest, or the mean of the weights "
        "of all that training.keep kept (default: best)",
    )


def add_labels(parser: Any) -> None:
    """Add the option for texts that are classes of pictures."""
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="TEXT",
        help="the classes of pictures, for a model that compares pictures and texts (CLIP, SigLIP)",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add the option for weights in fewer bits, which ``open_model`` follows."""
    parser.add_argument(
        "--weights",
        choices=("float32", "bfloat16", "int8"),
        help="format of the weights: bfloat16 takes half of the memory of float32, int8 a quarter "
        "(default: as they are stored)",
    )


def add_languages(parser: argparse.ArgumentParser) -> None:
    """Add the options for folders that translate several languages."""
    for side in ("source", "target"):
        parser.add_argument(
            f"--{side}-language",
            metavar="CODE",
            help=f"{side} language of a folder that translates several, such as en, eng_Latn, "
            "en_XX; for T5 as its prefix names it, such as English",
        )


def open_model(path: Any, arguments: argparse.Namespace, *, other_way: bool = False) -> Any:
    """Open a run or a folder as the options of a command say; see ``attnzoo.open``.

    ``other_way`` exchanges the languages, for a translator of the other direction.
    """
    import attnzoo

    labels = getattr(arguments, "labels", None)
    named = [getattr(arguments, f"{side}_language", None) for side in ("source", "target")]
    source, target = reversed(named) if other_way else named
    found = attnzoo.open(
        path,
        which=arguments.which,
        source_language=source,
        target_language=target,
        weights=getattr(arguments, "weights", None),
    )
    if labels is not None:
        from attnzoo.training.zero_shot import zero_shot

        return zero_shot(found, labels)
    if found.kind == "contrastive" and hasattr(arguments, "labels"):
        raise UserError(
            f"{path}: {found.description}; wanted --labels TEXT TEXT ..., which pictures are "
            "compared with"
        )
    return found


def output_folder(trained: Any, arguments: argparse.Namespace, name: str = "") -> Path:
    """Return where a command writes: ``--out``, or the run, or runs/MODEL for a folder of others.

    ``name`` is a folder inside of the run, not of ``--out``.
    """
    from attnzoo.tasks.run_file import is_run

    path = trained.directory.path
    home = path if is_run(path) else Path("runs") / path.name
    return arguments.out or home / name


def new_name(stem: str, taken: set[str]) -> str:
    """Return a name that no earlier input of the command has, and take it: a, a-2, a-3."""
    number, new = 1, stem
    while new in taken:
        number += 1
        new = f"{stem}-{number}"
    taken.add(new)
    return new


class Failures:
    """Inputs of one command that have no answer, each named on standard error as it comes.

    Attributes:
      count: number of inputs without an answer.
      total: number of all inputs; a command that reads them one by one counts them here.
    """

    def __init__(self, total: int = 0):
        self.count, self.total = 0, total

    def add(self, place: Any, problem: str) -> None:
        """Name an input and why it has no answer."""
        self.count += 1
        print(f"warning: {place}: {problem}", file=sys.stderr)

    @contextlib.contextmanager
    def of(self, place: Any) -> Generator[None]:
        """Turn a UserError about one of several inputs into a warning, so that the others go on.

        The error of a single input stays one.
        """
        try:
            yield
        except UserError as error:
            if self.total == 1:
                raise
            self.add(place, str(error).removeprefix(f"{place}: "))

    def status(self) -> int:
        """Print how many inputs failed; return 0 for none, 2 for all of them, else 1."""
        if self.count:
            print(f"{self.count:,} of {self.total:,} inputs have no answer", file=sys.stderr)
        return 0 if not self.count else 2 if self.count == self.total else 1


def require_positive(arguments: argparse.Namespace, *names: str, most: int = 100_000) -> None:
    """Raise a UserError for counts below 1 or above ``most``, which would only fill the memory."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= most:
            wanted = "at least 1" if value < 1 else f"at most {most:,}"
            raise UserError(f"--{name.replace('_', '-')} {value}: wanted {wanted}")


def require_penalty(alpha: float | None) -> None:
    """Raise a UserError for a length penalty that is negative or NaN."""
    if alpha is not None and not alpha >= 0:
        raise UserError(f"--length-penalty {alpha}: wanted 0 or more")


def compilation_cache() -> None:
    """Enable jax's persistent compilation cache, so that a second start compiles nothing.

    The directory is JAX_COMPILATION_CACHE_DIR if set, else in the user's cache directory. Programs
    that compile in less than a second are cached too, unlike jax's default, because a training has
    dozens of them.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
