"""Other attention, the same answers: `python scripts/adversarial.py RUN_DIR`."""

import sys

from attnzoo.cli.adversarial import main

if __name__ == "__main__":
    sys.exit(main())
