"""Multi-head latent attention: loops, golden values, and the absorbed form against the expanded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention.contract import Memory
from attnzoo.attention.latent import LatentAttention, LatentCache
from attnzoo.ops import masks, rotary_embedding

B, T, D, N = 2, 4, 7, 3


def module(**settings) -> LatentAttention:
    sizes = {"latent_dim": 5, "rotary_dim": 2, "head_dim": 3, "value_dim": 4}
    made = LatentAttention(D, N, **sizes | settings, rngs=nnx.Rngs(0))
    made.norm.scale[...] = jnp.linspace(0.5, 1.5, 5, dtype=jnp.float32)
    return made


def random(*shape: int, seed: int = 0, dtype=jnp.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def of(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def oracle(attention: LatentAttention, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations 9 to 19 with a causal mask, one head and one pair of positions at a time."""

    def norm(part, x):
        return x / np.sqrt((x * x).mean() + 1e-6) * of(part.scale)

    def turn(pair, angle):  # rotary_dim = 2: one pair at frequency 1
        c, s = np.cos(angle), np.sin(angle)
        return np.array([c * pair[0] - s * pair[1], s * pair[0] + c * pair[1]])

    out, weights = np.zeros((B, T, N, 4)), np.zeros((B, N, T, T))
    for b, n, t in np.ndindex(B, N, T):
        hidden = x[b, t]
        if attention.query_down is not None:
            hidden = norm(attention.query_norm, hidden @ of(attention.query_down.kernel))
        q = (hidden @ of(attention.query.kernel))[5 * n : 5 * n + 5]
        q = np.concatenate([q[:3], turn(q[3:], t)])
        values = []
        for s in range(t + 1):
            down = x[b, s] @ of(attention.down.kernel)
            c, k_turned = norm(attention.norm, down[:5]), turn(down[5:], s)
            k = np.concatenate([of(attention.key_up)[n] @ c, k_turned])
            values.append(of(attention.value_up)[n] @ c)
            weights[b, n, t, s] = np.exp(q @ k / np.sqrt(5))
        weights[b, n, t] /= weights[b, n, t].sum()
        out[b, t, n] = weights[b, n, t, : t + 1] @ np.array(values)
    return out.reshape(B, T, -1) @ of(attention.out.kernel), weights


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("query_rank", [None, 6])
def test_both_forms_agree_with_loops(query_rank):
    attention = module(query_rank=query_rank, mask_mod=masks.causal())
    x = random(B, T, D)
    wanted, wanted_weights = oracle(attention, np.asarray(x))
    for absorbed in (False, True):
        run = nnx.jit(
            lambda m, x, absorbed=absorbed: m.attend(
                x, m.prepare(x), return_weights=True, absorbed=absorbed
            )
        )
        out, weights = run(attention, x)
        np.testing.assert_allclose(out, wanted, atol=1e-10)
        np.testing.assert_allclose(weights, wanted_weights, atol=1e-10)


def fill(shape: tuple[int, ...], a: float, b: float) -> np.ndarray:
    return np.sin(a * np.arange(np.prod(shape)) + b).reshape(shape)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("absorbed", [False, True])
def test_golden_values(absorbed):
    """METHODS §15, MLA causal: identity around the given c, q and k^R."""
    attention = LatentAttention(
        12,
        2,
        latent_dim=3,
        rotary_dim=2,
        head_dim=4,
        out_dim=8,
        mask_mod=masks.causal(),
        rngs=nnx.Rngs(0),
    )
    attention.query.kernel[...] = jnp.eye(12, dtype=jnp.float32)
    attention.out.kernel[...] = jnp.eye(8, dtype=jnp.float32)
    attention.key_up = nnx.Param(jnp.asarray(fill((2, 4, 3), 0.27, 0.1)))
    attention.value_up = nnx.Param(jnp.asarray(fill((2, 4, 3), 0.35, 0.6)))
    q = np.concatenate([fill((2, 6, 4), 0.21, 0.5), fill((2, 6, 2), 0.4, 0.4)], axis=-1)
    query = jnp.asarray(q.swapaxes(0, 1).reshape(1, 6, 12))
    k_turned = rotary_embedding(
        jnp.asarray(fill((1, 6, 1, 2), 0.45, 0.3)), jnp.arange(6, dtype=jnp.int32)[None]
    )
    c = jnp.asarray(fill((1, 6, 3), 0.3, 0.2))
    latents = jnp.concatenate([c, k_turned[:, :, 0]], axis=-1)
    memory = Memory(latents, latents[..., :0], None)
    out = np.asarray(attention.attend(query, memory, absorbed=absorbed))
    out = out.reshape(6, 2, 4).swapaxes(0, 1).ravel()
    np.testing.assert_allclose(out[:4], [1.193364, 1.144367, -0.054556, -1.198658], atol=1e-6)
    assert out.sum() == pytest.approx(8.679594, abs=1e-6)
    assert out @ np.cos(0.11 * np.arange(48)) == pytest.approx(4.546619, abs=1e-6)


