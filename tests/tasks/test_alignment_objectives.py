"""Objectives of a word aligner without links: masked tokens, and translations among others."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo.config.aligner import WordAlignerConfig
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.models.aligner import WordAligner
from attnzoo.tasks.alignment_objectives import identification_loss, masked_loss
from tests.models.products import computed

SMALL = WordAlignerConfig(
    attention=MultiHeadConfig(num_heads=2), dim=8, hidden=6, layers=1, dropout=0.0, max_length=32
)
BATCH = {
    "source": np.array([[4, 5, 6, 2, 0], [7, 8, 2, 0, 0], [9, 2, 0, 0, 0], [0] * 5], np.int32),
    "target": np.array(
        [[1, 5, 6, 2, 0, 0], [1, 9, 7, 8, 2, 0], [1, 9, 7, 8, 2, 0], [0] * 6], np.int32
    ),
}
SIDES = jnp.asarray(BATCH["source"]), jnp.asarray(BATCH["target"][:, 1:])


def model() -> WordAligner:
    found = WordAligner(SMALL, 11, 13, rngs=nnx.Rngs(0))
    found.add_pair_head(nnx.Rngs(1))
    return found


def rngs() -> nnx.Rngs:
    return nnx.Rngs(dropout=0)


def test_the_loss_is_that_of_all_masked_tokens() -> None:
    real = [ids > 2 for ids in SIDES]

    def both(aligner: WordAligner) -> Any:
        losses = [masked_loss(aligner, BATCH, share, rngs()) for share in (1.0, 0.5, 0.0)]
        return aligner.masked_logits(*SIDES, *real), losses

    logits, ((total, found), (_, some), (nothing, none)) = computed(both, model())
    wanted, count = 0.0, 0
    for scores, ids, known in zip(logits, SIDES, real, strict=True):
        wide = np.asarray(scores, np.float64)
        for b, t in zip(*np.nonzero(known)):
            wanted -= wide[b, t, ids[b, t]] - np.log(np.exp(wide[b, t]).sum())
            count += 1
    assert found == count == 6 + 8
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert nothing == none == 0
    assert 0 < some < count


def test_a_masked_token_is_read_by_nobody() -> None:
    other = SIDES[0].at[0, 1].set(10)
    none = [jnp.zeros(ids.shape, bool) for ids in SIDES]

    def read(aligner: WordAligner, ids: Any, hidden: Any) -> Any:
        masked = none[0].at[0, 1].set(hidden)
        return aligner.masked_logits(ids, SIDES[1], masked, none[1])

    aligner = model()
    for hidden in (True, False):
        first, second = (
            computed(read, aligner, ids, jnp.asarray(hidden)) for ids in (SIDES[0], other)
        )
        same = [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]
        assert same == [hidden, hidden]


def test_translations_are_told_from_those_of_the_next_pair() -> None:
    """The third pair has the second's target, and the fourth is padding: neither is another."""
    source, target = SIDES
    alone = {name: ids[:1] for name, ids in BATCH.items()}

    def parts(aligner: WordAligner) -> Any:
        return {
            "right": aligner.pair_logits(source, target),
            "wrong": aligner.pair_logits(source[:1], target[1:2]),
            "short": aligner.pair_logits(source[1:2, :3], target[1:2, :4]),
            "loss": identification_loss(aligner, BATCH, rngs()),
            "alone": identification_loss(aligner, alone, rngs()),
        }

    found = computed(parts, model())
    right, wrong = (np.asarray(found[name], np.float64) for name in ("right", "wrong"))
    wanted = np.log1p(np.exp(-right[:3])).sum() + np.log1p(np.exp(wrong)).sum()
    total, count = found["loss"]
    assert count == 4
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert found["alone"][1] == 1
    np.testing.assert_allclose(found["short"][0], right[1], rtol=1e-4)  # padding is not read
