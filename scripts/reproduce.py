"""Measure what papers claim of attention: `python scripts/reproduce.py list`."""

import sys

from reproductions.main import main

if __name__ == "__main__":
    sys.exit(main())
