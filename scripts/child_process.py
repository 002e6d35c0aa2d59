"""Environment of the child processes that the programs here start."""

import os
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment, in which a child finds attnzoo and the programs here.

    ``variables`` are added to it, or replace what it has.
    """
    paths = [str(SCRIPTS.parent), str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
