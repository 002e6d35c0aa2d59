"""Score a trained run: `python scripts/evaluate.py RUN_DIR`."""

import sys

from attnzoo.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
