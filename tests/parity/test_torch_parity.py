"""Our attention beside PyTorch's, with the same numbers in: float32, agreement to 1e-5."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tolerances import assert_close

from attnzoo import ops
from attnzoo.attention import MultiHeadAttention

torch = pytest.importorskip("torch")

B, T, S, N, K, H, D = 2, 5, 7, 6, 3, 4, 24


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def heads_second(x: np.ndarray):
    """``B T N H`` as PyTorch wants it, ``B N T H``."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, 1, 2)))


def some_keys() -> np.ndarray:
    mask = np.random.default_rng(7).random((B, N, T, S)) < 0.6
    mask[..., 0] = True  # a row without a key is NaN there and 0 here
    return mask


@pytest.mark.parametrize("settings", ["mask", "bias", "causal", "scale"])
def test_grouped_query_attention(settings: str) -> None:
    length = T if settings == "causal" else S  # they align a causal mask of T != S otherwise
    q = draw(B, T, N, H)
    k, v = draw(B, length, K, H, seed=1), draw(B, length, K, H, seed=2)
    ours, theirs = {
        "mask": ({"mask": jnp.asarray(some_keys())}, {"attn_mask": torch.tensor(some_keys())}),
        "bias": (
            {"bias": jnp.asarray(draw(B, N, T, S, seed=3))},
            {"attn_mask": torch.tensor(draw(B, N, T, S, seed=3))},
        ),
        "causal": ({"is_causal": True}, {"is_causal": True}),
        "scale": ({"scale": 0.7}, {"scale": 0.7}),
    }[settings]
    found = ops.dot_product_attention(*map(jnp.asarray, (q, k, v)), **ours)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *map(heads_second, (q, k, v)), enable_gqa=True, **theirs
    )
    np.testing.assert_allclose(found, np.moveaxis(wanted.numpy(), 1, 2), atol=1e-5)


def test_gradients_of_grouped_query_attention() -> None:
    import jax

    arrays = draw(B, T, N, H), draw(B, S, K, H, seed=1), draw(B, S, K, H, seed=2)
    cotangent = draw(B, T, N, H, seed=3)

    def loss(q, k, v):
        return jnp.sum(ops.dot_product_attention(q, k, v) * cotangent)

    found = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*map(jnp.asarray, arrays))
    tensors = [heads_second(x).requires_grad_() for x in arrays]
    out = torch.nn.functional.scaled_dot_product_attention(*tensors, enable_gqa=True)
    (out * heads_second(cotangent)).sum().backward()
    for one, tensor in zip(found, tensors):
        assert_close(one, np.moveaxis(tensor.grad.numpy(), 1, 2), 1e-5)


def test_multi_head_attention_with_copied_weights() -> None:
    """Three inputs of three widths, biases, a mask of padding; context and weights of each head."""
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(D, N, kdim=11, vdim=13, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    torch.nn.init.normal_(theirs.out_proj.bias)
    ours = MultiHeadAttention(D, N, key_dim=11, value_dim=13, use_bias=True, rngs=nnx.Rngs(0))
    biases = theirs.in_proj_bias.detach().numpy().reshape(3, D)
    for name, bias in zip(("query", "key", "value"), biases):
        weight = getattr(theirs, f"{name[0]}_proj_weight").detach().numpy()
        getattr(ours, name).kernel[...] = jnp.asarray(weight.T)
        getattr(ours, name).bias[...] = jnp.asarray(bias)
    ours.out.kernel[...] = jnp.asarray(theirs.out_proj.weight.detach().numpy().T)
    ours.out.bias[...] = jnp.asarray(theirs.out_proj.bias.detach().numpy())

    query, keys, values = draw(B, T, D), draw(B, S, 11, seed=1), draw(B, S, 13, seed=2)
    valid = np.arange(S) < np.array([S, 4])[:, None]
    with torch.no_grad():
        wanted, wanted_weights = theirs(
            *map(torch.from_numpy, (query, keys, values)),
            key_padding_mask=torch.from_numpy(~valid),  # theirs is True where nobody may look
            average_attn_weights=False,
        )
    found, weights = ours(
        *map(jnp.asarray, (query, keys, values)),
        mask=jnp.asarray(valid)[:, None, None, :],
        return_weights=True,
    )
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(weights, wanted_weights.numpy(), atol=1e-5)
