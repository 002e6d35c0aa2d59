"""Set Transformer blocks and the Perceiver's reader: loops, symmetry, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention.set import ISAB, MAB, PMA, LatentReader

B, S, D, N = 2, 5, 6, 2


def random(*shape: int, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def of(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def norm(part, row):
    return (row - row.mean()) / np.sqrt(row.var() + 1e-6) * of(part.scale) + of(part.bias)


def read(part, x, y):
    """Multi-head attention of one query row x over the rows of y."""
    heads, H = [], D // N
    q, k, v = x @ of(part.query.kernel), y @ of(part.key.kernel), y @ of(part.value.kernel)
    for n in range(0, D, H):
        weights = np.exp(k[:, n : n + H] @ q[n : n + H] / np.sqrt(H))
        heads.append(weights / weights.sum() @ v[:, n : n + H])
    return np.concatenate(heads) @ of(part.out.kernel)


def mab(part, xs, y):
    rows = []
    for x in xs:
        h = norm(part.attention_norm, x + read(part.attention, x, y))
        hidden = np.maximum(h @ of(part.hidden.kernel) + of(part.hidden.bias), 0)
        rows.append(norm(part.out_norm, h + hidden @ of(part.out.kernel) + of(part.out.bias)))
    return np.array(rows)


def shifted(module):
    """Move biases and norms away from 0 and 1."""
    state = nnx.state(module, nnx.Param)
    moved = jax.tree.map(
        lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), state
    )
    nnx.update(module, moved)
    return module


VALID = np.array([[True] * 5, [True, True, True, False, False]])
MASK = jnp.asarray(VALID)[:, None, None, :]


@pytest.mark.usefixtures("x64")
def test_mab_agrees_with_loops():
    block = shifted(MAB(D, N, ff_dim=7, rngs=nnx.Rngs(0)))
    x, y = random(B, 3, D, dtype=jnp.float64), random(B, S, D, seed=1, dtype=jnp.float64)
    out, weights = nnx.jit(lambda m, x: m(x, y, mask=MASK, return_weights=True))(block, x)
    for b in range(B):
        wanted = mab(block, np.asarray(x)[b], np.asarray(y)[b][VALID[b]])
        np.testing.assert_allclose(out[b], wanted, atol=1e-10)
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1)


@pytest.mark.usefixtures("x64")
def test_isab_pma_and_reader_agree_with_loops():
    isab = shifted(ISAB(D, N, 3, rngs=nnx.Rngs(0)))
    pma = shifted(PMA(D, N, 2, rngs=nnx.Rngs(1)))
    reader = shifted(LatentReader(D, N, 3, input_dim=D, rngs=nnx.Rngs(2)))
    x = random(B, S, D, dtype=jnp.float64)

    @nnx.jit
    def run(isab, pma, reader, x):
        return isab(x, mask=MASK), pma(x, mask=MASK), reader(x, mask=MASK)

    spread, pooled, latents = run(isab, pma, reader, x)
    for b in range(B):
        real = np.asarray(x)[b][VALID[b]]
        gathered = mab(isab.gather, of(isab.points), real)
        wanted = mab(isab.spread, np.asarray(x)[b], gathered)
        np.testing.assert_allclose(spread[b], wanted, atol=1e-10)

        hidden = np.maximum(real @ of(pma.hidden.kernel) + of(pma.hidden.bias), 0)
        rows = hidden @ of(pma.out.kernel) + of(pma.out.bias)
        np.testing.assert_allclose(pooled[b], mab(pma.pool, of(pma.seeds), rows), atol=1e-10)

        keys = np.array([norm(reader.input_norm, row) for row in real])
        for got, z in zip(latents[b], of(reader.latents)):
            z = z + read(reader.attention, norm(reader.latent_norm, z), keys)
            h = norm(reader.hidden_norm, z) @ of(reader.hidden.kernel) + of(reader.hidden.bias)
            gelu = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
            wanted = z + gelu @ of(reader.out.kernel) + of(reader.out.bias)
            np.testing.assert_allclose(got, wanted, atol=1e-10)


def test_isab_is_equivariant_and_pma_invariant():
    isab, pma = ISAB(D, N, 3, rngs=nnx.Rngs(0)), PMA(D, N, 2, rngs=nnx.Rngs(1))
    x, order = random(B, S, D), jnp.asarray([3, 0, 4, 2, 1])
    run = nnx.jit(lambda isab, pma, x: (isab(x), pma(x)))
    (spread, pooled), (moved, same) = run(isab, pma, x), run(isab, pma, x[:, order])
    np.testing.assert_allclose(moved, spread[:, order], atol=1e-5)
    np.testing.assert_allclose(same, pooled, atol=1e-5)
    assert np.abs(moved - spread).max() > 0.1


def test_weights_have_the_shapes_of_their_steps():
    x = random(B, S, D)
    _, (into, back) = ISAB(D, N, 3, rngs=nnx.Rngs(0))(x, mask=MASK, return_weights=True)
    assert (into.shape, back.shape) == ((B, N, 3, S), (B, N, S, 3))
    _, pooled = PMA(D, N, 2, rngs=nnx.Rngs(0))(x, mask=MASK, return_weights=True)
    assert pooled.shape == (B, N, 2, S)
    assert np.all(np.asarray(into)[1, :, :, 3:] == 0)
    assert np.all(np.asarray(pooled)[1, :, :, 3:] == 0)


def test_nan_in_padding_reaches_neither_pool_nor_gradient():
    pma = PMA(D, N, rngs=nnx.Rngs(0))
    x = random(B, S, D)
    run = jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.sin(pma(x, mask=MASK)))))
    value, gradient = run(jnp.where(jnp.asarray(VALID)[:, :, None], x, jnp.nan))
    assert value == run(x)[0]
    assert np.isfinite(gradient).all()


def test_a_reader_continues_from_given_latents():
    reader = LatentReader(D, N, 3, input_dim=4, rngs=nnx.Rngs(0))
    x = random(B, S, 4)
    first = reader(x)
    assert np.abs(reader(x, latents=first) - first).max() > 0.01
    learned = jnp.broadcast_to(reader.latents[...], (B, 3, D))
    np.testing.assert_array_equal(reader(x, latents=learned), first)


def test_no_seeds_is_an_error():
    with pytest.raises(ValueError, match="at least one learned vector, got 0"):
        PMA(D, N, 0, rngs=nnx.Rngs(0))
