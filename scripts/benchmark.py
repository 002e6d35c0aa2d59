"""Measure a workload beside its peers: `python scripts/benchmark.py seq2seq`."""

import sys

from attnzoo.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
