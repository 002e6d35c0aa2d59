"""Answer pictures, sounds, texts or questions: `python scripts/predict.py RUN INPUT ...`."""

import sys

from attnzoo.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
