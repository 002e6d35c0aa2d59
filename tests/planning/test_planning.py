# Over 400 lines: all tests read the same plans and compiled programs.
"""Plans against XLA's own figures, hand-made formulas and hand-written programs.

What is compiled is compiled in a program with eight devices on the CPU; nothing of it runs.
"""

import gzip
import json
import math
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.mesh import MeshConfig
from attnzoo.data import picture_files
from attnzoo.data.images import load_images
from attnzoo.errors import UserError
from attnzoo.planning.communication import Message, read_program
from attnzoo.planning.devices import DEVICES, device_named
from attnzoo.planning.plan import Planner
from attnzoo.planning.proposal import propose
from attnzoo.planning.report import as_table, as_values
from attnzoo.planning.storage import storage_of
from attnzoo.planning.subject import subject_of
from attnzoo.tasks import TASKS

HEADS = "{kind: multi_head, num_heads: 2}"
TEXT = "{kind: text, train: [DIR/text], validation: [DIR/text]}"
BYTES = "{kind: byte, mask: true, sentinels: 9}"
GPT2 = f"{{kind: gpt2, attention: {HEADS}, dim: 32, layers: 1, max_length: 24, dropout: 0.1}}"
LLAMA = (
    f"{{kind: llama, attention: {HEADS}, dim: 16, hidden: 24, layers: 3, scan: true, remat: full}}"
)
BERT = f"{{kind: bert, attention: {HEADS}, dim: 8, hidden: 16, layers: 1, max_length: 16}}"
VIT = (
    f"{{kind: vit, attention: {HEADS}, dim: 32, hidden: 56, layers: 1, image_size: 24, patch: 4, "
    "channels: 1}"
)
T5 = (
    f"{{kind: t5, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
    "encoder_layers: 1, decoder_layers: 1}"
)
# kind: (task, data, tokenizer, model)
KINDS = {
    "gpt2": ("{kind: causal_lm, context: 24}", TEXT, BYTES, GPT2),
    "llama": ("{kind: causal_lm, context: 22, rows: packed}", TEXT, BYTES, LLAMA),
    "bert": ("{kind: masked_lm, context: 14}", TEXT, BYTES, BERT),
    "t5": ("{kind: span_corruption, context: 13}", TEXT, BYTES, T5),
    "vit": ("image_classification", "{kind: images, source: planted}", "char", VIT),
}
TRAINING = {
    "gpt2": "optimizer: adamw, ema: 0.9",
    "llama": "optimizer: lion",
    "vit": "optimizer: sgd",
}
# name: (kind, mesh)
COMPILED = {
    "one": ("gpt2", MeshConfig(data=1)),
    "copies": ("gpt2", MeshConfig(data=8)),
    "three ways": ("gpt2", MeshConfig(data=2, fsdp=2, tensor=2)),
    "ring": ("llama", MeshConfig(fsdp=2, sequence=4, data=1)),
    "images": ("vit", MeshConfig(data=2, fsdp=4)),
}


def experiment(
    kind: str, home: Path, training: str = "optimizer: adamw", mesh: MeshConfig | None = None
) -> ExperimentConfig:
    task, data, tokenizer, model = KINDS[kind]
    lines = {
        "name": kind,
        "task": task,
        "data": data.replace("DIR", str(home)),
        "tokenizer": tokenizer,
        "model": model,
        "training": f"{{steps: 3, batch_size: 16, {training}}}",
    }
    path = home / "planned.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    config = load(ExperimentConfig, path)
    return config if mesh is None else replace(config, mesh=mesh)


def program() -> None:
    planners = {kind: Planner("cpu") for kind in TRAINING}
    with tempfile.TemporaryDirectory() as directory:
        found = {
            name: as_values(
                planners[kind].plan(experiment(kind, Path(directory), TRAINING[kind], mesh))
            )
            for name, (kind, mesh) in COMPILED.items()
        }
    print(json.dumps(found))


@pytest.fixture(scope="module")
def compiled(on_eight_devices: Callable[..., Any]) -> dict[str, Any]:
    return on_eight_devices(__file__)


@pytest.mark.parametrize("name", COMPILED)
def test_what_a_step_begins_with_is_what_xla_says(name: str, compiled: dict[str, Any]) -> None:
    """State and batch of a device, to the byte: on a CPU nothing is padded."""
    plan = compiled[name]
    assert plan["memory_per_device"]["arguments"] == plan["xla"]["arguments"]
    assert plan["memory_per_device"]["total"] > plan["xla"]["arguments"]


