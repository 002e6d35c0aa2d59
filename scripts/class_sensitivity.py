"""Maps of two classes in one image: `python scripts/class_sensitivity.py RUN_DIR`."""

import sys

from attnzoo.cli.class_sensitivity import main

if __name__ == "__main__":
    sys.exit(main())
