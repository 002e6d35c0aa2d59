"""One mechanism for another by one line of config: twenty steps of every pair that fits."""

from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from attnzoo.attention import ATTENTIONS
from attnzoo.config import attention as kinds
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.gates import Gate
from attnzoo.config.loader import load
from attnzoo.config.model import ResNetConfig
from attnzoo.config.training import AdamConfig, ConstantConfig, TrainingConfig
from attnzoo.models import CLASSIFIERS, TRANSLATORS
from attnzoo.special_tokens import BOS, EOS, PAD
from attnzoo.tasks.translation import translation_loss
from attnzoo.training.optimizer import build_optimizer
from attnzoo.training.step import make_train_step

STEPS = 20
CONFIG = """
name: swap
data: {kind: synthetic}
training: {steps: 20, learning_rate: 1e-2}
"""
WIDTHS = {
    "bahdanau": "{kind: bahdanau, hidden: 8, embedding: 6, maxout: 5}",
    "luong": "{kind: luong, hidden: 8, embedding: 6, layers: 1, dropout: 0}",
}
SETTINGS = {
    "latent": "{kind: latent, num_heads: 2, latent_dim: 6, rotary_dim: 2, head_dim: 3}",
    "multi_head": "{kind: multi_head, num_heads: 4, num_kv_heads: 2, qk_norm: true, sinks: true}",
    "hard": "{kind: hard, score: general}",
    "additive": "{kind: additive, normalise: entmax15}",
    "general": "{kind: general, normalise: sparsemax}",
}
KINDS = [cls.kind for cls in get_args(get_args(kinds.Attention)[0])]
# Bahdanau's queries are half as wide as its keys.
UNEQUAL = {("bahdanau", "dot"), ("bahdanau", "scaled_dot")}
PAIRS = [(m, kind) for m in WIDTHS for kind in KINDS if (m, kind) not in UNEQUAL]
# What the zoo has under another name, or what does not fit a decoder over a source.
ELSEWHERE = {"multiplicative": "dot, scaled_dot, general, concat"}
# Kinds whose config says that they only read their own sequence, and those that have no config.
NOT_CROSS = {cls.kind for cls in get_args(get_args(kinds.SelfAttention)[0])} - set(KINDS)
NOT_CROSS |= {"causal_linear", "mab", "graph"}


def settings() -> TrainingConfig:
    return TrainingConfig(
        steps=STEPS, optimizer=AdamConfig(), schedule=ConstantConfig(), learning_rate=1e-2
    )


def twenty_steps(module: nnx.Module, loss: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Losses, and the parameters before and after, of the package's own training step."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    transform, _ = build_optimizer(settings(), total_steps=STEPS, steps_per_epoch=1)
    step = make_train_step(graph, transform, loss, seed=0)
    before = jax.tree.map(np.array, params)
    state = {
        "params": params,
        "rest": nnx.to_pure_dict(rest),
        "optimizer": transform.init(params),
        "step": jnp.int32(0),
    }
    losses = []
    for _ in range(STEPS):
        state, sums = step(state, batch)
        losses.append(float(sums["loss"]))
    return losses, before, state["params"]


def test_every_attention_of_the_zoo_is_a_line_of_config_or_does_not_fit() -> None:
    left = set(ATTENTIONS) - set(KINDS) - set(ELSEWHERE) - NOT_CROSS
    assert not left, f"neither in config.attention nor said not to fit: {', '.join(sorted(left))}"


@pytest.mark.parametrize(("model", "kind"), PAIRS)
def test_a_translator_learns_with_each_attention(model: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "swap.yaml").write_text(CONFIG + f"model: {WIDTHS[model]}\n")
    line = f"model.attention={SETTINGS.get(kind, kind)}"
    config = load(ExperimentConfig, tmp_path / "swap.yaml", [line]).model
    assert config.attention.kind == kind
    rng = np.random.default_rng(0)
    symbols = rng.integers(4, 12, (8, 5))
    symbols[3:, 4], symbols[6:, 3] = PAD, PAD
    edge = np.full((8, 1), EOS), np.full((8, 1), BOS)
    source = np.hstack([symbols[:, :3], edge[0], symbols[:, 3:]])
    batch = {
        "source": jnp.int32(np.where(np.arange(6) < 4, source, PAD)),
        "target": jnp.int32(np.hstack([edge[1], symbols[:, 2::-1], edge[0]])),
    }
    module = TRANSLATORS[model](config, 12, 12, rngs=nnx.Rngs(0))
    losses, before, after = twenty_steps(module, translation_loss, batch)
    assert losses[-1] < losses[0] - 0.2, losses
    for name, old in before.get("attention", {}).items():
        moved = jax.tree.map(
            lambda a, b: bool(np.any(a != np.asarray(b))), old, after["attention"][name]
        )
        assert all(jax.tree.leaves(moved)), f"attention.{name} never moved: {moved}"


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("kind", [cls.kind for cls in get_args(get_args(Gate)[0])])
def test_a_residual_network_learns_with_each_gate(kind: str) -> None:
    sizes = ["depth=8", "width=4", "channels=1", f"attention={kind}"]
    sizes += ["attention.reduction=2"] if kind in ("se", "cbam", "bam", "mhca") else []
    sizes += ["attention.kernel_sizes=[1, 2]"] if kind == "mhca" else []
    config = load(ResNetConfig, None, sizes)
    assert config.attention.kind == kind
    label = np.arange(9) % 3
    images = np.random.default_rng(0).normal(size=(9, 8, 8, 1))
    images[np.arange(9), 3, 2 * label + 1] += 5.0  # the class is where the bright spot is

    def loss(model, batch, *, rngs):
        logits = model(batch["images"], use_running_average=False)
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.mean(errors), {}

    module = CLASSIFIERS["resnet"](config, 3, rngs=nnx.Rngs(0))
    batch = {"images": jnp.float32(images), "label": jnp.int32(label)}
    losses, _, _ = twenty_steps(module, loss, batch)
    assert losses[-1] < losses[0] - 0.2, losses
