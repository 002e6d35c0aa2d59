"""A training as a process that is killed and told to stop; and a run seen from outside."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from attnzoo.cli.verify import main as verify_main
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.errors import UserError
from attnzoo.training.checkpoint import restore, steps, verify
from attnzoo.training.loop import train
from attnzoo.training.run import load_run
from tests.run_commands import own_files

CONFIG = """
name: killed
data: {kind: synthetic, task: reverse, symbols: 6, max_length: 5, train: 60, validation: 9, test: 5}
tokenizer: word
model: {kind: bahdanau, hidden: 8, embedding: 6, maxout: 5, dropout: 0.2}
training: {steps: 900, batch_size: 8, buckets: [6], evaluate_every: 300, checkpoint_every: 30,
           log_every: 7, tensorboard: false}
"""


def bits(run: Path) -> dict[str, bytes]:
    flat, _ = jax.tree_util.tree_flatten_with_path(restore(run).state)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in flat}


def newest(run: Path) -> int:
    names = (p.name for p in (run / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def wait_for(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while newest(run) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "killed.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    overridden = load(ExperimentConfig, config, [f"directory={run}"])
    assert train(overridden).step == 900
    return run


def test_killed_twice_stopped_once_and_still_the_same_bits(
    root: Path, config: Path, whole: Path, tmp_path: Path
) -> None:
    """SIGKILL while it saves every few milliseconds, then SIGTERM, then to the end."""
    run = tmp_path / "run"
    command = [sys.executable, root / "scripts" / "train.py", config, "--run-dir", run]

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    for step, more in ((60, []), (240, ["--resume"])):
        process = start(*more)
        wait_for(process, run, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert newest(run) < 900

    process = start("--resume")
    wait_for(process, run, newest(run) + 90)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate()[1]
    assert process.returncode == 75, errors
    assert "SIGTERM: finishing this step and saving" in errors
    assert "stopped by SIGTERM, resume with --resume" in errors
    stopped = newest(run)
    assert f"step {stopped}, " in errors
    assert stopped < 900
    # It is locked by nobody, and resumed by the name of the run alone.
    assert not (run / "run.lock").exists()
    last = subprocess.run([command[0], command[1], run, "--resume"], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert f"resumed after step {stopped} of 900" in last.stderr

    assert all(report.ok for report in verify(run))
    assert bits(run) == bits(whole)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train_steps = [record["step"] for record in records if record["part"] == "train"]
    assert train_steps == sorted(set(train_steps))
    held_out = [(r["step"], r["nll"]) for r in records if r["part"] == "validation"]
    assert [step for step, _ in held_out] == [300, 600, 900]
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert held_out == [(r["step"], r["nll"]) for r in records if r["part"] == "validation"]


def test_a_run_that_is_going_on_is_left_alone(root: Path, whole: Path) -> None:
    code = (
        "import sys, time\nfrom attnzoo.training.run_directory import RunDirectory\n"
        "with RunDirectory.open(sys.argv[1]).lock():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, whole], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        config = load(ExperimentConfig, whole / "config.yaml")
        with pytest.raises(UserError, match=f"process {holder.pid} .* is writing into this run"):
            train(config, resume=True)
        assert load_run(whole, which="latest").step == 900  # reading is free
    finally:
        holder.kill()
        holder.communicate()


def test_a_loaded_run_is_the_trained_one(whole: Path) -> None:
    run = load_run(whole, which="latest")
    assert (run.step, run.which, run.config.name) == (900, "latest", "killed")
    stored = bits(whole)
    flat, _ = jax.tree_util.tree_flatten_with_path(
        jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(run.model, nnx.Param)))
    )
    for path, leaf in flat:
        assert stored[f"['params']{jax.tree_util.keystr(path)}"] == leaf.tobytes()
    best = load_run(whole)
    assert best.which == "best"
    assert best.step in (300, 600, 900)
    assert len(best.corpus("test")) == 5
    assert best.translator(batch_size=3).batch_size == 3


def test_average_is_the_mean_of_the_kept_checkpoints(whole: Path) -> None:
    run = load_run(whole, which="average")
    assert (run.step, run.which) == (900, "average")
    kept = [restore(whole, step=step).state["params"] for step in steps(whole / "checkpoints")]
    assert len(kept) == 2
    found = jax.tree.leaves(nnx.to_pure_dict(nnx.state(run.model, nnx.Param)))
    for mean, first, last in zip(found, *map(jax.tree.leaves, kept), strict=True):
        assert not np.array_equal(first, last)
        np.testing.assert_allclose(mean, (first + last) / 2, rtol=1e-6, atol=1e-8)
    with pytest.raises(UserError, match="which='newest': wanted best, latest or average"):
        load_run(whole, which="newest")


def test_weights_that_do_not_fit_their_config_are_named(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    config = copy / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("hidden: 8", "hidden: 9"))
    with pytest.raises(UserError, match=r"config.yaml: changed .* --accept config.yaml"):
        load_run(copy)
    assert verify_main([str(copy), "--accept", "config.yaml"]) == 0
    with pytest.raises(UserError, match=r"parameter .* is float32\[.*but the config wants"):
        load_run(copy)
    other = re.sub(r"\n +width: \S+", "", text)
    config.write_text(other.replace("kind: additive", "kind: general"))
    assert verify_main([str(copy), "--accept", "config.yaml"]) == 0
    with pytest.raises(UserError, match=r"no parameter .*another run"):
        load_run(copy)
    config.write_text(text)
    assert verify_main([str(copy), "--accept", "config.yaml"]) == 0
    for home, which in (("best", "latest"), ("checkpoints", "")):
        assert not which or load_run(copy).which == "best"
        shutil.rmtree(copy / home)
        (copy / home).mkdir()
        assert not which or load_run(copy).which == which
    with pytest.raises(UserError, match="no valid checkpoint"):
        load_run(copy)
    config.unlink()
    with pytest.raises(UserError, match="not a run directory"):
        load_run(copy)


def test_a_best_checkpoint_that_cannot_be_read_gives_way_with_a_word(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    assert load_run(copy).which == "best"
    (step,) = (path for path in (copy / "best").iterdir() if path.name.isdecimal())
    (step / "_CHECKPOINT_METADATA").write_text("{")  # unreadable
    for text in ("_CHECKPOINT_METADATA cannot be read", "(0 damaged, 1 not completely written)"):
        caplog.clear()
        assert load_run(copy).which == "latest"
        assert text in caplog.text
        assert "the latest checkpoint is used instead" in caplog.text
        (step / "commit_success.txt").unlink(missing_ok=True)  # half written
    shutil.rmtree(copy / "best")
    (copy / "best").write_text("in the way")
    assert load_run(copy).which == "latest"


def test_a_refused_resume_moves_nothing(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    newest = copy / "checkpoints" / "900" / "_CHECKPOINT_METADATA"
    newest.write_text("{")  # damaged
    for home in ("checkpoints", "best"):  # a save that was not finished
        (copy / home / "905").mkdir()
        (copy / home / "905" / "part").write_text("x")
    before = own_files(copy)
    for line, key in (("training.seed=5", "seed"), ("model.hidden=9", "hidden")):
        config = load(ExperimentConfig, copy / "config.yaml", [line, f"directory={copy}"])
        with pytest.raises(UserError, match=f"resume: config.*{key} was"):
            train(config, resume=True)
        assert own_files(copy) == before


def test_two_tokens_exchanged_are_seen_also_without_a_manifest(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    path = copy / "target.tokenizer.json"
    spec = json.loads(path.read_text())
    spec["model"][4], spec["model"][5] = spec["model"][5], spec["model"][4]
    path.write_text(json.dumps(spec))
    for _ in range(2):
        with pytest.raises(UserError, match=r"target.tokenizer.json: changed since training"):
            load_run(copy)
        (copy / "manifest.json").unlink(missing_ok=True)


def test_a_device_that_is_absent_is_one_line(whole: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attnzoo.cli", "translate", whole],
        env={**os.environ, "JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX_PLATFORMS=nonsense: ")
    assert done.stderr.count("\n") == 1
