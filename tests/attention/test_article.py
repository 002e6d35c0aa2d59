"""The encyclopedia's article "Attention (machine learning)": its variants and its equations.

On its own sentences: "I love you" to "je t' aime" where a decoder reads an encoder, "See that girl
run" where an encoder reads itself. Each is computed by the library, and by the formula in float64.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import (
    AdditiveAttention,
    LocationAttention,
    MultiHeadAttention,
    MultiplicativeAttention,
)
from attnzoo.ops import dot_product_attention, masks

pytestmark = pytest.mark.usefixtures("x64")

D = 12
WORDS = "I love you je t' aime See that girl run".split()
RNG = np.random.default_rng(0)
VECTORS = dict(zip(WORDS, RNG.normal(size=(len(WORDS), D))))
# Rows je, t', aime; columns I, love, you: the article's weights.
WEIGHTS = np.array([[0.94, 0.02, 0.04], [0.11, 0.01, 0.88], [0.03, 0.95, 0.02]])


def sentence(text: str) -> np.ndarray:
    return np.stack([VECTORS[word] for word in text.split()])


ENCODER, GIRL = sentence("I love you"), sentence("See that girl run")
# Decoder states whose products with the encoder's states are the logarithms of the weights.
DECODER = np.log(WEIGHTS) @ np.linalg.pinv(ENCODER).T


def softmax(x: np.ndarray) -> np.ndarray:
    exp = np.exp(x - x.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def of(parameter: Any) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def wide(module: Any) -> Any:
    """The module with parameters drawn in float64: nothing at 0."""
    random = np.random.default_rng(1)
    draw = lambda x: jnp.asarray(0.5 * random.normal(size=x.shape), jnp.float64)  # noqa: E731
    nnx.update(module, jax.tree.map(draw, nnx.state(module, nnx.Param)))
    return module


def read(module: Any, query: np.ndarray, keys: np.ndarray, **more: Any) -> tuple[Any, Any]:
    """The context and the weights of one head, without the batch."""
    context, weights = module(
        jnp.asarray(query[None]), jnp.asarray(keys[None]), return_weights=True, **more
    )
    return np.asarray(context[0]), np.asarray(weights[0])


def qkv(module: Any, query: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """softmax(X W_q (Y W_k)^T / sqrt(H)) Y W_v in every head, joined, and times W_o."""
    H = D // module.num_heads
    weights, contexts = [], []
    for n in range(module.num_heads):
        own = slice(n * H, (n + 1) * H)
        q, k, v = (
            x @ of(layer.kernel)[:, own]
            for x, layer in ((query, module.query), (keys, module.key), (keys, module.value))
        )
        weights.append(softmax(q @ k.T / np.sqrt(H)))
        contexts.append(weights[-1] @ v)
    return np.concatenate(contexts, -1) @ of(module.out.kernel), np.stack(weights)


def dot(query: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = softmax(query @ keys.T)
    return weights @ keys, weights[None]


def encoder_decoder_dot() -> tuple[Any, Any]:
    module = MultiplicativeAttention(D, D, "dot", rngs=nnx.Rngs(0))
    return read(module, DECODER, ENCODER), (WEIGHTS @ ENCODER, WEIGHTS[None])


def encoder_decoder_qkv() -> tuple[Any, Any]:
    module = wide(MultiHeadAttention(D, 1, rngs=nnx.Rngs(0)))
    return read(module, DECODER, ENCODER), qkv(module, DECODER, ENCODER)


def encoder_only_dot() -> tuple[Any, Any]:
    module = MultiplicativeAttention(D, D, "dot", rngs=nnx.Rngs(0))
    return read(module, GIRL, GIRL), dot(GIRL, GIRL)


def encoder_only_qkv() -> tuple[Any, Any]:
    module = wide(MultiHeadAttention(D, 1, rngs=nnx.Rngs(0)))
    return read(module, GIRL, GIRL), qkv(module, GIRL, GIRL)


def fully_connected() -> tuple[Any, Any]:
    """The tutorial of PyTorch: a linear layer of [embedding ; state] has a logit per position."""
    asks = np.concatenate([sentence("je t' aime"), DECODER], -1)
    module = wide(LocationAttention(2 * D, 5, rngs=nnx.Rngs(0)))
    weights = softmax((asks @ of(module.kernel))[:, :3])
    return read(module, asks, ENCODER), (weights @ ENCODER, weights[None])


def scaled_dot_product() -> tuple[Any, Any]:
    q, k, v = (jnp.asarray(x[None, :, None]) for x in (GIRL[:2], GIRL, GIRL))
    out, weights = dot_product_attention(q, k, v, return_weights=True)
    wanted = softmax(GIRL[:2] @ GIRL.T / np.sqrt(D))
    return (out[0, :, 0], weights[0]), (wanted @ GIRL, wanted[None])


def masked() -> tuple[Any, Any]:
    """softmax(Q K^T / sqrt(d) + M) V with M = -inf above the diagonal."""
    x = jnp.asarray(GIRL[None, :, None])
    out, weights = dot_product_attention(x, x, x, masks.causal(), return_weights=True)
    M = np.triu(np.full((4, 4), -np.inf), 1)
    wanted = softmax(GIRL @ GIRL.T / np.sqrt(D) + M)
    assert (np.triu(wanted, 1) == 0).all()
    return (out[0, :, 0], weights[0]), (wanted @ GIRL, wanted[None])


def multi_head() -> tuple[Any, Any]:
    module = wide(MultiHeadAttention(D, 3, rngs=nnx.Rngs(0)))
    return read(module, GIRL, GIRL), qkv(module, GIRL, GIRL)


def bahdanau() -> tuple[Any, Any]:
    """softmax(tanh(W_Q Q + W_K K)) V; the article leaves out v, without which it has no scores."""
    module = wide(AdditiveAttention(D, D, 7, rngs=nnx.Rngs(0)))
    q, k = DECODER @ of(module.query_kernel), ENCODER @ of(module.key_kernel)
    weights = softmax(np.tanh(q[:, None] + k[None]) @ of(module.score_kernel))
    return read(module, DECODER, ENCODER), (weights @ ENCODER, weights[None])


def luong_general() -> tuple[Any, Any]:
    module = wide(MultiplicativeAttention(D, D, "general", rngs=nnx.Rngs(0)))
    weights = softmax(DECODER @ of(module.kernel) @ ENCODER.T)
    return read(module, DECODER, ENCODER), (weights @ ENCODER, weights[None])


VARIANTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    function.__name__: function
    for function in (
        encoder_decoder_dot,
        encoder_decoder_qkv,
        encoder_only_dot,
        encoder_only_qkv,
        fully_connected,
        scaled_dot_product,
        masked,
        multi_head,
        bahdanau,
        luong_general,
    )
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_or_equation_of_the_article(name: str) -> None:
    (context, weights), (wanted, wanted_weights) = VARIANTS[name]()
    np.testing.assert_allclose(weights, wanted_weights, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(context, wanted, rtol=1e-10, atol=1e-12)


def test_permutations() -> None:
    """Att(A Q, B K, B V) = A Att(Q, K, V), f(A X) = A f(X), and not so under a causal mask."""
    A, B = np.eye(4)[[2, 0, 3, 1]], np.eye(4)[[1, 3, 0, 2]]
    queries = RNG.normal(size=(4, D))

    def attend(q: np.ndarray, k: np.ndarray, mask: Any = None) -> np.ndarray:
        q, k = (jnp.asarray(x[None, :, None]) for x in (q, k))
        return np.asarray(dot_product_attention(q, k, k, mask)[0, :, 0])

    moved = attend(A @ queries, B @ GIRL)
    np.testing.assert_allclose(moved, A @ attend(queries, GIRL), rtol=1e-10)
    module = wide(MultiHeadAttention(D, 3, rngs=nnx.Rngs(0)))
    rows = read(module, GIRL, GIRL)[0]
    np.testing.assert_allclose(read(module, A @ GIRL, A @ GIRL)[0], A @ rows, rtol=1e-10)
    causal = attend(GIRL, GIRL, masks.causal())
    assert np.abs(attend(A @ GIRL, A @ GIRL, masks.causal()) - A @ causal).max() > 0.1
    # Row i of the masked output does not depend on row j > i.
    other = np.concatenate([GIRL[:3], RNG.normal(size=(1, D))])
    np.testing.assert_array_equal(attend(other, other, masks.causal())[:3], causal[:3])
