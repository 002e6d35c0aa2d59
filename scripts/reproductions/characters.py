"""Small decoders on the characters of Shakespeare, which several claims train and share."""

import dataclasses
import functools
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention.relative_bias import ALiBi
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.gpt2 import GPT2Config
from attnzoo.layers.embedding import sinusoidal_positions
from attnzoo.models import GPT2
from attnzoo.ops.rotary import Rotary
from reproductions.claim import Setting
from reproductions.training import fit, kept

M = TypeVar("M", bound=nnx.Module)
Positions = Literal["learned", "none", "sinusoidal", "ALiBi", "rotary"]
NEEDS = "tinyshakespeare"
VOCABULARY = 65
NANO = GPT2Config.char_cpu()
"""nanoGPT's setting for a CPU: four layers of width 128, four heads, context 64."""
SMALL = dataclasses.replace(NANO, layers=2, dim=64, attention=MultiHeadConfig(num_heads=4))
"""A model that trains in seconds: two layers of width 64, four heads, context 64."""
SMALL_SETUP = (
    "the characters of Shakespeare; decoders of two layers of width 64 with 4 heads, context 64, "
    "1,000 steps of 12 windows"
)


@functools.cache
def text(data: Path) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"]]:
    """Return the characters' numbers: the first nine tenths to train on, the last to validate."""
    path = data / NEEDS / "input.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        read = np.array(list(file.read()))
    numbers = np.unique(read, return_inverse=True)[1].astype(np.int32)
    cut = int(len(numbers) * 0.9)  # where nanoGPT cuts
    return numbers[:cut], numbers[cut:]


class Decoder(GPT2):
    """GPT-2 with positions of another kind; sinusoids have the size of the embeddings at first.

    ``masked``: every character sees all others, and there is one more, the mask.
    """

    def __init__(
        self,
        config: GPT2Config,
        positions: Positions = "learned",
        *,
        masked: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(config, VOCABULARY + masked, rngs=rngs)
        self.kind = positions
        for block in self.decoder.blocks:
            block.attention.is_causal = not masked
            if positions == "ALiBi":
                block.attention.mechanism.score_mod = ALiBi(config.attention.heads)
            if positions == "rotary":
                block.attention.mechanism.rotary = Rotary()

    def _embed(
        self, tokens: Int[Array, "B T"], positions: Any, rngs: nnx.Rngs | None
    ) -> Float[Array, "B T D"]:
        if self.kind == "learned":
            return super()._embed(tokens, positions, rngs)
        x = self.embedding(tokens)
        if self.kind != "sinusoidal":
            return x
        sines = sinusoidal_positions(jnp.arange(tokens.shape[1]), self.config.dim)
        return x + 0.02 * sines[None]


def cross_entropy(model: Any, rows: Int[Array, "B T"], **call: Any) -> Float[Array, "B t"]:
    """Return the loss in nats of every character but the first of each row."""
    logits = model(rows[:, :-1], **call)
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:])


def windows(tokens: Int[np.ndarray, " L"], rows: int, length: int) -> Callable[[Array], Array]:
    """Return a function from a key to rows of length + 1 characters that begin anywhere."""
    places = jnp.arange(length + 1)[None, :]

    def batch(key: Array) -> Int[Array, "rows T"]:
        first = jax.random.randint(key, (rows, 1), 0, len(tokens) - length)
        return jnp.asarray(tokens)[first + places]

    return batch


def learn(
    setting: Setting,
    label: str,
    model: M,
    *,
    steps: int = 1000,
    batch: Callable[[Array], Any] | None = None,
    loss: Callable[[Any, Any], Array] = lambda model, made: cross_entropy(model, made).mean(),
) -> M:
    """Train a model as nanoGPT does, or read what another claim has trained under the label.

    AdamW with b2 0.99 and decay 0.1 of matrices, learning rate 1e-3 with 100 steps of warm-up and a
    cosine to a tenth, gradients clipped at norm 1 (its config/train_shakespeare_char.py).
    """
    steps = setting.pick(steps, 3)
    path = setting.folder.parents[1] / "characters" / f"{label} {steps} {setting.seed}.npz"
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, max(steps, 101), 1e-4)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            rate, b2=0.99, weight_decay=0.1,
            mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree),
        ),
    )  # fmt: skip
    batch = batch or windows(text(setting.data)[0], 12, 64)

    def train() -> None:
        model.train()
        fit(model, loss, batch, steps=steps, seed=setting.seed, optimizer=optimizer)
        model.eval()

    return kept(None if setting.quick else path, model, train)


def validation(setting: Setting, length: int, most: int | None = None) -> Int[np.ndarray, "N T"]:
    """Return the validation text as windows side by side, with the character after each."""
    tokens = text(setting.data)[1]
    count = (len(tokens) - 1) // length
    starts = np.arange(count)[:, None] * length
    return tokens[starts + np.arange(length + 1)[None, :]][: setting.pick(most, 2)]


def losses(
    model: Any, rows: Int[np.ndarray, "N T"], size: int = 4096, **call: Any
) -> Float[np.ndarray, "N t"]:
    """Return the losses of a row's characters but the first, ``size`` characters at once."""
    at_once = max(1, size // rows.shape[1])
    read = nnx.jit(lambda model, rows: cross_entropy(model, rows, **call))
    return np.concatenate(
        [np.asarray(read(model, rows[i : i + at_once])) for i in range(0, len(rows), at_once)]
    )
