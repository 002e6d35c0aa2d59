"""Two processes on one machine: they train as one, and what becomes of that when one is hurt."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from attnzoo.training.checkpoint import restore, verify

TEXT = "the cat sat on the mat .\na dog ran to the red house .\nthe sun was hot on a day .\n"
CONFIG = """
name: two
task: {kind: causal_lm, context: 8}
data: {kind: text, train: [DIR/text], validation: [DIR/text]}
tokenizer: char
model: {kind: gpt2, attention: {kind: multi_head, num_heads: 2}, dim: 8, layers: 1, max_length: 8}
training: {steps: 6, batch_size: 8, max_length: 9, evaluate_every: 1000, checkpoint_every: 2,
           log_every: 1, learning_rate: 0.01, optimizer: adamw, tensorboard: false}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("processes")
    (home / "text").write_text(TEXT * 3)
    (home / "config.yaml").write_text(CONFIG.replace("DIR", str(home)))
    return home


def start(root: Path, home: Path, run: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(root / "scripts" / "train.py")]
    config = run if "--resume" in arguments else home / "config.yaml"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [*command, str(config), "--run-dir", str(run), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def pair(
    root: Path, home: Path, run: Path, *arguments: str, second: tuple[str, ...] = ()
) -> list[subprocess.Popen[str]]:
    """Two processes with two devices each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    common = ("--coordinator", f"localhost:{port}", "--processes", "2", "--cpu-devices", "2")
    return [
        start(root, home, run, "--process", str(i), *common, "--heartbeat", "10", *arguments, *more)
        for i, more in enumerate(((), second))
    ]


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if line["part"] == "train"]


@pytest.fixture(scope="module")
def alone(root: Path, home: Path) -> list[float]:
    """The losses of one process with one device."""
    process = start(root, home, home / "alone")
    assert process.communicate()[0] is not None
    assert process.returncode == 0
    return losses(home / "alone")


def test_two_processes_train_as_one(root: Path, home: Path, alone: list[float]) -> None:
    run = home / "both"
    ends = pair(root, home, run, "mesh.fsdp=4")
    said = [process.communicate(timeout=120)[0] for process in ends]
    assert [process.returncode for process in ends] == [0, 0], said
    np.testing.assert_allclose(losses(run), alone, rtol=1e-5)
    assert [report.ok for report in verify(run)] == [True] * 3  # two steps and the best
    table = restore(run).state["params"]["embedding"]["table"]
    lonely = restore(home / "alone").state["params"]["embedding"]["table"]
    np.testing.assert_allclose(table, lonely, rtol=1e-4, atol=1e-6)
    assert "all steps done" in said[0]
    assert "all steps done" not in said[1]  # one of them talks


def test_one_is_killed_and_the_run_goes_on_elsewhere(
    root: Path, home: Path, alone: list[float]
) -> None:
    run = home / "killed"
    ends = pair(root, home, run, "mesh.fsdp=4", "training.steps=1000000")
    _wait_for_step(run, 3)
    began = time.monotonic()
    ends[1].kill()
    said = ends[0].communicate(timeout=90)[0]
    assert ends[0].returncode not in (0, None), said
    assert time.monotonic() - began < 60
    ends[1].communicate()
    kept = restore(run).step
    for name, arguments in {
        "one": ("--cpu-devices", "1", "mesh.fsdp=1", "--allow", "config.mesh"),
        "four": ("--cpu-devices", "4", "--allow", "config.mesh.data"),
    }.items():
        copy = home / name
        shutil.copytree(run, copy)
        steps = kept + 4
        process = start(
            root, home, copy, "--resume", *arguments, "--allow", "devices",
            f"training.steps={steps}",
        )  # fmt: skip
        assert process.communicate(timeout=120)[0] is not None
        assert process.returncode == 0
        assert len(losses(copy)) == steps
    np.testing.assert_allclose(losses(home / "one"), losses(home / "four"), rtol=1e-5)
    np.testing.assert_allclose(losses(home / "one")[:6], alone[: kept + 4], rtol=1e-5)


def test_processes_that_would_train_different_models(root: Path, home: Path) -> None:
    ends = pair(root, home, home / "unlike", second=("training.seed=1",))
    said = [process.communicate(timeout=60)[0] for process in ends]
    assert [process.returncode for process in ends] == [2, 2], said
    assert "config.training.seed is 1 in process 1 and 0 in process 0" in said[1]
    assert "process 1 cannot go on" in said[0]


def test_a_polite_end_of_one_is_the_end_of_both(root: Path, home: Path) -> None:
    run = home / "asked"
    ends = pair(root, home, run, "training.steps=1000000", "training.checkpoint_every=1000000")
    _wait_for_step(run, 2)
    ends[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[0] for process in ends]
    assert [process.returncode for process in ends] == [75, 75], said
    assert "stopped by SIGTERM, resume with --resume" in said[0]
    assert restore(run).step == len(losses(run))


def _wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and len(losses(run)) >= step:
            return
        time.sleep(0.2)
    raise AssertionError("no step was reached")


def test_each_process_makes_only_the_rows_of_its_devices(root: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    ends = [
        subprocess.Popen(
            [sys.executable, __file__, port, str(number)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in ends]
    # Rows of both, of the same ones along "tensor", and of a batch that four do not divide.
    assert said == [[[0, 4], None, None], [[4, 8], None, None]]


def rows_of_a_process(port: str, number: str) -> None:
    """Print the rows of this process on three meshes; their devices hold the right ones."""
    import jax

    from attnzoo.config.mesh import MeshConfig
    from attnzoo.training.placement import Placement

    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", 2, int(number))
    found = []
    for mesh, size in (MeshConfig(fsdp=4), 8), (MeshConfig(tensor=4), 8), (MeshConfig(fsdp=4), 6):
        placement = Placement(mesh, rows=size)
        rows = placement.rows(size)
        whole = np.arange(3 * size).reshape(size, 3)
        placed = placement.batch({"x": whole if rows is None else whole[rows]}, size)["x"]
        for shard in placed.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), whole[shard.index])
        found.append(None if rows is None else [rows.start, rows.stop])
    print(json.dumps(found))


if __name__ == "__main__":
    rows_of_a_process(*sys.argv[1:])