def test_decoding_step_by_step_is_teacher_forcing():
    attention = module(query_rank=6, mask_mod=masks.causal())
    x = random(B, T, D, dtype=jnp.float32)
    wanted, wanted_weights = nnx.jit(lambda m, x: m(x, x, return_weights=True))(attention, x)
    step = nnx.jit(lambda m, x, cache: m.decode(x, cache, return_weights=True))
    cache = attention.empty_cache(B, T + 1)
    # d_c + d_r numbers a position, whatever the number of heads
    assert cache.latents.shape == (B, T + 1, 7)
    for t in range(T):
        (out, weights), cache = step(attention, x[:, t : t + 1], cache)
        np.testing.assert_allclose(out[:, 0], wanted[:, t], atol=1e-5)
        np.testing.assert_allclose(weights[:, :, 0, :T], wanted_weights[:, :, t], atol=1e-5)
    full = LatentCache(cache.latents, jnp.asarray([T, T + 1], jnp.int32))
    (out, _), _ = step(attention, x[:, :1], full)
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()


def test_both_forms_have_the_same_gradients():
    attention = module(mask_mod=masks.causal())
    x = random(B, T, D, dtype=jnp.float32)

    def loss(attention, absorbed):
        out = attention.attend(x, attention.prepare(x), absorbed=absorbed)
        return jnp.sum(jnp.sin(out))

    expanded = nnx.jit(nnx.grad(lambda m: loss(m, False)))(attention)
    absorbed = nnx.jit(nnx.grad(lambda m: loss(m, True)))(attention)
    for one, other in zip(jax.tree.leaves(expanded), jax.tree.leaves(absorbed), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
        assert np.abs(one).max() > 0


@pytest.mark.parametrize("absorbed", [False, True])
def test_nan_in_padding_and_empty_rows(absorbed):
    attention = module()
    query, keys = random(2, 3, D, dtype=jnp.float32), random(2, 4, D, seed=1, dtype=jnp.float32)
    valid = jnp.asarray([[True, True, False, False], [False] * 4])

    def loss(keys):
        memory = attention.prepare(keys, mask=valid[:, None, None, :])
        out = attention.attend(query, memory, absorbed=absorbed)
        return jnp.sum(out**2), out

    slope = jax.jit(jax.grad(loss, has_aux=True))
    gradient, out = slope(jnp.where(valid[:, :, None], keys, jnp.nan))
    np.testing.assert_array_equal(out, slope(keys)[1])
    np.testing.assert_array_equal(out[1], 0)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~valid], 0)


@pytest.mark.parametrize("absorbed", [False, True])
def test_values_of_their_own_are_compressed_alike(absorbed):
    attention = module()
    x, y = random(B, T, D, dtype=jnp.float32), random(B, T, D, seed=2, dtype=jnp.float32)
    read = nnx.jit(lambda m, x, *values: m.attend(x, m.prepare(x, *values), absorbed=absorbed))
    same = read(attention, x, x)
    np.testing.assert_allclose(same, read(attention, x), atol=1e-6)
    other = read(attention, x, y)
    assert np.abs(other - same).max() > 0.01


def test_bfloat16_in_and_out():
    attention = module(query_rank=6)
    x = random(B, T, D, dtype=jnp.float32)
    out, weights = attention(x.astype(jnp.bfloat16), x.astype(jnp.bfloat16), return_weights=True)
    assert (out.dtype, weights.dtype) == (jnp.bfloat16, jnp.float32)
    assert np.abs(out.astype(jnp.float32) - attention(x, x)).max() < 0.1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="rotary_dim=3; wanted an even number"):
        module(rotary_dim=3)
    x = jnp.ones((B, T, D))
    with pytest.raises(ValueError, match="query has 4 positions, but the cache has room for 3"):
        module().decode(x, module().empty_cache(B, 3))
    with pytest.raises(ValueError, match="key_dim=5, but self-attention needs dim=7"):
        module(key_dim=5).decode(x, module(key_dim=5).empty_cache(B, 8))
