"""Word alignments of a trained run: `python scripts/align.py RUN_DIR`."""

import sys

from attnzoo.cli.align import main

if __name__ == "__main__":
    sys.exit(main())
