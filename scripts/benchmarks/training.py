"""`benchmark training`: a training step of ViT, GPT-2 or T5 beside transformers'.

Both start from the same weights and read the same batch; their losses and gradients are compared
before anything is timed. Each lives in its own process on one core; they take turns step by step.
What is reported is the median CPU time of a step (forward, backward, AdamW), float32, without
dropout and compilation. Ours is the step of the training loop, which also sums what it logs: the
norm of the gradient and the accuracy. Theirs has fused attention and the fused AdamW.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attnzoo.errors import UserError
from benchmarks.attention import Worker

TOLERANCE = 1e-4
WARM_UP = 2
LEARNING_RATE = 1e-4
CLASSES, PIXELS = 1000, 64

Arrays = dict[str, Any]


class Workload(NamedTuple):
    """A model, its batch and its loss; ``their_inputs`` is the batch as transformers takes it."""

    meaning: str
    build: Callable[[], Any]
    batch: Callable[[Any], Arrays]
    loss: Callable[..., Any]
    their_inputs: Callable[[Arrays], Arrays]
    tolerance: float = TOLERANCE


def _vit() -> Any:
    from flax import nnx

    from attnzoo.config.vit import ViTConfig
    from attnzoo.models.vit import ViT

    return ViT(ViTConfig.tiny(patch=8, image_size=PIXELS), CLASSES, rngs=nnx.Rngs(0))


def _images(random: Any) -> Arrays:
    images = random.standard_normal((16, PIXELS, PIXELS, 3), "float32")
    return {"images": images, "labels": random.integers(0, CLASSES, 16).astype("int32")}


def _image_loss(model: Any, batch: Arrays, *, rngs: Any) -> Any:
    import jax.numpy as jnp

    from attnzoo.tasks.losses import mean_loss

    labels = batch["labels"]
    return mean_loss(model(batch["images"]), labels, jnp.ones(labels.shape, bool))


def _gpt2() -> Any:
    from flax import nnx

    from attnzoo.config.attention import MultiHeadConfig
    from attnzoo.config.gpt2 import GPT2Config
    from attnzoo.models.gpt2 import GPT2

    config = GPT2Config(
        attention=MultiHeadConfig(num_heads=6),
        dim=384,
        layers=6,
        max_length=256,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return GPT2(config, 8192, rngs=nnx.Rngs(0))


def _text_loss(model: Any, batch: Arrays, *, rngs: Any) -> Any:
    import jax.numpy as jnp

    from attnzoo.tasks.losses import mean_loss

    tokens = batch["tokens"]
    # As transformers does: logits of all positions, the last of which has no next token.
    labels = jnp.roll(tokens, -1, axis=1)
    counted = jnp.broadcast_to(
        jnp.arange(tokens.shape[1])[None] < tokens.shape[1] - 1, labels.shape
    )
    return mean_loss(model(tokens), labels, counted)


def _t5() -> Any:
    from flax import nnx

    from attnzoo.config.t5 import T5Config
    from attnzoo.models.t5 import T5

    return T5(dataclasses.replace(T5Config.small(), dropout=0.0), 32128, rngs=nnx.Rngs(0))


def _spans(random: Any) -> Arrays:
    import numpy as np

    source, target = (random.integers(2, 32128, (4, length)) for length in (128, 64))
    started = np.concatenate([np.zeros((4, 1), np.int64), target], axis=1)
    return {"source": source.astype(np.int32), "target": started.astype(np.int32)}


def _translation_loss(model: Any, batch: Arrays, *, rngs: Any) -> Any:
    from attnzoo.tasks.translation import translation_loss

    return translation_loss(model, batch)


WORKLOADS = {
    "vit": Workload(
        "ViT-Ti/8, 16 images of 64 x 64",
        _vit,
        _images,
        _image_loss,
        lambda b: {"pixel_values": b["images"].transpose(0, 3, 1, 2), "labels": b["labels"]},
    ),
    "gpt2": Workload(
        "GPT-2 of 6 layers, width 384, vocabulary 8192, 8 rows of 256 tokens",
        _gpt2,
        lambda random: {"tokens": random.integers(0, 8192, (8, 256)).astype("int32")},
        _text_loss,
        lambda b: {"input_ids": b["tokens"], "labels": b["tokens"]},
    ),
    "t5": Workload(
        "T5-small, 4 pairs of 128 and 64 tokens",
        _t5,
        _spans,
        _translation_loss,
        lambda b: {"input_ids": b["source"], "labels": b["target"][:, 1:]},
        # Fresh weights make logits large, gradients ill-conditioned: in float64 the peers agree to
        # 3e-6, in float32 ours is 2.6e-3 from there and theirs 0.6e-3.
        tolerance=1e-2,
    ),
}


def add_parser(workloads: Any, positive: Callable[[str], int]) -> None:
    """The command line."""
    parser = workloads.add_parser(
        "training",
        help="a training step of ViT, GPT-2 and T5 against transformers",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--models", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), help="which"
    )
    parser.add_argument("--rounds", type=positive, default=7, help="timed steps of each peer")


def measure(arguments: argparse.Namespace, cores: list[int], allocator: Mapping[str, str]) -> int:
    """Compare, time in turns, print the table."""
    peers = ["ours", *(["theirs"] if importlib.util.find_spec("transformers") else [])]
    print(f"float32, one core, {arguments.rounds} rounds\n")
    print(f"{'':<48}{'CPU ms a step':>14}{'lowest':>9}{'highest':>9}")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as temporary:
            directory, workers = Path(temporary), []
            settings = {"model": model, "cores": cores}
            (directory / "settings.json").write_text(json.dumps(settings))
            try:
                # Ours writes the weights that theirs reads.
                workers.extend(
                    Worker(name, directory, allocator, module=__name__) for name in peers
                )
                _rows(model, workers, arguments.rounds, directory)
            finally:
                for worker in workers:
                    worker.close()
    if len(peers) == 1:
        print("\ntransformers is not installed, so ours ran alone: pip install 'attnzoo[hf]'")
    return 0


def _rows(model: str, workers: Sequence[Worker], rounds: int, directory: Path) -> None:
    print(f"{model}: {WORKLOADS[model].meaning}")
    if len(workers) > 1:
        paths = [directory / worker.ask("check") for worker in workers]
        found, where = difference(*paths)
        allowed = WORKLOADS[model].tolerance
        if not found <= allowed:
            raise UserError(
                f"the peers disagree on {model}: {where} differs by {found:.1e} of its size "
                f"(allowed: {allowed:.0e}); their times say nothing"
            )
        print(f"  loss and gradients agree: largest difference {found:.1e} ({where})")
    seconds: list[list[float]] = [[] for _ in workers]
    for count in range(WARM_UP + rounds):
        for worker, times in zip(workers, seconds, strict=True):
            spent = worker.ask("step")
            if count >= WARM_UP:
                times.append(1e3 * spent)
    for worker, times in zip(workers, seconds, strict=True):
        print(
            f"  {worker.label:<46}{statistics.median(times):>14.1f}"
            f"{min(times):>9.1f}{max(times):>9.1f}"
        )
    if len(seconds) > 1:
        ratio = statistics.median(seconds[1]) / statistics.median(seconds[0])
        print(f"  ratio transformers / attnzoo: {ratio:.2f} (above 1: ours is faster)")


def difference(a: Path, b: Path) -> tuple[float, str]:
    """The largest ||x - y|| / ||y|| over loss and gradients, and whose it is.

    A gradient that is nothing but rounding (softmax is blind to biases of keys) is measured by a
    thousandth of the whole gradient.
    """
    import numpy as np

    with np.load(a) as left, np.load(b) as right:
        if set(left) != set(right):
            return float("inf"), ", ".join(sorted(set(left) ^ set(right)))
        norms = {name: float(np.linalg.norm(right[name])) for name in right}
        least = 1e-3 * float(np.linalg.norm([norms[name] for name in norms if name != "loss"]))

        def apart(name: str) -> float:
            relative = float(np.linalg.norm(left[name] - right[name])) / max(norms[name], least)
            # max() would lose a NaN that does not come first.
            return relative if np.isfinite(relative) else float("inf")

        return max((apart(name), name) for name in left)


Check = Callable[[], Arrays]
Step = Callable[[], None]


def ours(workload: Workload, directory: Path) -> tuple[str, Check, Step]:
    """The step of our training loop; it also writes the weights for the other."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from attnzoo import pretrained
    from attnzoo.config.training import AdamWConfig, ConstantConfig, TrainingConfig
    from attnzoo.training.optimizer import build_optimizer
    from attnzoo.training.step import make_train_step

    model, random = workload.build(), np.random.default_rng(0)
    # A head of zeros has no gradient for what is below it.
    nnx.update(
        model,
        jax.tree.map(
            lambda x: x + 0.02 * random.standard_normal(x.shape, np.float32),
            nnx.state(model, nnx.Param),
        ),
    )
    pretrained.save(model, directory / "weights")
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    batch = workload.batch(np.random.default_rng(1))
    np.savez(directory / "batch.npz", allow_pickle=False, **batch)

    def check() -> Arrays:
        def objective(params: Any) -> Any:
            return workload.loss(nnx.merge(graph, params, rest), batch, rngs=None)[0]

        loss, gradient = jax.jit(jax.value_and_grad(objective))(params)
        pretrained.save(nnx.merge(graph, gradient, rest), directory / "ours")
        return {"loss": np.asarray(loss), **_tensors(directory / "ours")}

    training = TrainingConfig(
        optimizer=AdamWConfig(),
        schedule=ConstantConfig(),
        learning_rate=LEARNING_RATE,
        clip_norm=None,
        steps=1,
    )
    transform, _ = build_optimizer(training, total_steps=1, steps_per_epoch=1)
    train_step = make_train_step(graph, transform, workload.loss, seed=0)
    state = {
        # The step gives its state away, and the check reads these after it.
        "params": jax.tree.map(jnp.copy, params),
        "rest": rest,
        "optimizer": transform.init(params),
        "step": jnp.int32(0),
    }
    held = [state]

    def step() -> None:
        held[0], sums = train_step(held[0], batch)
        jax.block_until_ready((held[0], sums))

    return f"attnzoo on jax {jax.__version__}", check, step


