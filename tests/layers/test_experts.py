"""Mixture of experts against loops in float64; its router's loss; on a mesh, each its experts."""

import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.llama import ExpertsConfig, LlamaConfig
from attnzoo.layers.experts import Experts, balance_loss
from attnzoo.models import Llama
from attnzoo.ops.sharded import sharded
from attnzoo.training.inference_weights import with_weights

D, F = 6, 5


def drawn(*arguments: Any) -> Any:
    """The model of a function with its parameters drawn."""
    import random_parameters  # not found by the program that sees eight devices

    return random_parameters.drawn(*arguments)


def made(count: int, chosen: int, weight: float = 0.0) -> Experts:
    make = functools.partial(Experts, D, F, count=count, chosen=chosen, balance_weight=weight)
    return drawn(lambda: make(rngs=nnx.Rngs(0)), 0, 0.7)


def in_loops(layer: Experts, x: np.ndarray) -> np.ndarray:
    wide = lambda one: np.asarray(one[...], np.float64)  # noqa: E731
    gate, up, down = map(wide, (layer.gate, layer.up, layer.down))
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape[:2]):
        logits = x[place] @ wide(layer.router.kernel)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares)[: layer.chosen]
        for e in best:
            z = x[place] @ gate[e]
            hidden = z / (1 + np.exp(-z)) * (x[place] @ up[e])
            out[place] += shares[e] / shares[best].sum() * (hidden @ down[e])
    return out


@pytest.mark.parametrize(("count", "chosen"), [(4, 2), (3, 3), (5, 1), (1, 1)])
def test_experts_are_those_of_loops(count: int, chosen: int) -> None:
    layer = made(count, chosen)
    x = np.random.default_rng(1).normal(size=(2, 7, D))
    np.testing.assert_allclose(layer(jnp.float32(x)), in_loops(layer, x), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_experts_in_fewer_bits_are_near(weights: str) -> None:
    layer = made(4, 4)  # whoever is chosen would change the answer by a jump
    x = jax.random.normal(jax.random.key(1), (2, 7, D))
    wanted, less = layer(x), with_weights(layer, weights)
    found = less(x.astype(jnp.bfloat16) if weights == "bfloat16" else x)
    assert found.dtype == (jnp.bfloat16 if weights == "bfloat16" else jnp.float32)
    difference = np.abs(np.asarray(found, np.float32) - wanted).max()
    assert 0 < difference < 0.05 * np.abs(wanted).max()


def test_the_loss_of_the_router_is_in_gradients_of_training_alone() -> None:
    layer, x = made(4, 2, 0.5), jax.random.normal(jax.random.key(3), (2, 5, D))
    graph, state = nnx.split(layer)

    def total(state: nnx.State, weight: float, key: jax.Array | None) -> jax.Array:
        one = nnx.merge(graph, state)
        found = jnp.sum(one(x, key=key) ** 2)
        if not weight:
            return found
        logits = one.router(x)
        _, experts = jax.lax.top_k(logits, 2)
        return found + weight * balance_loss(logits, experts)

    key = jax.random.key(0)
    grad = jax.jit(jax.grad(total), static_argnums=1)
    trained, wanted, plain = grad(state, 0.0, key), grad(state, 0.5, None), grad(state, 0.0, None)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(same, trained, wanted)
    assert np.abs(np.asarray(wanted.router.kernel[...] - plain.router.kernel[...])).max() > 1e-3
    assert total(state, 0.0, key) == total(state, 0.0, None)


def test_the_loss_is_one_for_experts_chosen_alike() -> None:
    logits = jnp.zeros((4, 4))
    assert balance_loss(logits, jnp.arange(4)[:, None]) == 1.0
    lopsided = jnp.zeros((4, 4)).at[:, 0].set(50.0)
    assert math.isclose(balance_loss(lopsided, jnp.zeros((4, 1), jnp.int32)), 4.0, rel_tol=1e-6)


def test_a_llama_with_experts_decodes_as_it_reads_and_scans() -> None:
    config = LlamaConfig(
        attention=MultiHeadConfig(num_heads=2),
        dim=8,
        hidden=6,
        layers=2,
        max_length=9,
        experts=ExpertsConfig(count=3, chosen=2),
        scan=True,
    )
    model = drawn(lambda: Llama(config, 11, rngs=nnx.Rngs(0)), 0, 0.4)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 6)))
    whole = model(tokens)
    first, state = model.decode(tokens[:, :4], model.start(2))
    second, _ = model.decode(tokens[:, 4:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, rtol=1e-4, atol=1e-5)


def on_meshes() -> list[list[float]]:
    """The largest difference of outputs and gradients on several meshes, beside their size."""
    x = jax.random.normal(jax.random.key(3), (4, 6, D))
    layer = Experts(D, F, count=4, chosen=2, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)

    def loss(state: nnx.State, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = nnx.merge(graph, state)(x)
        return jnp.sum(jnp.sin(y)), y

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    wanted = jax.tree.leaves(function(state, x))
    found = []
    for shape in ((2, 1, 2, 2), (1, 2, 1, 4), (8, 1, 1, 1)):
        axes = ("data", "fsdp", "sequence", "tensor")
        mesh = jax.make_mesh(shape, axes, axis_types=(jax.sharding.AxisType.Auto,) * 4)
        with sharded(mesh):
            got = jax.tree.leaves(function(state, x))
        for a, b in zip(got, wanted, strict=True):
            found.append([float(jnp.abs(a - b).max()), float(jnp.abs(b).max())])
    return found


def test_on_a_mesh_each_device_computes_its_own_experts(on_eight_devices: Any) -> None:
    for difference, size in on_eight_devices(__file__):
        assert difference <= 1e-5 * max(size, 1e-3)


if __name__ == "__main__":
    print(json.dumps(on_meshes()))
