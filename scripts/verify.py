"""Check every checkpoint of a run: `python scripts/verify.py RUN_DIR`."""

import sys

from attnzoo.cli.verify import main

if __name__ == "__main__":
    sys.exit(main())
