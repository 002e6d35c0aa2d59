"""Recommend the next items of histories: `python scripts/recommend.py RUN_DIR [FILE]`."""

import sys

from attnzoo.cli.recommend import main

if __name__ == "__main__":
    sys.exit(main())
