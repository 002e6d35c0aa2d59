"""What the mains share: one-line errors and the compilation cache."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attnzoo.config.external import trust_runs
from attnzoo.errors import UserError


def run(command: Callable[[], int]) -> int:
    """Run a command; what the user or the disk did wrong is one line on stderr and exit code 2."""
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
    except OSError as error:  # a full disk, a directory that is not there or may not be written
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def with_overrides(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse a command line whose ``overrides``, key=value, may stand behind options too."""
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
    """Give a command that reads run directories the option ``--trust-code``."""
    parser.add_argument(
        "--trust-code",
        nargs=0,
        action=_Trust,
        help="run the code from outside of attnzoo that the config of a run names",
    )


def require_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse numbers below 1, before anything takes time."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: wanted at least 1")


def require_penalty(alpha: float | None) -> None:
    """Refuse a length penalty that would punish longer outputs, and NaN."""
    if alpha is not None and not alpha >= 0:
        raise UserError(f"--length-penalty {alpha}: wanted 0 or more")


def compilation_cache() -> None:
    """Let jax keep compiled programs between processes, in JAX_COMPILATION_CACHE_DIR if it is set,
    else in the user's cache directory: the second start of the same config compiles nothing.

    Small programs too, which jax leaves out: a training has dozens that are no step, each compiled
    in less than its limit of a second.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "attnzoo" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
