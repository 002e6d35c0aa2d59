"""A training in this process: what it writes, how it ends, and that going on is exact."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from attnzoo.config.attention import AdditiveConfig, GeneralConfig, LocalPConfig, LocationConfig
from attnzoo.config.data import (
    FilePartConfig,
    FilesConfig,
    SyntheticConfig,
    WordTokenizerConfig,
)
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.model import BahdanauConfig, LuongConfig
from attnzoo.config.training import (
    AdadeltaConfig,
    AdamConfig,
    ConstantConfig,
    CosineConfig,
    SgdConfig,
    TrainingConfig,
)
from attnzoo.errors import UserError
from attnzoo.tasks import task_class
from attnzoo.training import loop
from attnzoo.training.checkpoint import restore
from attnzoo.training.loop import Outcome, train
from attnzoo.training.run import load_run
from attnzoo.training.signals import EXIT_STOPPED, StopSignal

BAHDANAU = BahdanauConfig(attention=AdditiveConfig(), hidden=8, embedding=6, maxout=5, dropout=0.2)
LUONG = LuongConfig(attention=GeneralConfig(), hidden=8, embedding=6, layers=2, dropout=0.2)
TRAINING = TrainingConfig(
    steps=12,
    batch_size=8,
    buckets=(6,),
    evaluate_every=6,
    checkpoint_every=4,
    log_every=3,
    tensorboard=False,
)


def experiment(directory: Path, model: Any = BAHDANAU, **training: Any) -> ExperimentConfig:
    return ExperimentConfig(
        name="tiny",
        data=SyntheticConfig(
            task="reverse", symbols=6, max_length=5, train=60, validation=9, test=5
        ),
        tokenizer=WordTokenizerConfig(),
        model=model,
        training=dataclasses.replace(TRAINING, **training),
        directory=directory,
    )


def leaves(directory: Path) -> dict[str, np.ndarray]:
    flat, _ = jax.tree_util.tree_flatten_with_path(restore(directory).state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def assert_same_bits(a: Path, b: Path) -> None:
    one, other = leaves(a), leaves(b)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    directory = tmp_path_factory.mktemp("whole") / "run"
    return directory, train(experiment(directory, figures_every=2, figures=2))


def test_a_run_directory_is_complete(whole: tuple[Path, Outcome]) -> None:
    directory, outcome = whole
    assert (outcome.step, outcome.exit_code, outcome.reason) == (12, 0, "all steps done")
    assert load(ExperimentConfig, directory / "config.yaml").model == BAHDANAU
    assert restore(directory).step == 12
    assert [p.name for p in (directory / "figures").iterdir()] == ["alignment-0000012.png"]
    assert not (directory / "run.lock").exists()
    assert load_run(directory, which="latest").step == 12
    assert load_run(directory).step in (6, 12)
    lines = records(directory)
    # Every third step, and before each checkpoint (4, 8, 12) and evaluation (6, 12).
    assert [r["step"] for r in lines if r["part"] == "train"] == [3, 4, 6, 8, 11, 12]
    assert [r["step"] for r in lines if r["part"] == "validation"] == [6, 12]
    for record in lines:
        assert all(np.isfinite(v) for v in record.values() if isinstance(v, float))


def test_five_steps_and_seven_are_twelve(
    tmp_path: Path,
    whole: tuple[Path, Outcome],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped between epochs, evaluations and checkpoints, with dropout on."""
    with monkeypatch.context() as patch:
        patch.setenv("NPROC", "7")  # too late for XLA, which has its threads, but recorded
        train(experiment(tmp_path / "run", steps=5))
    assert restore(tmp_path / "run").step == 5
    outcome = train(experiment(tmp_path / "run"), resume=True)
    assert "cores: 7 before" in capsys.readouterr().err
    assert outcome.step == 12
    assert_same_bits(tmp_path / "run", whole[0])
    steps = [(r["part"], r["step"]) for r in records(tmp_path / "run")]
    assert len(steps) == len(set(steps))
    assert steps == sorted(steps, key=lambda pair: pair[1])
    # What is done stays done.
    assert train(experiment(tmp_path / "run"), resume=True).step == 12
    assert_same_bits(tmp_path / "run", whole[0])


