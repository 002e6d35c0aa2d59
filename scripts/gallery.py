"""Draw what docs/attention.md and docs/demonstrations.md show: `python scripts/gallery.py`."""

import sys

from gallery_pictures.main import main

if __name__ == "__main__":
    sys.exit(main())
