"""Measured numbers of claims as JSON files, one a claim, with versions, times and the machine."""

import dataclasses
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

from attnzoo.errors import UserError
from attnzoo.files import write_text
from reproductions.claim import Claim, Measured, Results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "reproductions"


def machine() -> dict[str, str]:
    """Return what numbers and times depend on: versions, processor, cores."""
    from attnzoo.training.origin import versions

    device = "cpu"
    if "jax" in sys.modules:
        import jax

        device = jax.devices()[0].device_kind
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        **versions(),
        "device": device,
        "processor": f"{model}, {cores} core{'' if cores == 1 else 's'}",
    }


@dataclasses.dataclass
class Record:
    """Criterion and numbers that a file keeps of a claim.

    Attributes:
        criterion: its conditions in words at the time of measuring.
        seeds: by seed, its numbers, the seconds of wall clock and of CPU, and the machine.
    """

    criterion: list[str]
    seeds: dict[int, dict[str, Any]]

    @property
    def results(self) -> Results:
        """The numbers alone."""
        return Results(
            {
                seed: {name: _measured(value) for name, value in one["values"].items()}
                for seed, one in sorted(self.seeds.items())
            }
        )


def _measured(value: Any) -> Measured:
    return (value[0], value[1], value[2]) if isinstance(value, list) else float(value)


def check_numbers(place: str, values: Any, first: Any) -> None:
    """Raise a UserError unless numbers are finite, and those of the first seed."""
    for name in {**first, **values}:
        if name not in values or name not in first:
            raise UserError(f"{place}: {name!r} is not in the numbers of every seed")
        value = values[name]
        parts = value if isinstance(value, list) and len(value) == 3 else [value]
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in parts):
            raise UserError(
                f"{place}: {name} = {value!r}; wanted a number, or three (value, low, high)"
            )


def read(claim: Claim, folder: Path = RESULTS) -> Record:
    """Read the record of a claim; an empty one if it was never measured.

    Raises:
        UserError: the file is broken, or its numbers were measured under another criterion.
    """
    path = folder / f"{claim.name}.json"
    wanted = [check.text for check in claim.criterion]
    if not path.exists():
        return Record(wanted, {})
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        seeds = {int(seed): one for seed, one in stored["seeds"].items()}
        criterion = stored["criterion"]
        numbers = {seed: one["values"] for seed, one in seeds.items()}
        for seed, values in numbers.items():
            check_numbers(f"{path}: seed {seed}", values, next(iter(numbers.values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a record of a claim ({error!r})") from None
    if criterion != wanted:
        raise UserError(
            f"{path}: measured under another criterion ({'; '.join(criterion)}); now it is "
            f"{'; '.join(wanted)}: measure again with --again"
        )
    return Record(criterion, seeds)


def write(claim: Claim, record: Record, folder: Path = RESULTS) -> Path:
    """Write a record."""
    seeds = {str(seed): one for seed, one in sorted(record.seeds.items())}
    path = folder / f"{claim.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {"claim": claim.name, "criterion": record.criterion, "seeds": seeds}
    write_text(path, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    return path


def rounded(value: Any) -> Any:
    """Return a number, or a list of an interval's three, with six digits, as records have it."""
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{float(value):.6g}")
