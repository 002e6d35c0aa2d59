"""`train CONFIG [key=value ...]`: train the model of a config into its run directory."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import (
    CPU_DEVICES,
    add_trust,
    compilation_cache,
    require_positive,
    run,
)
from attnzoo.config import help as config_help
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.external import runs_are_trusted
from attnzoo.config.loader import load

EPILOG = """\
sections of a config, for the file and for key=value:
{index}
--help takes any part of them, and `all`:

  train --help training.optimizer            every kind, a line each
  train --help model.attention.multi_head    the fields of one kind
  train --help all                           every field of every kind

examples:
  train configs/demo.yaml
  train configs/demo.yaml model.attention=multi_head training.seed=7 --run-dir runs/heads
  train runs/heads --resume
"""


class _Help(argparse.Action):
    """``--help`` alone, or with the part of a config that it is about."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values is None:
            parser.print_help()
        else:
            print(config_help.part(ExperimentConfig, values), end="")
        parser.exit()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; leftovers that contain "=" are overrides."""
    parser = argparse.ArgumentParser(
        prog="train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG.format(index=config_help.index(ExperimentConfig)),
        add_help=False,
    )
    parser.add_argument(
        "-h",
        "--help",
        nargs="?",
        action=_Help,
        metavar="PART",
        help="help, or a part of a config",
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
    add_trust(parser)
    several = parser.add_argument_group("several processes (docs/scaling.md)")
    several.add_argument(
        "--distributed", action="store_true", help="find the processes by Slurm, Kubernetes, ..."
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    several.add_argument("--processes", type=int, metavar="N", help="number of processes")
    several.add_argument("--process", type=int, metavar="I", help="number of this process")
    several.add_argument(
        "--heartbeat",
        type=int,
        default=30,
        metavar="SECONDS",
        help="stop all processes if one is silent for so long (default: 30)",
    )
    several.add_argument(
        "--cpu-devices", type=int, metavar="N", help="emulate N devices on this CPU"
    )
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 2: something to mend; 75: stopped on request, to be resumed."""
    return run(lambda: _train(parse(argv)))


def _train(arguments: argparse.Namespace) -> int:
    path = arguments.config
    of_a_run = arguments.resume and path.is_dir()
    if of_a_run:
        arguments.run_dir, path = arguments.run_dir or path, path / "config.yaml"
    trust = not of_a_run or runs_are_trusted()
    config = load(ExperimentConfig, path, arguments.overrides, trust_code=trust)
    if arguments.run_dir is not None:
        config = dataclasses.replace(config, directory=arguments.run_dir)
    require_positive(arguments, "cpu_devices", most=CPU_DEVICES)
    require_positive(arguments, "processes", "heartbeat", most=10**6)
    # Only now, when the config is known to be right, the seconds that jax takes to import.
    import jax

    from attnzoo.training import processes
    from attnzoo.training.loop import train

    if arguments.cpu_devices is not None:
        # XLA has a thread for each core. A device that waits for the others keeps one: with as many
        # devices as cores none would be left to compute what they wait for.
        threads = (os.cpu_count() or 1) + 2 * arguments.cpu_devices
        os.environ.setdefault("NPROC", str(threads))
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", arguments.cpu_devices)
    where = (arguments.coordinator, arguments.processes, arguments.process)
    if arguments.distributed or any(value is not None for value in where):
        processes.connect(*where, heartbeat=arguments.heartbeat)
    compilation_cache()
    return train(config, resume=arguments.resume, allow=arguments.allow).exit_code