@pytest.mark.parametrize("name", ["one", "copies", "images"])
def test_operations_are_about_those_xla_counts(name: str, compiled: dict[str, Any]) -> None:
    """XLA also counts what is no product: at these widths up to a third."""
    plan = compiled[name]
    assert 1.0 < plan["xla"]["flops_per_device"] * plan["devices"] / plan["flops"]["total"] < 1.4


def test_copies_sum_their_gradients_once(compiled: dict[str, Any]) -> None:
    plan = compiled["copies"]
    (message,) = plan["messages"]
    assert message["kind"] == "all-reduce"
    # The tied table has two, of its rows and of the output; all else are sums of losses.
    summed = plan["parameters"] + (256 + 9 + 5) * 32
    np.testing.assert_allclose(message["sent"], 2 * 7 / 8 * 4 * summed, rtol=1e-3)


def test_communication_of_other_meshes(compiled: dict[str, Any]) -> None:
    kinds = {
        name: {message["kind"] for message in plan["messages"]} for name, plan in compiled.items()
    }
    assert kinds["one"] == set()
    assert {"all-reduce", "all-gather"} <= kinds["three ways"]
    assert "collective-permute" in kinds["ring"]
    # Layers are scanned: 3 layers x 3 hops of keys and values, forwards and backwards at least.
    ring = next(m for m in compiled["ring"]["messages"] if m["kind"] == "collective-permute")
    assert ring["count"] >= 3 * 3 * 2 * 2


def test_operations_by_hand(tmp_path: Path) -> None:
    """GPT-2: 12 D^2 weights a layer and V D of the output; T x T products of attention twice."""
    plan = Planner("h100", ahead=False).plan(experiment("gpt2", tmp_path))
    # Bytes, sentinels, and pad, unknown, begin, end and mask.
    tokens, D, L, T, V = 16 * 24, 32, 1, 24, 256 + 9 + 5
    forward = tokens * (2 * (12 * D * D * L + V * D) + 2 * 2 * T * D * L)
    assert plan.flops.forward == forward
    assert plan.flops.backward == 2 * forward
    assert plan.flops.recomputed == 0
    assert plan.memory.parameters == 4 * plan.parameters
    assert plan.memory.optimizer == 8 * plan.parameters + 4 + 4  # two counts
    assert plan.units == tokens


def test_what_remat_computes_again(tmp_path: Path) -> None:
    config = experiment("llama", tmp_path)
    full = Planner("h100", ahead=False).plan(config)
    none = Planner("h100", ahead=False).plan(
        replace(config, model=replace(config.model, remat="none"))
    )
    assert full.flops.model == none.flops.model
    # Blocks of D = 16, F = 24, T = 22, but not the last product of each, which nothing asks for.
    again = 2 * (4 * 16 * 16 + 2 * 16 * 24) + 2 * 2 * 22 * 16
    assert full.flops.recomputed == 16 * 22 * 3 * again
    assert full.memory.temporary < none.memory.temporary


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "t5", "vit"])
def test_batches_are_those_of_the_data_without_it(kind: str, tmp_path: Path) -> None:
    config = experiment(kind, tmp_path)
    assert not (tmp_path / "text").exists()
    told = subject_of(config)
    (tmp_path / "text").write_text("a dog ran to the red house .\n" * 40)
    task = TASKS[config.task.kind].create(config, tmp_path, resume=False)
    assert task.train is not None
    true = task.inputs(task.train.batch(0))
    assert {n: (x.shape, x.dtype) for n, x in told.batch.items()} == {
        n: (x.shape, x.dtype) for n, x in true.items()
    }
    shapes = [
        jax.tree.map(lambda x: x.shape, jax.eval_shape(lambda t=t: _arrays(t)))
        for t in (told.task, task)
    ]
    assert shapes[0] == shapes[1]


PAIRS = "{kind: files, train: %s, validation: %s}"
# Data, and the files that it reads; each line is a row.
DATA = {
    "text": (TEXT.replace("}", ", documents: lines}"), ["text"]),
    "packed": (
        TEXT.replace("/text]", "/text.gz]").replace("}", ", documents: lines}"),
        ["text.gz"],
    ),
    "sides": (PAIRS % (("{source: DIR/a, target: DIR/b}",) * 2), ["a", "b"]),
    "table": (PAIRS % (("{table: DIR/both.tsv}",) * 2), ["both.tsv"]),
}


