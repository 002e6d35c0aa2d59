"""Translate lines with a trained run: `python scripts/translate.py RUN_DIR [FILE]`."""

import sys

from attnzoo.cli.translate import main

if __name__ == "__main__":
    sys.exit(main())
