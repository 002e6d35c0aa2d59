"""A model to transformers and back: `python scripts/convert.py SOURCE TARGET`."""

import sys

from attnzoo.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
