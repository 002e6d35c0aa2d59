"""Explain a trained run's answers: `python scripts/explain.py RUN_DIR INPUT...`."""

import sys

from attnzoo.cli.explain import main

if __name__ == "__main__":
    sys.exit(main())
