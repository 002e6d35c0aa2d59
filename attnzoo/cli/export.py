"""`export MODEL --out FOLDER`: a trained model as files that run without its code.

MODEL is a run, or a folder of transformers.
The folder holds StableHLO programs for each platform, the weights as safetensors, the tokenizer,
export.json with inputs and outputs, and load.py, which runs them; `python FOLDER/load.py` lists
them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from attnzoo.cli.common import (
    add_languages,
    add_trust,
    add_weights,
    add_which,
    open_model,
    require_positive,
    run,
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="MODEL", help="a run, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder; absent or empty")
    parser.add_argument(
        "--platforms", nargs="+", default=["cpu", "cuda", "tpu"], help="(default: cpu cuda tpu)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, help="longest output in tokens (default: the config's)"
    )
    add_which(parser)
    add_languages(parser)
    add_weights(parser)
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 2: something to mend."""
    return run(lambda: _export(parse(argv)))


def _export(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "max_new_tokens")
    # Imported late, so that --help does not wait for jax.
    import jax

    # The kernels of a device at hand are not those of every platform.
    jax.config.update("jax_platforms", "cpu")
    from attnzoo.export.write import export_run

    about = export_run(
        open_model(arguments.run, arguments),
        arguments.out,
        platforms=arguments.platforms,
        max_new_tokens=arguments.max_new_tokens,
    )
    size = sum(path.stat().st_size for path in arguments.out.expanduser().iterdir())
    for name, program in about["programs"].items():
        fixed = ", ".join(f"{size}={n}" for size, n in program["fixed"].items())
        print(f"{name}: {'any sizes' if not fixed else f'fixed {fixed}'}")
    print(f"{', '.join(about['platforms'])}: {size / 1e6:,.1f} MB -> {arguments.out}")
    return 0
