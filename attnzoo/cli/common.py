"""What the mains share: one-line errors and the compilation cache."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from attnzoo.errors import UserError


def run(command: Callable[[], int]) -> int:
    """Run a command; a UserError becomes one line on stderr and exit code 2."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `translate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def compilation_cache() -> None:
    """Let jax keep compiled programs between processes, in JAX_COMPILATION_CACHE_DIR if it is set,
    else in the user's cache directory: the second start of the same config compiles nothing.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "attnzoo" / "jax"))
