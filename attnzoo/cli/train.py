"""`train CONFIG [key=value ...]`: train the model of a config into its run directory."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from attnzoo.cli.common import compilation_cache, run
from attnzoo.config.experiment import Experiment
from attnzoo.config.loader import help_text, load


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; leftovers that contain "=" are overrides."""
    parser = argparse.ArgumentParser(
        prog="train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every field of a config, for the file and for key=value:\n\n"
        + help_text(Experiment),
    )
    parser.add_argument(
        "config", type=Path, help="a YAML file, see configs/; or, with --resume, a run"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. model.attention=dot training.seed=7"
    )
    parser.add_argument("--run-dir", type=Path, help="where to write (default: runs/NAME)")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest valid checkpoint of the run"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="KEY",
        help="with --resume: this key of the fingerprint may differ (versions.jax, devices, ...)",
    )
    arguments, rest = parser.parse_known_args(argv)
    wrong = [argument for argument in rest if argument.startswith("-") or "=" not in argument]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    arguments.overrides += rest
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 2: something to mend; 75: stopped on request, to be resumed."""
    return run(lambda: _train(parse(argv)))


def _train(arguments: argparse.Namespace) -> int:
    path = arguments.config
    if arguments.resume and path.is_dir():
        arguments.run_dir, path = arguments.run_dir or path, path / "config.yaml"
    config = load(Experiment, path, arguments.overrides)
    if arguments.run_dir is not None:
        config = dataclasses.replace(config, directory=arguments.run_dir)
    # Only now, when the config is known to be right, the seconds that jax takes to import.
    from attnzoo.training.loop import train

    compilation_cache()
    return train(config, resume=arguments.resume, allow=arguments.allow).exit_code
