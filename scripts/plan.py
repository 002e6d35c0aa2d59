"""What a training will take: `python scripts/plan.py CONFIG --mesh data=8 --device h200`."""

import sys

from attnzoo.cli.plan import main

if __name__ == "__main__":
    sys.exit(main())
