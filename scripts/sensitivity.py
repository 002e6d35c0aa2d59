"""Maps of two classes in one image: `python scripts/sensitivity.py RUN_DIR`."""

import sys

from attnzoo.cli.sensitivity import main

if __name__ == "__main__":
    sys.exit(main())
