"""`python -m attnzoo.cli COMMAND ...`: where the command `attnzoo` is not on the path."""

import sys

from attnzoo.cli import main

sys.exit(main())