def test_a_signal_before_anything_new_is_obeyed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sent(StopSignal):
        heard = True
        name = "SIGTERM"

    run = tmp_path / "run"
    train(experiment(run, steps=4))
    train(experiment(tmp_path / "short", steps=4, buckets=None))
    monkeypatch.setattr(loop, "StopSignal", Sent)
    outcome = train(experiment(run), resume=True)
    assert (outcome.step, outcome.exit_code) == (4, EXIT_STOPPED)
    assert outcome.reason == "stopped by SIGTERM, resume with --resume"
    # Longer than it began, with the lengths of batches that it began with.
    assert train(experiment(tmp_path / "short", steps=700, buckets=None), resume=True).step == 4
    fresh = train(experiment(tmp_path / "fresh"))
    assert (fresh.step, fresh.exit_code) == (0, EXIT_STOPPED)
    monkeypatch.undo()
    assert train(experiment(tmp_path / "fresh", steps=4), resume=True).step == 4
    assert_same_bits(run, tmp_path / "fresh")


def test_a_damaged_checkpoint_is_left_for_an_older_one(
    tmp_path: Path, whole: tuple[Path, Outcome]
) -> None:
    run = tmp_path / "run"
    train(experiment(run))
    newest = run / "checkpoints" / "12"
    file = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 11, "part": "tra')  # a line that a crash cut short
    assert train(experiment(run), resume=True).step == 12
    assert_same_bits(run, whole[0])
    steps = [(r["part"], r["step"]) for r in records(run)]
    assert len(steps) == len(set(steps))


def test_a_loss_that_is_not_finite_stops_the_run_with_its_name(tmp_path: Path) -> None:
    # An update of infinite size after 8 good steps: the rate jumps when the run goes on.
    run = tmp_path / "run"
    good = {"optimizer": SgdConfig(), "clip_norm": None, "checkpoint_every": 4}
    train(experiment(run, steps=8, learning_rate=0.1, **good))
    with pytest.raises(UserError) as caught:
        train(
            experiment(run, learning_rate=1e38, evaluate_every=100, **good),
            resume=True,
            allow=["config.training.learning_rate", "config.training.evaluate_every"],
        )
    message = str(caught.value)
    assert "\n" not in message
    assert " at step 10; the last good checkpoint is step 8" in message
    assert message.startswith(("loss is nan", "loss is inf", "gradient_norm is"))
    assert restore(run).step == 8
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves(run).values())


def test_patience_ends_a_run_that_no_longer_learns(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {
        "optimizer": SgdConfig(),
        "learning_rate": 1e-30,
        "evaluate_every": 1,
        "patience": 2,
    }
    outcome = train(experiment(run, **settings))
    assert (outcome.step, outcome.exit_code) == (3, 0)
    assert outcome.reason == "no better validation nll in 2 evaluations"
    assert load_run(run).step == 1
    again = train(experiment(run, **settings), resume=True)
    assert (again.step, again.reason) == (outcome.step, outcome.reason)


@pytest.mark.parametrize(
    "model", [BAHDANAU, dataclasses.replace(LUONG, attention=LocalPConfig(window=2))]
)
def test_bfloat16_computes_in_half_and_keeps_float32(tmp_path: Path, model: Any) -> None:
    train(experiment(tmp_path / "run", model, steps=3, compute_dtype="bfloat16"))
    state = leaves(tmp_path / "run")
    assert {str(leaf.dtype) for leaf in state.values()} <= {"float32", "int32", "uint32"}
    losses = [r["loss"] for r in records(tmp_path / "run") if r["part"] == "train"]
    train(experiment(tmp_path / "full", model, steps=3))
    full = [r["loss"] for r in records(tmp_path / "full") if r["part"] == "train"]
    np.testing.assert_allclose(losses, full, rtol=0.02)
    assert losses != full


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model": dataclasses.replace(BAHDANAU, hidden=9)}, "config.model.hidden was 8"),
        ({"model": LUONG}, "config.model"),
        ({"optimizer": AdadeltaConfig()}, "config.training.optimizer"),
        ({"seed": 1}, "seed was 0"),
        ({"batch_size": 7}, "batch_size was 8"),
        ({"learning_rate": 0.5}, "config.training.learning_rate was 0.001"),
    ],
)
def test_another_config_at_resume_names_its_key(
    whole: tuple[Path, Outcome], change: dict[str, Any], key: str
) -> None:
    with pytest.raises(UserError) as caught:
        train(experiment(whole[0], **change), resume=True)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("resume: ")
    assert key in str(caught.value)


