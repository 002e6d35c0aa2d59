"""Pointer-generator networks: known words are written, unknown ones are copied."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Int

from attnzoo.config.attention import AdditiveConfig
from attnzoo.config.pointer_generator import PointerGeneratorConfig
from attnzoo.models import PointerGenerator
from attnzoo.special_tokens import BOS, EOS
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead, headline
from reproductions.training import fit
from reproductions.translators import Pair, loss

KNOWN, FIRST, SLOTS, LENGTH, ROWS = 200, 4, 12, 12, 64
"""Words of the vocabulary, the id of the first, ids of unknown words, words of a text, texts."""


def texts(key: Array, rows: int = ROWS) -> Pair:
    """Return texts of known and unknown words, and their translations back to front.

    Known words become other words of the vocabulary (each the one that is three further); unknown
    ones, three in ten, stay as they are. Their ids count them within a text.
    """
    first, second = jax.random.split(key)
    words = jax.random.randint(first, (rows, LENGTH), 0, KNOWN)
    rare = jax.random.bernoulli(second, 0.3, words.shape)
    slots = FIRST + KNOWN + jnp.cumsum(rare, axis=1) - 1
    source = jnp.where(rare, slots, FIRST + words)
    target = jnp.where(rare, slots, FIRST + (words + 3) % KNOWN)[:, ::-1]
    start, end = (jnp.full((rows, 1), token, source.dtype) for token in (BOS, EOS))
    return (
        jnp.concatenate([source, end], axis=1),
        jnp.concatenate([start, target, end], axis=1),
    )


@nnx.jit
def judge(
    model: PointerGenerator, source: Int[Array, "B S"], target: Int[Array, "B T"]
) -> tuple[Bool[Array, "B T"], Array]:
    """Return where the next word is predicted, and the probability to write rather than copy."""
    logits, _, p_gen = model.pointing(source, target[:, :-1])
    return logits.argmax(axis=-1) == target[:, 1:], p_gen


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Train a pointer-generator; score known and unknown words of new texts apart."""
    config = PointerGeneratorConfig(
        attention=AdditiveConfig(), hidden=64, embedding=32, source_words=SLOTS
    )
    size = FIRST + KNOWN + SLOTS
    model = PointerGenerator(config, size, size, rngs=nnx.Rngs(setting.seed))
    fit(
        model, loss, texts, steps=setting.pick(900, 3), seed=setting.seed, learning_rate=4e-3
    )  # fmt: skip
    source, target = texts(jax.random.key(10_000), setting.pick(500, 8))
    right, p_gen = (np.asarray(one)[:, :LENGTH] for one in judge(model, source, target))
    rare = np.asarray(target)[:, 1 : LENGTH + 1] >= FIRST + KNOWN
    return {
        "known words right": float(right[~rare].mean()),
        "unknown words right": float(right[rare].mean()),
        "probability to write, known words": float(p_gen[~rare].mean()),
        "probability to write, unknown words": float(p_gen[rare].mean()),
    }


def _came(results: Results) -> str:
    known, unknown = (results.mean(f"{name} words right") for name in ("known", "unknown"))
    write, rare = (
        results.mean(f"probability to write, {name} words") for name in ("known", "unknown")
    )
    return (
        f"{unknown:.1%} of the unknown words and {known:.1%} of the known ones are right; the "
        f"probability to write is {write:.2f} at known words and {rare:.2f} at unknown ones."
    )


CLAIMS = (
    Claim(
        name="pointing",
        title="Attention that points copies words that no vocabulary has",
        source="See, Liu and Manning 2017, arXiv 1704.04368; Vinyals, Fortunato and Jaitly 2015, "
        "arXiv 1506.03134",
        claimed="A network that may point at a source word instead of writing one reproduces words "
        "outside its vocabulary, which a translator with attention alone cannot write, and "
        "learns when to do which.",
        setup=f"made texts of {LENGTH} words, three in ten of them unknown; known words have to be "
        f"translated, word for word and back to front, {KNOWN} of them; width 64, 900 steps of "
        "64 texts, no coverage. The papers summarise news; and sort, and solve problems of "
        "geometry.",
        criterion=(
            headline(above("unknown words right", 0.9)),
            above("known words right", 0.9),
            ahead("probability to write, known words", "probability to write, unknown words", 0.5),
        ),
        measure=measure,
        came=_came,
        meaning="Weights are themselves a distribution over the source, so that attention can be "
        "the output: the vocabulary is then what stands in the text at hand.",
        minutes=0.6,
        axes=("share", ""),
    ),
)
