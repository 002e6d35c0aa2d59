"""AttnLRP: what is shared out comes in whole, and small cases by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import LayerNorm, RMSNorm
from attnzoo.config.bert import BertConfig
from attnzoo.config.gpt2 import GPT2Config
from attnzoo.config.loader import load
from attnzoo.explain import attn_lrp
from attnzoo.explain.attn_lrp import _exchange, _HeldNorm
from attnzoo.models.bert import Bert
from attnzoo.models.gpt2 import GPT2
from tests.explain.test_capture import IMAGES, vit

CLASSES = jnp.asarray([2, 0])


def without_biases(model: nnx.Module, *kernels: str) -> nnx.Module:
    """The model with biases, and kernels of these names, of 0: no rule keeps a share for itself."""
    copy = nnx.clone(model)
    for path, parameter in nnx.to_flat_state(nnx.state(copy, nnx.Param)):
        if "bias" in path or any(name in path for name in kernels):
            zeros = nnx.Param(jnp.zeros_like(parameter[...]))
            nnx.update(copy, nnx.from_flat_state([(path, zeros)]))
    return copy


def test_without_biases_and_attention_all_of_the_logit_comes_in() -> None:
    model = without_biases(vit(), "out")
    scores = attn_lrp(model, CLASSES, IMAGES)
    logits = jnp.take_along_axis(model(IMAGES), CLASSES[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(scores.sum(axis=1), logits, rtol=1e-4)
    # Nobody reads the patches.
    np.testing.assert_allclose(scores[:, 1:], np.zeros((2, 4)), atol=1e-6)
    # With their biases some of it stays there.
    kept = attn_lrp(vit(), CLASSES, IMAGES).sum(axis=1)
    assert (jnp.abs(kept - logits) > 0.01).all()


class Reader(nnx.Module):
    """The first token reads all by one attention, without residual; its state is the logits."""

    def __init__(self, query: float):
        rngs = nnx.Rngs(0)
        self.attention = MultiHeadAttention(2, 1, rngs=rngs)
        eye = jnp.eye(2)
        for layer, kernel in (("query", query * eye), ("key", eye), ("value", eye), ("out", eye)):
            getattr(self.attention, layer).kernel[...] = kernel

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.attention(x[:, :1], x)[:, 0]


def test_attention_by_hand() -> None:
    x = jnp.asarray([[[1.0, 2.0], [0.0, 0.5], [-1.0, 1.0]]])

    def relevance(model: nnx.Module) -> np.ndarray:
        copy = nnx.clone(model)
        _exchange(copy)
        return np.asarray((x * jax.grad(lambda x: copy(x)[0, 1])(x)).sum(-1)[0])

    # Even weights of a third: each value has a half of its third, the softmax keeps the other.
    np.testing.assert_allclose(relevance(Reader(0.0)), np.asarray([2, 0.5, 1]) / 3 / 2, rtol=1e-5)
    # With scores s = q k / sqrt(2): the weights' half is R_A = a v / 2; of a score's
    # s (R_A - a sum R_A) half goes to the query and half to its key.
    scores = np.asarray(x[0] @ x[0, 0]) / np.sqrt(2)
    a = np.exp(scores) / np.exp(scores).sum()
    R_A = a * np.asarray(x[0, :, 1]) / 2
    R_s = scores * (R_A - a * R_A.sum())
    want = R_A + R_s / 2
    want[0] += R_s.sum() / 2
    np.testing.assert_allclose(relevance(Reader(1.0)), want, rtol=1e-4)


class Norms(nnx.Module):
    def __init__(self, kind: type):
        self.norm = kind(3, rngs=nnx.Rngs(0))
        self.norm.scale[...] = jnp.asarray([1.0, 2.0, -1.0])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(x)


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_a_norms_deviation_is_a_constant(kind: type) -> None:
    model = Norms(kind)
    x = jnp.asarray([[1.0, 4.0, 0.5]])
    want = model(x)
    model.norm = _HeldNorm(model.norm)
    np.testing.assert_allclose(model(x), want, rtol=1e-6)
    shared = x * jax.grad(lambda x: model(x)[0, 1])(x)
    # 2 (4 - mean) / deviation: the mean takes its share of each.
    v = np.asarray(x[0])
    centre, whole = (v.mean(), 1 / 3) if kind is LayerNorm else (0, 0)
    deviation = np.sqrt(np.mean((v - centre) ** 2))
    part = 2 * v * (np.eye(3)[1] - whole) / deviation
    np.testing.assert_allclose(shared[0], part, rtol=1e-4)
    np.testing.assert_allclose(shared.sum(), want[0, 1], rtol=1e-4)


def test_texts() -> None:
    sizes = ["dim=6", "hidden=5", "layers=2", "attention.num_heads=2", "max_length=7"]
    tokens = jnp.asarray([[1, 4, 2, 3, 5]])
    gpt = GPT2(load(GPT2Config, None, sizes), 11, rngs=nnx.Rngs(0))
    scores = attn_lrp(gpt, lambda logits: logits[:, 2, 4], tokens)
    assert (scores[:, :3] != 0).all()
    np.testing.assert_allclose(scores[:, 3:], [[0, 0]])  # what comes later has no part
    bert = Bert(load(BertConfig, None, [*sizes, "head=sequence"]), 11, rngs=nnx.Rngs(0))
    quiet = without_biases(bert, "out", "segments")
    logits = quiet(tokens)
    got = attn_lrp(quiet, 1, tokens).sum(axis=1)
    # A post-norm block, and the pooler's tanh.
    np.testing.assert_allclose(got, logits[:, 1], rtol=1e-3)
    with pytest.raises(NotImplementedError, match=r"transform of Bert has no rule"):
        attn_lrp(Bert(load(BertConfig, None, sizes), 11, rngs=nnx.Rngs(0)), 1, tokens)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="stack='decoder'; ViT has encoder"):
        attn_lrp(vit(), 0, IMAGES, stack="decoder")
    with pytest.raises(NotImplementedError, match="LinearAttention"):
        attn_lrp(vit("attention.kind=linear"), 0, IMAGES)