def test_a_cosine_is_not_stretched_in_silence(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(experiment(run, steps=4, schedule=CosineConfig()))
    with pytest.raises(UserError, match=r"config\.training\.steps was 4 .* is 12 now"):
        train(experiment(run, schedule=CosineConfig()), resume=True)


def test_a_run_is_not_overwritten(whole: tuple[Path, Outcome], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds a run already.*--resume"):
        train(experiment(whole[0]))
    with pytest.raises(UserError, match="there is no run to resume"):
        train(experiment(tmp_path / "none"), resume=True)


def test_most_pairs_are_not_left_out_in_silence(tmp_path: Path) -> None:
    config = experiment(tmp_path / "run", max_length=2)
    said = r"4\d of 60 training pairs \(.*%\) are longer than training.max_length=2 .*max_skipped"
    with pytest.raises(UserError, match=said):
        train(config)
    config = experiment(tmp_path / "run", max_length=2, max_skipped=0.9)
    task = task_class(config.task).create(config, tmp_path, resume=False)
    assert any(note.startswith("WARNING: 4") for note in task.notes)


def test_edited_pairs_are_named_and_a_start_survives_a_kill(tmp_path: Path) -> None:
    """Resumed before its first checkpoint, a run begins with the weights that it started from."""
    pairs = tmp_path / "pairs"
    pairs.write_text("a b c\n" * 20)
    part = FilePartConfig(source=pairs, target=pairs)
    data = FilesConfig(train=part, validation=part)
    first = dataclasses.replace(experiment(tmp_path / "first", steps=2, log_every=2), data=data)
    train(first)
    small = dataclasses.replace(first, start_from=tmp_path / "first", model=BahdanauConfig())
    second = dataclasses.replace(small, directory=tmp_path / "second")
    train(dataclasses.replace(second, training=dataclasses.replace(first.training, steps=1)))
    config = load(ExperimentConfig, tmp_path / "second" / "config.yaml")
    assert config.model.hidden == 8  # type: ignore[union-attr]
    whole = leaves(tmp_path / "second")
    for home in ("checkpoints", "best"):
        shutil.rmtree(tmp_path / "second" / home)
    train(config, resume=True)
    again = leaves(tmp_path / "second")
    assert all(again[name].tobytes() == whole[name].tobytes() for name in whole)
    with pairs.open("a") as file:
        file.write("a b\n")
    named = rf"resume: the data is .*{pairs} \+ pairs \(20 rows then, 21 now\).*--allow data"
    with pytest.raises(UserError, match=named):
        train(config, resume=True)


def test_location_attention_says_what_is_too_long(tmp_path: Path) -> None:
    model = dataclasses.replace(LUONG, attention=LocationConfig(max_length=5))
    with pytest.raises(UserError, match=r"model\.attention\.max_length=5 is below 6"):
        train(experiment(tmp_path / "short", model))
    # Long enough for training, while validation would accept twice the length.
    model = dataclasses.replace(LUONG, attention=LocationConfig(max_length=6))
    outcome = train(experiment(tmp_path / "run", model, steps=2, figures_every=1, figures=2))
    assert outcome.exit_code == 0


@pytest.mark.parametrize(
    ("optimizer", "per"), [(AdamConfig(), "token"), (SgdConfig(momentum=0.9), "sentence")]
)
def test_training_lowers_the_loss(tmp_path: Path, optimizer: Any, per: str) -> None:
    rate = 0.02 if per == "token" else 0.005
    settings = {"optimizer": optimizer, "learning_rate": rate, "schedule": ConstantConfig()}
    model = dataclasses.replace(LUONG, layers=1, dropout=0.0)
    train(
        experiment(
            tmp_path / "run",
            model,
            steps=60,
            loss_per=per,
            log_every=10,
            evaluate_every=30,
            checkpoint_every=60,
            clip_norm=5.0,
            **settings,
        )
    )
    nll = [r["nll"] for r in records(tmp_path / "run") if r["part"] == "train"]
    assert nll[-1] < 0.9 * nll[0]