@pytest.mark.parametrize("name", DATA)
def test_the_stores_that_are_planned_are_those_that_are_made(name: str, tmp_path: Path) -> None:
    data, names = DATA[name]
    pairs = name in ("sides", "table")
    task, tokenizer, model = (
        ("translation", "word", "luong") if pairs else (*KINDS["gpt2"][::2], GPT2)
    )
    path = tmp_path / "planned.yaml"
    path.write_text(
        f"name: x\ntask: {task}\ndata: {data.replace('DIR', str(tmp_path))}\n"
        f"tokenizer: {tokenizer}\nmodel: {model}\ntraining: {{steps: 3}}\n"
        f"cache: {{path: {tmp_path / 'cache'}, memory: 0, workers: 0}}\n"
    )
    config = load(ExperimentConfig, path)
    assert storage_of(config) is None
    line, count = "a dog ran to the red house .", 40
    for file in names:
        text = f"{line}\t{line}\n" if name == "table" else f"{line}\n"
        content = (text * count).encode()
        (tmp_path / file).write_bytes(gzip.compress(content) if "gz" in file else content)
    estimate = storage_of(config)
    TASKS[config.task.kind].create(config, tmp_path, resume=False)
    made = storage_of(config)
    assert estimate is not None
    assert made is not None
    assert estimate.source.startswith("estimate from ")
    assert made.source.startswith("counted in 2 stores in ")
    # The same files are read as both parts, and counted once.
    assert (2 * estimate.rows, made.rows) == (2 * count, 2 * count)
    on_disk = [file.stat().st_size for file in (tmp_path / "cache").rglob("*.bin")]
    assert made.disk == sum(on_disk)
    # Ends of lines are bytes of a text, and separators are tokens.
    assert made.tokens == 2 * estimate.tokens
    assert made.disk == 2 * estimate.disk
    small = replace(config, cache=replace(config.cache, memory=10**6))
    kept = storage_of(small)
    assert kept is not None
    assert kept.disk == 0
    assert kept.memory > estimate.memory


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_pictures_are_planned_as_they_are_kept(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied only where they cannot be read in place, their pixels in memory."""
    monkeypatch.setattr(picture_files, "HELD_BYTES", 0)
    rows = []
    for number in range(10):
        file = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 24), number, np.uint8)).save(file)
        rows.append({"image": {"bytes": file.read_bytes()}, "label": "ab"[number % 2]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "all.parquet")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "pictures", "")
    source = {
        "folder": f"{{kind: folder, path: {tmp_path / 'pictures'}, channels: 1}}",
        "tar": f"{{kind: folder, path: {tmp_path / 'all.tar'}, channels: 1}}",
        "parquet": f"{{kind: shards, train: [{tmp_path / 'all.parquet'}], channels: 1}}",
    }[kind]
    path = tmp_path / "planned.yaml"
    path.write_text(
        f"name: x\ntask: image_classification\ndata: {{kind: images, source: {source}}}\n"
        f"model: {VIT}\ntraining: {{steps: 3}}\ncache: {{path: {tmp_path / 'cache'}}}\n"
    )
    config = load(ExperimentConfig, path)
    planned = storage_of(config)
    assert planned is not None
    splits = load_images(config.data, config.cache.path)
    assert planned.rows == len(splits.train) + len(splits.validation)
    assert planned.memory > splits.train.images.nbytes + splits.validation.images.nbytes
    copied = sum(file.stat().st_size for file in (tmp_path / "cache").glob("*/copies"))
    assert (planned.disk > 0) == (copied > 0) == (kind == "parquet")
    assert copied <= planned.disk <= 2 * copied + 3_000


def _arrays(task: Any) -> Any:
    from flax import nnx

    return nnx.to_pure_dict(nnx.state(task.build_model(), nnx.Param))


PROGRAM = """HloModule jit_step

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %g = f32[8,4]{1,0} all-gather(%x), channel_id=1, replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  ROOT %t = (s32[], f32[8,4]) tuple(%i, %g)
}

%steps (p: bf16[16]) -> bf16[16] {
  ROOT %s = bf16[16]{0} all-reduce(%p), channel_id=9, replica_groups=mesh['a'=2,'b'=4] {'b'}
}