def theirs(workload: Workload, directory: Path) -> tuple[str, Check, Step]:
    """The same model of transformers with its own loss."""
    import numpy as np
    import torch
    import transformers

    torch.set_num_threads(1)
    settings = json.loads((directory / "weights" / "config.json").read_text())
    cls = getattr(transformers, settings["architectures"][0])
    # Dropout of 0 stands in the config; without train() some models take another path.
    model = cls.from_pretrained(directory / "weights").train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True
    )
    inputs = {
        name: torch.from_numpy(np.ascontiguousarray(array))
        for name, array in workload.their_inputs(dict(np.load(directory / "batch.npz"))).items()
    }
    inputs = {name: x if x.is_floating_point() else x.long() for name, x in inputs.items()}

    def backward() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = model(**inputs).loss
        loss.backward()
        return loss

    def check() -> Arrays:
        loss = backward().detach().numpy()
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.grad)
        model.save_pretrained(directory / "theirs")
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(kept[name])
        return {"loss": loss, **_tensors(directory / "theirs")}

    def step() -> None:
        backward()
        optimizer.step()

    label = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"
    return label.removesuffix("+cpu"), check, step


def _tensors(folder: Path) -> Arrays:
    """Gradients under transformers' names: those of the weights that were written there."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


PEERS = {"ours": ours, "theirs": theirs}


def work(peer: str, directory: Path) -> None:
    """Answer the parent line by line until it closes stdin."""
    import numpy as np

    settings = json.loads((directory / "settings.json").read_text())
    if settings["cores"] and hasattr(os, "sched_setaffinity"):  # before jax and torch count them
        os.sched_setaffinity(0, settings["cores"])
    label, check, step = PEERS[peer](WORKLOADS[settings["model"]], directory)
    print(json.dumps(label), flush=True)
    for line in sys.stdin:
        if line.strip() == "check":
            np.savez(directory / f"{peer}.npz", allow_pickle=False, **check())
            print(json.dumps(f"{peer}.npz"), flush=True)
        else:
            start = time.process_time()
            step()
            print(json.dumps(time.process_time() - start), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
