"""`plan CONFIG [key=value ...] --device NAME`: what a training will take, before it is paid for.

The step of the training is compiled for the mesh ahead of time where jax can (this CPU, or a TPU or
GPU whose plugin is installed; the device need not be there), and nothing is run or allocated. Where
it cannot, formulas answer, and say so. Exit status 1: it does not fit; what would is proposed.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import CPU_DEVICES, add_trust, run
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.external import runs_are_trusted
from attnzoo.config.loader import load
from attnzoo.errors import UserError
from attnzoo.planning.devices import DEVICES


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; leftovers that contain "=" are overrides."""
    parser = argparse.ArgumentParser(
        prog="plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train")
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="sizes of data, fsdp, sequence, tensor; short for mesh.AXIS=N (default: the config's)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help=f"one of {', '.join(DEVICES)} (default: cpu)",
    )
    parser.add_argument(
        "--devices", type=int, metavar="N", help="all devices, if the mesh has no size of data"
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of every peak speed that is reached (default: 0.5)",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="formulas alone: seconds instead of minutes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: it fits; 1: it does not; 2: something to mend."""
    return run(lambda: _plan(parse(argv)))


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.device not in DEVICES:
        raise UserError(f"--device {arguments.device}: unknown; wanted one of {', '.join(DEVICES)}")
    if not 0 < arguments.efficiency <= 1:
        raise UserError(f"--efficiency {arguments.efficiency}: wanted more than 0, at most 1")
    if (arguments.config / "config.json").exists():
        raise UserError(
            f"{arguments.config}: weights, of which no training is planned; wanted a config that "
            f"starts from them: plan CONFIG start_from={arguments.config}"
        )
    overrides = [*arguments.overrides, *_axes(arguments.mesh)]
    of_a_run = (arguments.config.parent / "checkpoints").is_dir()
    trust = not of_a_run or runs_are_trusted()
    config = load(ExperimentConfig, arguments.config, overrides, trust_code=trust)
    config = _counted(config, arguments.devices)
    import jax

    # Nothing runs on an accelerator that may be here: compiling does not need it.
    jax.config.update("jax_platforms", "cpu")
    if arguments.device == "cpu":
        _start_cpu(math.prod(size or 1 for size in config.mesh.sizes.values()))

    from attnzoo.planning.plan import Planner
    from attnzoo.planning.proposal import propose
    from attnzoo.planning.report import as_table, as_values, refusal

    planner = Planner(
        arguments.device, efficiency=arguments.efficiency, ahead=not arguments.no_compile
    )
    plan = planner.plan(config)
    proposal = None if plan.fits else propose(planner, plan)
    if arguments.json:
        values: dict[str, Any] = as_values(plan)
        if proposal is not None:
            values["proposal"] = {
                "overrides": proposal.overrides,
                "plan": as_values(proposal.plan),
            }
        print(json.dumps(values, indent=2))
    else:
        print(as_table(plan))
    if plan.fits:
        return 0
    print(f"no: {refusal(plan)}", file=sys.stderr)
    if not arguments.json:
        if proposal is None:
            print(
                "\nnothing near it fits: no mesh of up to 64 times the devices, no remat, no batch"
            )
        else:
            print(f"\nwould fit: {' '.join(proposal.overrides)}\n\n{as_table(proposal.plan)}")
    return 1


def _axes(text: str | None) -> list[str]:
    """``data=8,fsdp=2`` as overrides."""
    if text is None:
        return []
    found = []
    for part in text.split(","):
        axis, equals, count = part.strip().partition("=")
        if not equals or axis not in ("data", "fsdp", "sequence", "tensor"):
            raise UserError(f"--mesh {part!r}: wanted data=N, fsdp=N, sequence=N or tensor=N")
        found.append(f"mesh.{axis}={count}")
    return found


def _counted(config: ExperimentConfig, devices: int | None) -> ExperimentConfig:
    """With ``mesh.data`` as the number of devices leaves it."""
    mesh = config.mesh
    rest = mesh.fsdp * mesh.sequence * mesh.tensor
    if mesh.data is None:
        devices = rest if devices is None else devices
        if devices < 1 or devices % rest:
            raise UserError(
                f"--devices {devices}: mesh.fsdp={mesh.fsdp} x mesh.sequence={mesh.sequence} x "
                f"mesh.tensor={mesh.tensor} wants a multiple of {rest}"
            )
        mesh = dataclasses.replace(mesh, data=devices // rest)
    elif devices is not None and devices != mesh.data * rest:
        raise UserError(f"--devices {devices}: the mesh has {mesh.data * rest}; leave out one")
    return dataclasses.replace(config, mesh=mesh)


def _start_cpu(count: int) -> None:
    """As many devices as the mesh wants, all on this CPU, unless jax runs already."""
    import jax

    if count > CPU_DEVICES:
        raise UserError(
            f"{count:,} devices: a plan for cpu starts them all here, at most {CPU_DEVICES:,}; "
            "wanted another --device"
        )
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if len(jax.devices()) < count:
            raise UserError(
                f"wanted {count} devices, but jax has started with {len(jax.devices())}; plan in a "
                "new process"
            ) from error
