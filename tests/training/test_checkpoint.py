# Over 400 lines: all tests damage or continue the same few saved states.
"""Checkpoints: exact, strict, asynchronous, and never silently wrong."""

import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attnzoo.errors import UserError
from attnzoo.training.checkpoint import BestCheckpoint, CheckpointStore, restore, verify
from attnzoo.training.step_files import COMMIT_FILE, METADATA_FILE


def make_state(seed: int = 0) -> dict[str, Any]:
    """Parameters with list-like integer keys, two dtypes and an empty array; Adam; a typed key."""
    rng = np.random.default_rng(seed)
    params = {
        "encoder": {
            "layers": {
                0: {"kernel": jnp.asarray(rng.normal(size=(13, 7)), jnp.float32)},
                1: {"kernel": jnp.asarray(rng.normal(size=(7, 3)), jnp.bfloat16)},
            }
        },
        "nothing": jnp.zeros((0, 5)),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "key": jax.random.key(seed),
        "position": np.int64(2**40 + seed),
    }


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def saved(path: Path, numbers: list[int], **arguments: Any) -> Path:
    with CheckpointStore(path, **arguments) as store:
        for step in numbers:
            store.save(step, make_state(step), {"step": step})
    return path


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1 and 2, to be copied and damaged."""
    return saved(tmp_path_factory.mktemp("two") / "checkpoints", [1, 2])


@pytest.fixture
def copy(two_steps: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def test_a_state_comes_back_bit_by_bit_in_its_own_structure(copy: Path) -> None:
    with CheckpointStore(copy) as store:
        restored = store.restore_newest_valid(make_state(0))
    assert restored is not None
    assert (restored.step, restored.meta) == (2, {"step": 2})
    assert_same(restored.state, make_state(2))
    assert isinstance(restored.state["params"]["encoder"]["layers"][0]["kernel"], jax.Array)
    assert isinstance(restored.state["position"], np.ndarray)


def test_shapes_alone_are_enough_to_restore_into(copy: Path) -> None:
    params = {"w": jnp.arange(5.0), "key": jax.random.key(7)}
    with CheckpointStore(copy) as store:
        store.save(3, params, {}, wait=True)
        restored = store.restore_newest_valid(jax.eval_shape(lambda: params))
    assert restored is not None
    assert_same(restored.state, params)


def test_without_structure_a_reader_gets_named_numpy_arrays(copy: Path) -> None:
    restored = restore(copy, step=1)
    kernel = restored.state["params"]["encoder"]["layers"][1]["kernel"]
    want = make_state(1)["params"]["encoder"]["layers"][1]["kernel"]
    assert type(kernel) is np.ndarray
    assert kernel.tobytes() == np.asarray(want).tobytes()
    assert restored.state["params"]["nothing"].shape == (0, 5)
    # chain -> adam's chain -> ScaleByAdamState: positions and field names.
    assert restored.state["optimizer"][1][0]["count"] == 0
    assert restored.state["key"].tolist() == jax.random.key_data(jax.random.key(1)).tolist()


def test_orbax_alone_can_read_a_step(copy: Path) -> None:
    from orbax.checkpoint import v1 as ocp

    arrays = ocp.load_checkpointables(str(copy / "2"))["state"]
    want = make_state(2)["params"]["encoder"]["layers"][0]["kernel"]
    np.testing.assert_array_equal(arrays["params/encoder/layers/0/kernel"], want)


def test_a_save_returns_before_it_is_written_and_may_be_donated(tmp_path: Path) -> None:
    step = jax.jit(lambda x: x * 2.0, donate_argnums=0)
    x = jnp.ones((1000, 1000))
    x = step(x)  # compiled, and 2 everywhere
    with CheckpointStore(tmp_path) as store:
        store.save(1, {"x": x}, {})
        assert store.steps == []  # training goes on while the write happens
        for _ in range(3):
            x = step(x)
        store.wait()
        assert store.steps == [1]
        restored = store.restore_newest_valid()
    assert restored is not None
    assert restored.state["x"].min() == restored.state["x"].max() == 2.0


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    path = saved(tmp_path / "checkpoints", [1, 3, 5, 8], keep=2)
    assert sorted(p.name for p in path.iterdir()) == ["5", "8"]


def test_an_old_step_number_is_refused_until_rolled_back(copy: Path) -> None:
    with CheckpointStore(copy) as store:
        with pytest.raises(ValueError, match=r"step=2 must be larger than the newest.*2"):
            store.save(2, make_state(), {})
        store.rollback(1)
        store.save(2, make_state(5), {"again": True}, wait=True)
    assert restore(copy).meta == {"again": True}
    assert restore(copy / "rolled_back" / "2").meta == {"step": 2}
    with CheckpointStore(copy) as store, pytest.raises(UserError, match=r"no step 7.*\[1, 2\]"):
        store.rollback(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"position": np.float32(1)}, r"position is int64\[\], wanted float32\[\]"),
        (
            lambda s: s | {"params": s["params"] | {"nothing": jnp.zeros((0, 4))}},
            r"params/nothing is float32\[0, 5\], wanted float32\[0, 4\]",
        ),
        (lambda s: s | {"extra": jnp.zeros(2)}, "extra is wanted but not in the checkpoint"),
        (
            lambda s: {k: v for k, v in s.items() if k != "key"},
            "key is in the checkpoint but not wanted",
        ),
        (
            lambda s: s | {"key": jax.random.key(0, impl="rbg")},
            r"key is key<threefry2x32>\[\], wanted key<rbg>\[\]",
        ),
    ],
)
def test_another_model_is_refused_by_name_and_loses_nothing(
    copy: Path, change: Any, message: str
) -> None:
    with CheckpointStore(copy) as store:
        with pytest.raises(UserError, match=message) as caught:
            store.restore_newest_valid(change(make_state()))
        assert "\n" not in str(caught.value)
        assert store.steps == [1, 2]


def test_what_is_not_an_array_is_named(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path) as store:
        with pytest.raises(ValueError, match=r"state\['rate'\]=0.5 is not an array"):
            store.save(1, {"rate": 0.5}, {})
        with pytest.raises(ValueError, match="no array"):
            store.save(1, {}, {})
        with pytest.raises(ValueError, match="two leaves of the same path"):
            store.save(1, {"a/b": np.ones(1), "a": {"b": np.ones(1)}}, {})


def damage_truncate(step: Path) -> None:
    largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])


def damage_metadata(step: Path, change: Any) -> None:
    file = step / METADATA_FILE
    content = json.loads(file.read_text())
    change(content["custom_metadata"]["manifest"])
    file.write_text(json.dumps(content))


DAMAGES = {
    "truncated": damage_truncate,
    "array files missing": lambda step: shutil.rmtree(step / "state"),
    "array database missing": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "no metadata": lambda step: (step / METADATA_FILE).unlink(),
    "garbage metadata": lambda step: (step / METADATA_FILE).write_text("{]"),
    "metadata of nothing": lambda step: (step / METADATA_FILE).write_text("null"),
    "meta changed": lambda step: damage_metadata(step, lambda m: m["meta"].update(step=3)),
    "arrays of another step": lambda step: (
        shutil.rmtree(step / "state"),
        shutil.copytree(step.parent / "1" / "state", step / "state"),
    ),
    "another step under this name": lambda step: (
        shutil.rmtree(step),
        shutil.copytree(step.parent / "1", step),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_step_is_seen_set_aside_and_fallen_back_from(
    copy: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[damage](copy / "2")
    reports = verify(copy)
    assert [report.ok for report in reports] == [True, False]
    with pytest.raises(UserError, match="damaged"):
        restore(copy, step=2)
    assert restore(copy).step == 1  # a reader falls back and moves nothing
    assert (copy / "2").exists()
    with CheckpointStore(copy) as store, caplog.at_level(logging.WARNING):
        restored = store.restore_newest_valid(make_state())
    assert restored is not None
    assert restored.step == 1
    assert_same(restored.state, make_state(1))
    assert f"{copy / '2'}: damaged, set aside" in caplog.text
    assert (copy / "damaged" / "2").is_dir()
    assert not (copy / "2").exists()


def test_a_step_without_its_commit_file_is_no_step(copy: Path) -> None:
    (copy / "2" / COMMIT_FILE).unlink()
    assert [report.unfinished for report in verify(copy)] == [False, True]
    assert restore(copy).step == 1
    with CheckpointStore(copy) as store:
        assert store.steps == [1]
    assert not (copy / "2").exists()  # the writer removes what no save has finished


def test_when_every_step_is_damaged_the_run_does_not_start_over(copy: Path) -> None:
    for step in (1, 2):
        damage_truncate(copy / str(step))
    with CheckpointStore(copy) as store:
        with pytest.raises(UserError, match=r"all of \[1, 2\] are damaged"):
            store.restore_newest_valid()
        assert store.steps == [1, 2]
    with pytest.raises(UserError, match="no valid checkpoint"):
        restore(copy)


def test_an_empty_store_has_nothing_to_restore(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path) as store:
        assert store.restore_newest_valid() is None


def test_no_flipped_bit_is_silent(two_steps: Path, tmp_path: Path) -> None:
    random.seed(0)
    files = [p for p in (two_steps / "2").rglob("*") if p.is_file() and p.stat().st_size]
    seen = 0
    for trial in range(25):
        copy = Path(shutil.copytree(two_steps, tmp_path / str(trial)))
        (original,) = random.choices(files, [p.stat().st_size for p in files])
        file = copy / original.relative_to(two_steps)
        content = bytearray(file.read_bytes())
        bit = random.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        restored = restore(copy, make_state())
        assert_same(restored.state, make_state(restored.step))
        assert restored.meta == {"step": restored.step}
        seen += restored.step == 1
    assert seen >= 3  # others hit the names of handlers, time stamps, compressed padding


CHILD = """
import resource, signal, sys
import numpy as np
from attnzoo.errors import UserError
from attnzoo.training.checkpoint import CheckpointStore

