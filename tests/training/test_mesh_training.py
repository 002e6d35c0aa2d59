"""The same losses on every mesh, for every kind of model: a program with eight devices on the CPU.

Dropout is on, lengths are such that nothing divides them, and a batch is cut into parts; what is
scanned, computed again or kept in the host's memory is among them.
"""

import dataclasses
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.mesh import MeshConfig, RuleConfig
from attnzoo.errors import UserError
from attnzoo.tasks import TASKS
from attnzoo.training.loop import train
from attnzoo.training.optimizer import build_optimizer
from attnzoo.training.placement import Placement
from attnzoo.training.step import fresh_state, make_train_step

TEXT = "the cat sat on the mat .\na dog ran to the red house .\nthe sun was hot on a day .\n"
HEADS = "{kind: multi_head, num_heads: 2}"
SMALL = "dim: 8, layers: 2"
TEXTS = "{kind: text, train: [DIR/text], validation: [DIR/text]}"
PAIRS = "{kind: synthetic, train: 32, validation: 8, test: 8, max_length: 7}"
DIGITS = (
    "{kind: images, source: {kind: folder, path: DIR/images, channels: 1}, validation_share: 0.3}"
)

GPT2 = (
    f"{{kind: gpt2, attention: {HEADS}, {SMALL}, hidden: 32, max_length: 9, dropout: 0.1, "
    "attention_dropout: 0.2}"
)
# kind: (task, data, tokenizer, model)
KINDS = {
    "gpt2": ("{kind: causal_lm, context: 7}", TEXTS, "char", GPT2),
    "llama": (
        "{kind: causal_lm, context: 29, rows: packed}",
        "{kind: text, train: [DIR/text], validation: [DIR/text], documents: lines}",
        "char",
        f"{{kind: llama, attention: {HEADS}, {SMALL}, hidden: 8, max_length: 29, scan: true, "
        "remat: full}",
    ),
    "bert": (
        "{kind: masked_lm, context: 11, share: 0.3}",
        TEXTS,
        "{kind: char, mask: true}",
        f"{{kind: bert, attention: {HEADS}, {SMALL}, hidden: 8, max_length: 16, remat: dots}}",
    ),
    "t5": (
        "{kind: span_corruption, context: 13}",
        TEXTS,
        "{kind: char, sentinels: 4}",
        f"{{kind: t5, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
        "encoder_layers: 1, decoder_layers: 1, remat: offload}",
    ),
    "vit": (
        "image_classification",
        DIGITS,
        "char",
        f"{{kind: vit, attention: {HEADS}, {SMALL}, hidden: 8, image_size: 6, patch: 2, "
        "channels: 1, branch_rate: 0.2}",
    ),
    "resnet": (
        "image_classification",
        DIGITS,
        "char",
        "{kind: resnet, depth: 8, width: 4, channels: 1}",
    ),
    "transformer": (
        "translation",
        PAIRS,
        "word",
        f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
        "encoder_layers: 1, decoder_layers: 1}",
    ),
    "bahdanau": ("translation", PAIRS, "word", "{kind: bahdanau, hidden: 8, embedding: 8}"),
    "luong": ("translation", PAIRS, "word", "{kind: luong, hidden: 8, layers: 1}"),
}
MESHES = {
    "1x1": MeshConfig(data=1),
    "8x1": MeshConfig(data=8),
    "4x2": MeshConfig(data=4, tensor=2),
    "2x2x2": MeshConfig(data=2, fsdp=2, tensor=2),
    "sequence": MeshConfig(data=2, sequence=4),
    "mixed": MeshConfig(fsdp=2, tensor=2, sequence=2),
}
ALL = os.environ.get("ATTNZOO_MESHES") == "all"  # minutes more


