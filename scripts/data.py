"""Data sets and their token stores: `python scripts/data.py build|show|verify|clean|get`."""

import sys

from attnzoo.cli.data import main

if __name__ == "__main__":
    sys.exit(main())
