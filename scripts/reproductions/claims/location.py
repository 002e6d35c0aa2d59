"""Attention by content alone, or by place too, on strings longer than those of training."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool

from attnzoo.config.attention import AdditiveConfig, AttentionConfig, LocationAwareConfig
from attnzoo.config.model import BahdanauConfig
from attnzoo.models import BahdanauSeq2Seq
from attnzoo.special_tokens import BOS, EOS, PAD
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead, headline
from reproductions.training import fit
from reproductions.translators import Pair, loss

SYMBOLS, FIRST, SHORTEST, LONGEST = 6, 4, 5, 20
"""Number of symbols and the id of the first; bounds of the length in training."""
LENGTHS = (10, 20, 30, 40, 60)
KINDS: dict[str, AttentionConfig] = {
    "content": AdditiveConfig(),
    "location-aware": LocationAwareConfig(kernel=5, filters=8),
}


def copies(key: Array, lengths: Array, longest: int) -> Pair:
    """Return random strings of few symbols, and the same as targets from BOS to EOS."""
    rows = len(lengths)
    symbols = jax.random.randint(key, (rows, longest + 1), FIRST, FIRST + SYMBOLS)
    place = jnp.arange(longest + 1)[None, :]
    end = lengths[:, None]
    source = jnp.where(place < end, symbols, jnp.where(place == end, EOS, PAD))
    start = jnp.full((rows, 1), BOS, source.dtype)
    return source, jnp.concatenate([start, source], axis=1)


def batch(key: Array) -> Pair:
    """Return strings to train on."""
    first, second = jax.random.split(key)
    return copies(first, jax.random.randint(second, (64,), SHORTEST, LONGEST + 1), LONGEST)


@nnx.jit
def right(model: BahdanauSeq2Seq, source: Array, target: Array) -> Bool[Array, "B T"]:
    """Return where the next symbol of a known string is predicted."""
    logits, _ = model(source, target[:, :-1], return_weights=True)
    return logits.argmax(axis=-1) == target[:, 1:]


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Train copiers of short strings; score the symbols of longer ones."""
    numbers: dict[str, Measured] = {}
    for name, attention in KINDS.items():
        config = BahdanauConfig(
            attention=attention, hidden=64, embedding=32, maxout=32, initial_state="zero"
        )
        size = FIRST + SYMBOLS
        model = BahdanauSeq2Seq(config, size, size, rngs=nnx.Rngs(setting.seed))
        fit(
            model, loss, batch, steps=setting.pick(500, 3), seed=setting.seed,
            learning_rate=4e-3,
        )  # fmt: skip
        for length in LENGTHS:
            rows = setting.pick(200, 4)
            key = jax.random.key(10_000 + length)
            source, target = copies(key, jnp.full(rows, length), length)
            found = np.asarray(right(model, source, target))[:, :length]
            numbers[f"{name}/{length}"] = float(found.mean())
    return numbers


def _came(results: Results) -> str:
    def told(length: int) -> str:
        content, aware = (results.mean(f"{name}/{length}") for name in KINDS)
        return f"{content:.1%} and {aware:.1%} of the symbols of strings of {length}"

    return (
        f"Trained on at most {LONGEST} symbols, attention by content and location-aware attention "
        f"copy {told(20)}, and {told(40)}."
    )


CLAIMS = (
    Claim(
        name="location-aware",
        title="On longer sequences than known, attention must know where it was",
        source="Chorowski et al. 2015, arXiv 1506.07503, section 5 and figure 2",
        claimed="Attention by content alone fails on utterances longer than those of training, "
        "since it cannot tell similar parts of one apart; attention that also reads its weights "
        "of the step before does not.",
        setup=f"made strings of {SYMBOLS} symbols, which repeat all the time as sounds do, to be "
        f"copied: {SHORTEST} to {LONGEST} in training, up to {LENGTHS[-1]} in the test; Bahdanau's "
        "model of width 64, 500 steps of 64 strings; the next symbol of a known beginning is "
        "scored. The paper recognises phonemes of TIMIT, joined up to eleven times.",
        criterion=(
            above("content/20", 0.95),
            above("location-aware/20", 0.95),
            headline(ahead("location-aware/40", "content/40", 0.1)),
            headline(above("location-aware/40", 0.9)),
        ),
        measure=measure,
        came=_came,
        meaning="A recurrent encoder counts places only as far as training went; reading one's own "
        "last weights replaces counting by a step to the right, which works at twice the length.",
        minutes=1,
        axes=("symbols of the string", "share predicted right"),
    ),
)