%until (p: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[4,4]) -> f32[4,4] {
  %w = (s32[], f32[8,4]) while(%t0), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %v = (s32[], f32[8,4]) while(%t1), condition=%until, body=%body
  %f0 = bf16[16]{0} fusion(%y), kind=kCustom, calls=%steps
  %f1 = bf16[16]{0} fusion(%f0), kind=kCustom, calls=%steps
  %p = f32[10]{0} collective-permute(%z), channel_id=4, source_target_pairs={{0,1},{1,2},{2,0}}
  %r = (f32[32], f32[16]) reduce-scatter-start(%q, %q), replica_groups={{0,2},{1,3}}, to_apply=%add
  ROOT %o = f32[4,4]{1,0} copy(%a)
}
"""


def test_a_program_is_read() -> None:
    """Loops as often as they go round, one message of several fusions once, ring algorithms."""
    messages, unknown = read_program(PROGRAM, devices=8, per_host=4)
    assert unknown == 0
    assert sorted(messages, key=lambda message: message.kind) == [
        Message("all-gather", (3 + 5) * 128 / 2, 8, across=True),  # devices 0 and 4
        Message("all-reduce", 2 * 32 * 3 / 4, 1, across=False),
        Message("collective-permute", 40.0, 1, across=False),
        Message("reduce-scatter", 64.0, 1, across=False),
    ]
    _, unknown = read_program(PROGRAM.replace("direction=LT", "direction=GT"), 8, 4)
    assert unknown == 1


BIG = (
    "{kind: llama, attention: {kind: multi_head, num_heads: 16}, dim: 2048, hidden: 5632, "
    "layers: 22, scan: true, remat: full}"
)


def test_no_and_what_would_fit(tmp_path: Path) -> None:
    """TinyLlama on TPUs of 16 GB: 4.4 GB of weights, of gradients, and twice that of Adam's."""
    config = experiment(
        "gpt2", tmp_path, "compute_dtype: bfloat16, optimizer: adamw", MeshConfig(data=4)
    )
    (tmp_path / "model").write_text(f"model: {BIG}\nbase: planned.yaml\n")
    config = replace(load(ExperimentConfig, tmp_path / "model"), mesh=MeshConfig(data=4))
    planner = Planner("v5e", ahead=False)
    asked = planner.plan(config)
    assert asked.memory.parameters == 4 * asked.parameters > 3.9e9
    assert asked.memory.arguments > 3 * asked.memory.parameters
    assert not asked.fits
    found = propose(planner, asked)
    assert found is not None
    assert found.plan.fits
    # No smaller part of the batch spares the state: more fsdp does, on as many devices.
    assert found.plan.devices == 4
    assert found.overrides == ("mesh.data=2", "mesh.fsdp=2")
    again = planner.plan(replace(config, mesh=MeshConfig(data=2, fsdp=2)))
    assert again.memory == found.plan.memory
    assert math.isclose(again.memory.parameters, asked.memory.parameters / 2, rel_tol=1e-3)
    sends = {message.kind: message.sent for message in again.messages}
    # In bfloat16: gathered forwards and backwards, scattered once; then summed over the copies.
    np.testing.assert_allclose(sends["all-gather"], 2 * 2 * asked.parameters / 2, rtol=1e-3)
    np.testing.assert_allclose(sends["reduce-scatter"], 2 * asked.parameters / 2, rtol=1e-3)
    np.testing.assert_allclose(sends["all-reduce"], 2 * asked.parameters / 2, rtol=1e-2)


def test_time_is_that_of_the_slowest(tmp_path: Path) -> None:
    mesh = MeshConfig(data=16)
    plan = Planner("h100", efficiency=0.4, ahead=False).plan(
        experiment("gpt2", tmp_path, mesh=mesh)
    )
    assert plan.seconds["compute"] == pytest.approx(plan.flops.total / 16 / 494.7e12 / 0.4)
    (message,) = plan.messages
    assert message.across  # 8 to a host
    assert plan.seconds["communication"] == pytest.approx(message.sent / 50e9 / 0.4)
    assert plan.limit == "communication"
    assert plan.step_seconds == plan.seconds["communication"]
    assert plan.mfu == pytest.approx(plan.flops.model / (16 * 494.7e12 * plan.step_seconds))
    assert "limited by communication" in as_table(plan)


def test_the_table_of_devices_and_what_it_lacks() -> None:
    for name, device in DEVICES.items():
        if name != "cpu":
            assert device.flops["bfloat16"] >= device.flops["float32"] > 1e14
            assert 1e10 < device.memory < device.bandwidth < 1e13
            assert device.network < device.link < device.bandwidth
    with pytest.raises(UserError, match="--device v9: unknown; wanted one of cpu, v5e, v6e, h100"):
        device_named("v9", 1)


@pytest.mark.parametrize(("name", "devices"), [("v5e", 4), ("h200", 8)])
def test_compiles_for_a_device_that_is_not_here(name: str, devices: int, tmp_path: Path) -> None:
    """With libtpu, or with the CUDA plugin, and JAX_PLATFORMS=cpu."""
    config = experiment("vit", tmp_path, mesh=MeshConfig(fsdp=devices, data=1))
    plan = Planner(name).plan(config)
    if plan.compiled is None:
        pytest.skip(plan.not_compiled)
    # A TPU pads to tiles, of which arrays this small are a part.
    padded = plan.compiled.arguments / plan.memory.arguments
    assert padded == 1.0 if plan.device.platform == "cuda" else 1.0 < padded < 8.0
    assert "all-gather" in {message.kind for message in plan.messages}


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    program()