def write_data(home: Path) -> None:
    (home / "text").write_text(TEXT * 8)
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (home / "images" / name).mkdir(parents=True)
        for i in range(19):
            pixels = random.integers(0, 120, (6, 6)) + (120 if name == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(home / "images" / name / f"{i}.png")


def experiment(
    kind: str, home: Path, name: str, training: str = "", **more: Any
) -> ExperimentConfig:
    task, data, tokenizer, model = KINDS[kind]
    training += "offload: optimizer" * (kind == "vit")
    settings = (
        "{steps: 3, batch_size: 16, accumulate: 2, max_length: 9, log_every: 1, clip_norm: 1.0, "
        f"evaluate_every: 3, tensorboard: false, learning_rate: 0.01, optimizer: adamw, ema: 0.9, "
        f"{training}}}"
    )
    lines = {
        "name": kind,
        "task": task,
        "data": data.replace("DIR", str(home)),
        "tokenizer": tokenizer,
        "model": model,
        "training": settings,
    }
    path = home / f"{kind}-{name}.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return dataclasses.replace(
        load(ExperimentConfig, path), directory=home / "runs" / path.stem, **more
    )


def losses(kind: str, mesh: str, home: Path) -> dict[str, Any]:
    """Of each step and of the validation at the end."""
    config = experiment(kind, home, mesh, mesh=MESHES[mesh])
    train(config)
    assert config.directory is not None
    lines = (config.directory / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {
        part: [line[name] for line in found if line["part"] == part]
        for part, name in (("train", "loss"), ("validation", "nll"))
    }


def program(kinds: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        write_data(home)
        found = {
            kind: {mesh: losses(kind, mesh, home) for mesh in meshes_of(kind)} for kind in kinds
        }
        communicated = {mesh: collectives(MESHES[mesh], home) for mesh in MESHES if mesh != "mixed"}
        placed = {rows: Placement(MeshConfig(fsdp=2), rows=rows) for rows in (16, 12, 6)}
        shared = {rows: [p.sizes["data"], *p.notes] for rows, p in placed.items()}
        wrong = [
            MeshConfig(data=3, fsdp=2),
            MeshConfig(data=1, tensor=3),
            MeshConfig(rules=(RuleConfig(pattern="qeury/kernel", axes=("fsdp", "tensor")),)),
            MeshConfig(rules=(RuleConfig(pattern="query/bias", axes=("fsdp", "tensor")),)),
        ]
        refused = [refusal(mesh, home) for mesh in wrong]
    print(
        json.dumps(
            {"losses": found, "collectives": communicated, "refused": refused, "shared": shared}
        )
    )


def refusal(mesh: MeshConfig, home: Path) -> str:
    config = experiment("gpt2", home, "refused", mesh=mesh)
    config = dataclasses.replace(config, directory=home / "runs" / f"refused-{hash(mesh)}")
    try:
        train(config)
    except UserError as error:
        return str(error)
    return ""


def meshes_of(kind: str) -> list[str]:
    if ALL:
        return [*MESHES]
    if kind == "gpt2":
        return ["1x1", "2x2x2", "sequence"]
    # Encoder and decoder go round rings of their own at the same time on the way back, and XLA:CPU
    # mixes up messages that are under way together (docs/scaling.md).
    return ["1x1", "2x2x2" if kind in ("t5", "transformer") else "mixed"]


# What has neither heads nor positions to spread, and what is made of the same blocks as another.
SEEN = [*KINDS] if ALL else ["gpt2", "llama", "vit", "transformer"]


def collectives(mesh: MeshConfig, home: Path) -> dict[str, list[str]]:
    """Kinds of communication in a compiled step of GPT-2, with the shapes of results."""
    config = experiment("gpt2", home, "compiled", mesh=mesh)
    settings = dataclasses.replace(config.training, accumulate=1)
    config = dataclasses.replace(
        config,
        training=settings,
        task=dataclasses.replace(config.task, context=8),
        model=dataclasses.replace(config.model, layers=1),
    )
    with tempfile.TemporaryDirectory() as directory:
        task = TASKS[config.task.kind].create(config, Path(directory), resume=False)
    transform, _ = build_optimizer(settings, total_steps=3, steps_per_epoch=3)
    placement = Placement(mesh)
    graph, state, shardings = fresh_state(task, transform, placement)
    step = make_train_step(
        graph, transform, task.loss, seed=0, ema=settings.ema, shardings=shardings
    )
    assert task.train is not None
    with placement.context():
        batch = placement.batch(task.inputs(task.train.batch(0)))
        text = step.lower(state, batch).compile().as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.search(rf" = (.*?) ({kinds})(?:-start)?\(", line)
        if match:
            found.setdefault(match[2], []).append(re.sub(r"\{[^}]*\}", "", match[1]))
    return found


@pytest.fixture(scope="module")
def found(on_eight_devices: Callable[..., Any]) -> dict[str, Any]:
    return on_eight_devices(__file__, *SEEN)


@pytest.mark.parametrize("kind", SEEN)
def test_the_losses_are_those_of_one_device(kind: str, found: dict[str, Any]) -> None:
    found = found["losses"]
    one = found[kind]["1x1"]
    assert len(one["train"]) == 3
    assert len(one["validation"]) == 1
    assert one["train"][2] < one["train"][0]
    for mesh, there in found[kind].items():
        for part, values in there.items():
            np.testing.assert_allclose(values, one[part], rtol=1e-5, err_msg=f"{mesh} {part}")


def test_communication_is_what_the_mesh_asks_for(found: dict[str, Any]) -> None:
    """A vocabulary of 22, 8 wide, 32 hidden: a batch of 16 rows of 8 tokens."""
    kinds = {mesh: {*there} for mesh, there in found["collectives"].items()}
    assert kinds["1x1"] == set()
    assert kinds["8x1"] == {"all-reduce"}
    assert kinds["sequence"] == {"all-reduce", "collective-permute"}
    # The argmax of a spread vocabulary is put together from one of each part; no parameter is.
    assert kinds["4x2"] == {"all-reduce", "all-gather"}
    assert {*found["collectives"]["4x2"]["all-gather"]} == {"f32[4,8,2]", "s32[4,8,2]"}
    # What fsdp spreads comes together for its use, in the part that tensor leaves of it.
    assert kinds["2x2x2"] == {"all-reduce", "all-gather"}
    gathered = {*found["collectives"]["2x2x2"]["all-gather"]}
    assert {"f32[8,16]", "f32[16,8]", "f32[8,4]", "f32[4,8]", "f32[11,8]"} <= gathered
    assert not {"f32[8,32]", "f32[32,8]", "f32[22,8]", "f32[8,22]"} & gathered


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        ({"data": 3}, "mesh: data 3 wants 3 devices; there are 1"),
        ({"tensor": 2}, "mesh: tensor 2 is 2 devices, of which 1 is no multiple"),
    ],
)
def test_too_few_devices(mesh: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Placement(MeshConfig(**mesh), jax.devices()[:1])


def test_a_batch_that_not_all_devices_can_share(found: dict[str, Any]) -> None:
    shared = found["shared"]
    assert [shared[rows][0] for rows in ("16", "12", "6")] == [4, 3, 3]
    assert shared["12"][-1] == (
        "2 of 8 devices are idle: a batch of 12 rows cannot be shared by more"
    )


def test_what_a_mesh_does_not_divide_is_one_line(found: dict[str, Any]) -> None:
    rows, heads, nothing, deep = found["refused"]
    assert "batch_size=16 is not a multiple of 12 (mesh.data=3 x mesh.fsdp=2 x training." in rows
    assert "mesh.tensor=3 does not divide the 2 key/value heads of decoder/blocks/0" in heads
    assert "mesh.rules: 'qeury/kernel' matches no parameter" in nothing
    assert "names 2 dimensions, but decoder/blocks/0/attention/mechanism/query/bias has" in deep


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    program(sys.argv[1:])
