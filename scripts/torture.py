"""Hurt runs on purpose and count what survives: `python scripts/torture.py all`."""

import sys

from fault_injection.main import main

if __name__ == "__main__":
    sys.exit(main())
