"""`demo`: train additive attention on the embedded corpus, score it, draw its alignment."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attnzoo.cli import align, evaluate, train

ROOT = Path(__file__).resolve().parents[1]
PHRASES = (
    "Tuesday , September 8 , 2015",
    "Tuesday , September 8 , 2015 or 3 days ago",
)


def main(argv: Sequence[str] | None = None) -> int:
    """A few minutes on two CPU cores; a second call goes on where the first one stopped."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "demo.yaml")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    run = str(arguments.run_dir)
    resume = ["--resume"] if (arguments.run_dir / "config.yaml").exists() else []
    wanted = [str(arguments.config), *arguments.overrides, "--run-dir", run, *resume]
    steps = (
        lambda: train.main(wanted),
        lambda: evaluate.main([run]),
        lambda: align.main([run, "--figures", "4"]),
        lambda: align.main([run, *(part for text in PHRASES for part in ("--sentence", text))]),
    )
    for step in steps:
        print()
        if code := step():
            return code
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"\ndone in {minutes} min {seconds} s; the run is in {run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
