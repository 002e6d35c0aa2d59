"""Continue a prompt with a trained model: `python scripts/generate.py MODEL --prompt TEXT`."""

import sys

from attnzoo.cli.generate import main

if __name__ == "__main__":
    sys.exit(main())
