"""Train the model of a config: `python scripts/train.py CONFIG [key=value ...]`."""

import sys

from attnzoo.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
