"""Fingerprints and batches of example configs, recorded with version 0.1.0: old runs resume.

`python tests/training/test_recorded_batches.py NAME ...` prints those of now.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RECORDED = json.loads(Path(__file__).with_name("recorded_batches.json").read_text())
PARTS = ("train", "validation", "test")


def digest(batch: dict[str, np.ndarray]) -> str:
    whole = hashlib.sha256()
    for name in sorted(batch):
        array = np.asarray(batch[name])
        whole.update(f"{name} {array.dtype} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:24]


def record(name: str) -> dict[str, Any]:
    from attnzoo.config.experiment import ExperimentConfig
    from attnzoo.config.loader import load
    from attnzoo.tasks import task_class

    config = load(ExperimentConfig, ROOT / "configs" / f"{name}.yaml")
    with tempfile.TemporaryDirectory() as directory:
        task = task_class(config.task).create(config, Path(directory), resume=False)
    told: dict[str, Any] = {"fingerprint": task.fingerprint()}
    for part in PARTS:
        plan = getattr(task, part)
        if plan is not None:
            steps = {str(step): digest(plan.batch(step)) for step in (0, 1, 777)}
            told[part] = {"steps": plan.steps_per_epoch, **steps}
    return told


@pytest.fixture(scope="module")
def now(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process records without the checks of types, which make this ten times as slow."""
    home = tmp_path_factory.mktemp("recorded")
    (home / "data").symlink_to(shared / "data")
    command = [sys.executable, __file__, *RECORDED]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", RECORDED)
def test_batches_are_those_of_the_first_version(name: str, now: dict[str, Any]) -> None:
    assert now[name] == RECORDED[name]


if __name__ == "__main__":
    print(json.dumps({name: record(name) for name in sys.argv[1:]}))
