"""One peer of `benchmark`, alone in its process: it waits on stdin and times one step a line.

`python -m benchmarks.worker PEER DIRECTORY`: the directory holds ``settings.json`` and
``batch.npz``; ours writes ``weights.npz`` for the others. A line "check" writes loss and gradients
to ``PEER.npz``; a line "step" does a training step and answers with its CPU seconds.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Check = Callable[[], dict[str, np.ndarray]]
Step = Callable[[], None]

LEARNING_RATE, CLIP_NORM = 1e-3, 1.0


def ours(settings: dict, directory: Path) -> tuple[str, Check, Step]:
    """This package's model in this package's training step."""
    import jax
    from flax import nnx

    from attnzoo.config.model import BahdanauConfig
    from attnzoo.config.training import AdamConfig, ConstantConfig, TrainingConfig
    from attnzoo.models.rnn_seq2seq import BahdanauSeq2Seq
    from attnzoo.tasks.translation import translation_loss
    from attnzoo.training.optimizer import build_optimizer
    from attnzoo.training.step import make_train_step

    width, vocabulary = settings["width"], settings["vocabulary"]
    config = BahdanauConfig(hidden=width, embedding=width, maxout=width)
    model = BahdanauSeq2Seq(config, vocabulary, vocabulary, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    # The paper's start is nearly uniform attention, whose gradients are rounding errors: draw
    # weights that attend.
    random = np.random.default_rng(0)

    def draw(p: jax.Array) -> np.ndarray:
        scale = 1.0 if p.shape[0] == vocabulary else p.shape[0] ** -0.5
        return random.standard_normal(p.shape, np.float32) * np.float32(scale)

    params = jax.tree.map(draw, params)
    np.savez(directory / "weights.npz", allow_pickle=False, **_flat(params))
    batch = dict(np.load(directory / "batch.npz"))

    def check() -> dict[str, np.ndarray]:
        def objective(params):
            return translation_loss(nnx.merge(graph, params, rest), batch)[0]

        loss, gradient = jax.jit(jax.value_and_grad(objective))(params)
        return {"loss": np.asarray(loss), **_flat(gradient)}

    training = TrainingConfig(
        optimizer=AdamConfig(),
        schedule=ConstantConfig(),
        learning_rate=LEARNING_RATE,
        clip_norm=CLIP_NORM,
        steps=1,
    )
    transform, _ = build_optimizer(training, total_steps=1, steps_per_epoch=1)
    train_step = make_train_step(graph, transform, translation_loss, seed=0)
    state = {
        "params": params,
        "rest": nnx.to_pure_dict(rest),
        "optimizer": transform.init(params),
        "step": np.int32(0),
    }
    state = jax.tree.map(jax.numpy.asarray, state)
    holder = [state]

    def step() -> None:
        holder[0], sums = train_step(holder[0], batch)
        jax.block_until_ready((holder[0], sums))

    return f"attnzoo on jax {jax.__version__}", check, step


def torch(settings: dict, directory: Path) -> tuple[str, Check, Step]:
    """The same model in PyTorch."""
    import torch

    from benchmarks.torch_seq2seq import TorchSeq2Seq

    torch.set_num_threads(settings["threads"])
    weights = dict(np.load(directory / "weights.npz"))
    model = TorchSeq2Seq(weights, learning_rate=LEARNING_RATE, clip_norm=CLIP_NORM)
    batch = np.load(directory / "batch.npz")
    source, target = (torch.tensor(batch[name], dtype=torch.int64) for name in ("source", "target"))

    def check() -> dict[str, np.ndarray]:
        loss = model.loss(source, target)
        gradients = torch.autograd.grad(loss, list(model.weights.values()))
        named = zip(model.weights, gradients, strict=True)
        return {"loss": loss.detach().numpy(), **{name: g.numpy() for name, g in named}}

    def step() -> None:
        model.step(source, target)

    return f"PyTorch {torch.__version__}", check, step


PEERS = {"ours": ours, "torch": torch}


def _flat(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def main(peer: str, directory: Path) -> None:
    """Answer the parent line by line until it closes stdin."""
    settings = json.loads((directory / "settings.json").read_text())
    if hasattr(os, "sched_setaffinity"):  # before jax and torch count the cores
        os.sched_setaffinity(0, settings["cores"])
    label, check, step = PEERS[peer](settings, directory)
    print(f"ready {label}", flush=True)
    for line in sys.stdin:
        if line.strip() == "check":
            np.savez(directory / f"{peer}.npz", allow_pickle=False, **check())
            print("done", flush=True)
        else:
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            print(cpu, wall, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
