"""T5: causal, trainable throughout, the same cached or not, any attention; its bias by hand."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.t5 import T5Config
from attnzoo.models.t5 import T5
from attnzoo.pretrained import convert

B, S, T, V, D = 2, 7, 5, 13, 6
HEADS = MultiHeadConfig(num_heads=2, head_dim=5)
TINY = T5Config(
    attention=HEADS,
    cross_attention=HEADS,
    dim=D,
    hidden=11,
    encoder_layers=2,
    decoder_layers=2,
    buckets=6,
    max_distance=5,
    max_length=9,
)
V1_1 = {"activation": "gelu_tanh", "gated": True, "tied": False, "scaled_head": False}


def make(**changes: Any) -> T5:
    """A small model whose norms are not at their neutral starting values."""
    config = dataclasses.replace(TINY, **changes)
    return drawn(lambda: T5(config, V, rngs=nnx.Rngs(0)), 1, 0.3)


def batch() -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(0)
    source = random.integers(1, V, (B, S))
    source[1, 4:] = 0
    target = random.integers(1, V, (B, T))
    return jnp.asarray(source, jnp.int32), jnp.asarray(target, jnp.int32)


@pytest.mark.parametrize("version", [{}, V1_1], ids=["1.0", "1.1"])
def test_every_parameter_gets_a_gradient(version: dict) -> None:
    model, (source, target) = make(**version), batch()
    graph, state = nnx.split(model)

    @jax.jit
    @jax.grad
    def slopes(state: Any) -> jax.Array:
        return jnp.sum(jnp.sin(nnx.merge(graph, state)(source, target)))

    for path, slope in convert.parameters(nnx.merge(graph, slopes(state))).items():
        assert float(jnp.abs(slope).max()) > 1e-5, path


def test_no_position_hears_of_a_later_one() -> None:
    model, (source, target), t = make(), batch(), 2
    encoded, valid, _ = model.encode(source)

    @jax.jit
    @jax.grad
    def slope(x: jax.Array) -> jax.Array:
        x, _ = model.decoder(x, score_mod=model.decoder_bias, encoded=encoded, encoded_valid=valid)
        return jnp.sum(jnp.sin(x[:, t]))

    heard = np.abs(np.asarray(slope(model.tokens(target)))).max(-1)
    assert (heard[:, t + 1 :] == 0).all()
    assert (heard[:, : t + 1] > 0).all()


@pytest.mark.parametrize("change", [{"scan": True}, {"remat": "full"}, {"remat": "dots"}], ids=str)
def test_scan_and_remat_change_nothing(change: dict) -> None:
    plain, (source, target) = make(), batch()
    config = dataclasses.replace(plain.config, **change)
    other = nnx.eval_shape(lambda: T5(config, V, rngs=nnx.Rngs(0)))
    values = nnx.to_pure_dict(nnx.split(plain)[1])
    for side in ("encoder", "decoder") if "scan" in change else ():
        layers = values[side]["blocks"]
        values[side]["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), layers[0], layers[1])
    other = nnx.merge(nnx.split(other)[0], values)

    def slopes(model: T5) -> tuple[jax.Array, ...]:
        graph, state = nnx.split(model)

        def loss(state: Any) -> jax.Array:
            return jnp.sum(jnp.sin(nnx.merge(graph, state)(source, target)))

        value, found = jax.jit(jax.value_and_grad(loss))(state)
        return value, found["encoder_bias"]["table"][...], found["tokens"]["table"][...]

    for one, two in zip(slopes(plain), slopes(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_a_bias_by_hand() -> None:
    """One head, six buckets: distance 0, -1, further back; then 1, 2 and beyond (METHODS 5.4)."""
    model = make(attention=MultiHeadConfig(num_heads=1, head_dim=5), cross_attention=HEADS)
    assert model.encoder_bias is not None
    assert model.decoder_bias is not None
    row = jnp.arange(6, dtype=jnp.float32)[None]
    model.encoder_bias.table[...] = model.decoder_bias.table[...] = row
    zeros, n = jnp.zeros((1, 1, 3, 3)), jnp.zeros((1, 1, 1, 1), jnp.int32)
    q, k = (jnp.arange(3, dtype=jnp.int32).reshape(shape) for shape in ((1, 1, 3, 1), (1, 1, 1, 3)))
    # Three buckets a side, the first of which is exact; n >= 1 is in a bucket by its logarithm.
    found = model.encoder_bias(zeros, n, n, q, k)[0, 0]
    np.testing.assert_array_equal(found, [[0, 4, 4], [1, 0, 4], [1, 1, 0]])
    # Six for the past: 0, 1, 2 exactly; the future is as the present.
    found = model.decoder_bias(zeros, n, n, q, k)[0, 0]
    np.testing.assert_array_equal(found, [[0, 0, 0], [1, 0, 0], [2, 1, 0]])


def test_first_values_keep_scores_small() -> None:
    """W_q starts at 1/sqrt(D H): scores of normed states are of order 1 without a scale."""
    heads = MultiHeadConfig(num_heads=4, head_dim=32)
    config = dataclasses.replace(TINY, attention=heads, cross_attention=heads, dim=128)
    mechanism = T5(config, V, rngs=nnx.Rngs(0)).encoder.blocks[0].attention.mechanism
    assert mechanism.scale == 1.0
    assert abs(float(mechanism.query.kernel[...].std()) * (128 * 32) ** 0.5 - 1) < 0.05
    assert abs(float(mechanism.key.kernel[...].std()) * 128**0.5 - 1) < 0.05


def test_sizes() -> None:
    """60 and 220 million (section 2.3 and 3.1.2), with the 32,128 rows of the published tables."""
    counts = {}
    for name in ("small", "base", "small_v1_1"):
        config = getattr(T5Config, name)()
        one, two = (
            count(dataclasses.replace(config, encoder_layers=n, decoder_layers=n)) for n in (1, 2)
        )
        counts[name] = one + (config.encoder_layers - 1) * (two - one)
    assert counts == {"small": 60_506_624, "base": 222_903_552, "small_v1_1": 76_961_152}


def count(config: T5Config) -> int:
    model = nnx.eval_shape(lambda: T5(config, 32_128, rngs=nnx.Rngs(0)))
    return sum(leaf.size for leaf in convert.parameters(model).values())
