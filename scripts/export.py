"""A trained model that runs without its code: `python scripts/export.py RUN_DIR --out FOLDER`."""

import sys

from attnzoo.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
