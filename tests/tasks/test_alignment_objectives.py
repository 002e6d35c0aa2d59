"""Objectives of a word aligner without links: masked tokens, and translations among others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo.config.aligner import WordAlignerConfig
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.models.aligner import WordAligner
from attnzoo.tasks.alignment_objectives import identification_loss, masked_loss

SMALL = WordAlignerConfig(
    attention=MultiHeadConfig(num_heads=2), dim=8, hidden=6, layers=1, dropout=0.0, max_length=32
)
BATCH = {
    "source": np.array([[4, 5, 6, 2, 0], [7, 8, 2, 0, 0], [9, 2, 0, 0, 0], [0] * 5], np.int32),
    "target": np.array(
        [[1, 5, 6, 2, 0, 0], [1, 9, 7, 8, 2, 0], [1, 9, 7, 8, 2, 0], [0] * 6], np.int32
    ),
}
SIDES = BATCH["source"], BATCH["target"][:, 1:]


def model() -> WordAligner:
    found = WordAligner(SMALL, 11, 13, rngs=nnx.Rngs(0))
    found.add_pair_head(nnx.Rngs(1))
    return found


def rngs() -> nnx.Rngs:
    return nnx.Rngs(dropout=0)


def test_the_loss_is_that_of_all_masked_tokens() -> None:
    aligner, real = model(), [ids > 2 for ids in SIDES]
    logits = aligner.masked_logits(*SIDES, *real)
    wanted, count = 0.0, 0
    for scores, ids, known in zip(logits, SIDES, real, strict=True):
        wide = np.asarray(scores, np.float64)
        for b, t in zip(*np.nonzero(known)):
            wanted -= wide[b, t, ids[b, t]] - np.log(np.exp(wide[b, t]).sum())
            count += 1
    total, found = masked_loss(aligner, BATCH, 1.0, rngs())
    assert found == count == 6 + 8
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert masked_loss(aligner, BATCH, 0.0, rngs()) == (0, 0)
    seen = masked_loss(aligner, BATCH, 0.5, rngs())[1]
    assert 0 < seen < count


def test_a_masked_token_is_read_by_nobody() -> None:
    aligner = model()
    other = SIDES[0].copy()
    other[0, 1] = 10
    masked = np.zeros_like(SIDES[0], bool)
    for hidden in (True, False):
        masked[0, 1] = hidden
        first, second = (
            aligner.masked_logits(ids, SIDES[1], masked, np.zeros_like(SIDES[1], bool))
            for ids in (SIDES[0], other)
        )
        same = [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]
        assert same == [hidden, hidden]


def test_translations_are_told_from_those_of_the_next_pair() -> None:
    """The third pair has the second's target, and the fourth is padding: neither is another."""
    aligner = model()
    source, target = SIDES
    right = np.asarray(aligner.pair_logits(source, target), np.float64)
    wrong = np.asarray(aligner.pair_logits(source[:1], target[1:2]), np.float64)
    wanted = np.log1p(np.exp(-right[:3])).sum() + np.log1p(np.exp(wrong)).sum()
    total, count = identification_loss(aligner, BATCH, rngs())
    assert count == 4
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    alone = {name: ids[:1] for name, ids in BATCH.items()}
    assert identification_loss(aligner, alone, rngs())[1] == 1


def test_padding_of_a_pair_is_not_read() -> None:
    aligner = model()
    wide = aligner.pair_logits(*SIDES)[1]
    short = aligner.pair_logits(SIDES[0][1:2, :3], SIDES[1][1:2, :4])[0]
    np.testing.assert_allclose(wide, short, rtol=1e-4)


def test_both_objectives_are_learned() -> None:
    import optax

    aligner: Any = model()
    optimizer = nnx.Optimizer(aligner, optax.adam(3e-2), wrt=nnx.Param)
    batch = {name: ids[:2] for name, ids in BATCH.items()}

    def loss(aligner: Any, key: jax.Array) -> jax.Array:
        masked, count = masked_loss(aligner, batch, 0.3, nnx.Rngs(dropout=key))
        told, pairs = identification_loss(aligner, batch, nnx.Rngs(dropout=key))
        return masked / jnp.maximum(count, 1) + told / pairs

    @nnx.jit
    def step(aligner: Any, optimizer: Any, key: jax.Array) -> None:
        optimizer.update(aligner, nnx.grad(loss)(aligner, key))

    before = loss(aligner, jax.random.key(1))
    for number in range(40):
        step(aligner, optimizer, jax.random.key(number))
    assert loss(aligner, jax.random.key(1)) < 0.3 * before
