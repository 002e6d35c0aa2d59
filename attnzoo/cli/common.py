"""Parts shared by the commands: one-line errors and the compilation cache."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attnzoo.config.external import trust_runs
from attnzoo.errors import UserError


def run(command: Callable[[], int]) -> int:
    """Run a command; a UserError or OSError becomes one line on stderr and exit code 2."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `translate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, or a directory that is missing or not writable
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def with_overrides(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse a command line whose ``overrides``, key=value, may also follow options."""
    arguments, rest = parser.parse_known_args(argv)
    wrong = [argument for argument in rest if argument.startswith("-") or "=" not in argument]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    arguments.overrides += rest
    return arguments


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


def require_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Raise a UserError for numbers below 1."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: wanted at least 1")


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
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "attnzoo" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
