"""Measure a workload beside its peers: `python scripts/benchmark.py seq2seq`."""

import sys

from benchmarks.main import main

if __name__ == "__main__":
    sys.exit(main())