path, action = sys.argv[1:]
try:
    with CheckpointStore(path, keep=2) as store:
        for step in range(1, 10_000):
            if action == "fill" and step == 3:
                store.wait()
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            rng = np.random.default_rng(step)
            store.save(step, {f"a{i}": rng.normal(size=(50, 100)) for i in range(7)}, {"n": step})
            print(step, flush=True)
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""


def child(path: Path, action: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(path), action]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def test_a_kill_inside_a_save_leaves_the_newest_steps_valid(tmp_path: Path) -> None:
    random.seed(1)
    for trial in range(2):
        path = tmp_path / str(trial)
        with child(path, "save") as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == 4:
                    break
            time.sleep(random.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
        # Save n returns only when n - 1 is on disk, and 4 had returned.
        reports = [report for report in verify(path) if not report.unfinished]
        assert all(report.ok for report in reports)
        restored = restore(path)
        assert restored.step >= 3
        rng = np.random.default_rng(restored.step)
        for i in range(7):
            np.testing.assert_array_equal(restored.state[f"a{i}"], rng.normal(size=(50, 100)))


def test_a_full_disk_is_an_error_and_costs_no_earlier_step(tmp_path: Path) -> None:
    # The limit on a file's size stands in for the disk's end: a write fails in the same place.
    with child(tmp_path, "fill") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    # No line of its own: orbax's event loop, closed with a write under way, complains meanwhile.
    assert f"error: {tmp_path / '3'}: checkpoint not written" in errors
    assert [(report.step, report.ok) for report in verify(tmp_path)] == [(1, True), (2, True)]


def test_a_directory_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    started = time.monotonic()
    with pytest.raises(UserError, match="cannot write checkpoints here"):
        CheckpointStore(tmp_path / "file" / "checkpoints")
    assert time.monotonic() - started < 5


def test_a_save_that_fails_is_raised_by_the_next_poll(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    shutil.rmtree(store.path)
    store.path.write_text("in the way")
    store.save(1, make_state(), {})
    time.sleep(1)
    with pytest.raises(UserError, match="checkpoint not written"):
        store.poll()
    with store:
        pass  # raised once, not again


def test_the_error_of_the_loop_is_not_hidden_by_that_of_the_last_save(tmp_path: Path) -> None:
    def run() -> None:
        with CheckpointStore(tmp_path / "checkpoints") as store:
            shutil.rmtree(store.path)
            store.path.write_text("in the way")
            store.save(1, make_state(), {})
            raise FloatingPointError("loss is not finite")

    with pytest.raises(FloatingPointError, match="loss") as caught:
        run()
    assert "checkpoint not written" in caught.value.__notes__[0]


class TestBest:
    def test_a_worse_equal_or_nan_metric_never_evicts_the_best(self, tmp_path: Path) -> None:
        best = BestCheckpoint(tmp_path)
        assert not best.offer(1, make_state(1), float("nan"))
        assert best.current is None
        offers = [(2, 3.0), (3, float("nan")), (4, 2.5), (5, 2.5), (6, float("inf")), (7, 2.75)]
        taken = [step for step, metric in offers if best.offer(step, make_state(step), metric)]
        assert taken == [2, 4]
        assert BestCheckpoint(tmp_path).current == (4, 2.5)
        assert_same(restore(tmp_path, make_state()).state, make_state(4))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["4"]

    def test_larger_may_be_better(self, tmp_path: Path) -> None:
        best = BestCheckpoint(tmp_path)
        metrics = [10.0, 30.0, float("-inf"), 20.0]
        assert [best.offer(i, make_state(i), m, mode="max") for i, m in enumerate(metrics)] == [
            True,
            True,
            False,
            False,
        ]
        assert best.current == (1, 30.0)

    def test_the_loss_decides_between_equal_metrics(self, tmp_path: Path) -> None:
        best = BestCheckpoint(tmp_path)
        offers = [(1, 0.9, 0.1), (2, 1.0, 0.5), (3, 1.0, 0.3), (4, 1.0, 0.4), (5, 0.9, 0.0)]
        taken = [
            step
            for step, metric, loss in offers
            if best.offer(step, make_state(step), metric, mode="max", loss=loss)
        ]
        assert taken == [1, 2, 3]
        assert BestCheckpoint(tmp_path).current == (3, 1.0)

    def test_an_earlier_step_may_be_better_after_a_rollback(self, tmp_path: Path) -> None:
        best = BestCheckpoint(tmp_path)
        best.offer(9, make_state(9), 2.0)
        assert best.offer(4, make_state(4), 1.0)
        assert restore(tmp_path).step == 4

    def test_of_two_that_a_kill_left_the_better_counts(self, tmp_path: Path) -> None:
        for step, metric in ((9, 2.0), (4, 1.0)):
            BestCheckpoint(tmp_path / str(step)).offer(step, make_state(step), metric)
        shutil.copytree(tmp_path / "9" / "9", tmp_path / "best" / "9")
        shutil.copytree(tmp_path / "4" / "4", tmp_path / "best" / "4")
        best = BestCheckpoint(tmp_path / "best")
        assert best.current == (4, 1.0)
        assert not best.offer(10, make_state(), 1.5)

    def test_a_damaged_best_is_set_aside_and_replaced(self, tmp_path: Path) -> None:
        best = BestCheckpoint(tmp_path)
        best.offer(1, make_state(1), 1.0)
        (tmp_path / "1" / METADATA_FILE).write_text("")
        assert best.offer(2, make_state(2), 5.0)
        assert (tmp_path / "damaged" / "1").is_dir()
        assert restore(tmp_path).step == 2
