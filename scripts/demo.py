"""Train, score and draw the demonstration: `python scripts/demo.py`, which `make demo` calls."""

import sys

from attnzoo.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
