"""Attention on a mesh equals attention on one device: run as a program, with eight on the CPU."""

import functools
import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import ops
from attnzoo.ops import masks, ring, score_mods

B, N, K, H = 4, 4, 2, 8
AXES = ("data", "fsdp", "tensor", "sequence")


def documents(T):
    ids = np.sort(np.random.default_rng(1).integers(0, 4, (B, T)), axis=1)
    return masks.document(jnp.asarray(ids, jnp.int32)) & masks.causal()


def padding(T):
    return masks.padding(jnp.arange(T)[None, :] < jnp.array([T, 5, 0, T - 3])[:, None])


def some_function(b, n, q, k):
    return (q + k + n + b) % 5 > 0


# name: (mesh, T, mask, settings)
CASES = {
    "batch": ((2, 2, 1, 1), 21, padding, {"dropout_rate": 0.3}),
    "heads": ((1, 1, 2, 1), 21, documents, {"is_causal": True, "softcap": 2.0}),
    "batch and heads": ((2, 1, 2, 1), 130, padding, {"is_causal": True, "dropout_rate": 0.3}),
    "everything": ((2, 1, 2, 2), 32, documents, {"dropout_rate": 0.3}),
    "a length that does not divide": ((1, 1, 2, 4), 37, padding, {"scale": 0.4}),
    "causal ring": ((1, 1, 1, 8), 48, padding, {"is_causal": True, "dropout_rate": 0.3}),
    "an array as mask": ((2, 1, 1, 4), 37, lambda T: np.arange(T) % 3 > 0, {}),
    "a plain function": ((2, 1, 2, 2), 32, lambda T: some_function, {}),
    "heads that do not divide": ((2, 1, 4, 1), 21, padding, {}),
}  # fmt: skip


def mesh_of(sizes):
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, axis_types=kinds)


def inputs(T):
    draw = np.random.default_rng(0).normal
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H + 3), (N,), (N,), (B, 1, T, T))
    return [jnp.asarray(draw(size=shape)) for shape in shapes]


def difference(case):
    """The largest relative difference of loss, output, lse and all gradients, in float64."""
    sizes, T, mask, settings = CASES[case]
    with jax.enable_x64(True):
        mask = mask(T)
        if isinstance(mask, np.ndarray):
            mask = jnp.asarray(mask)[None, None, None]
        settings = dict(settings, return_lse=True)
        if "dropout_rate" in settings:
            settings["dropout_key"] = jax.random.key(3)
        shape = np.random.default_rng(2).normal(size=(B, T, N, H + 3))

        def loss(q, k, v, slopes, sinks, bias):
            out, lse = ops.dot_product_attention(
                q, k, v, mask, bias, score_mod=score_mods.alibi(slopes), sinks=sinks, **settings
            )
            return jnp.sum(out * shape) + jnp.sum(lse**2), (out, lse)

        gradients = jax.jit(jax.value_and_grad(loss, argnums=range(6), has_aux=True))
        alone = jax.tree.leaves(gradients(*inputs(T)))
        with ops.sharded(mesh_of(sizes)):  # which compiles it anew
            together = jax.tree.leaves(gradients(*inputs(T)))
        assert len(together[0].devices()) > len(alone[0].devices())
        pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(together, alone, strict=True)]
        return max(float(np.max(np.abs(x - y)) / (1 + np.max(np.abs(y)))) for x, y in pairs)


def collectives():
    """Kinds of communication in a compiled step of causal attention, its gradients included."""

    def counted(sizes, T):
        mesh = mesh_of(sizes)

        def loss(q, k, v):
            out = ops.dot_product_attention(q, k, v, masks.causal())
            return jnp.sum(out**2)

        spec = jax.sharding.PartitionSpec(("data", "fsdp"), "sequence", "tensor")
        place = jax.sharding.NamedSharding(mesh, spec)
        x = jax.ShapeDtypeStruct((8, T, N, H), jnp.float32, sharding=place)
        with ops.sharded(mesh):
            text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile().as_text()
        kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
        return Counter(re.findall(rf" = .* ({kinds})(?:-start)?\(", text))

    return [sorted(counted(*case)) for case in (((4, 1, 2, 1), 130), ((1, 1, 2, 4), 128))]


def zigzag():
    """Positions after they were dealt, and after they were brought back, of 8 and of 3 devices."""
    found = []
    for devices in (8, 3):
        mesh = jax.make_mesh((devices,), ("ring",), axis_types=(jax.sharding.AxisType.Auto,))
        x = jnp.arange(8 * 2 * devices).reshape(1, -1, 1)
        spec = jax.sharding.PartitionSpec(None, "ring")

        def run(function, x, mesh=mesh, spec=spec, devices=devices):
            there = functools.partial(function, axis_name="ring", devices=devices)
            return jax.jit(jax.shard_map(there, mesh=mesh, in_specs=spec, out_specs=spec))(x)

        dealt = run(ring.to_zigzag, x)
        found.append(
            [np.asarray(y).ravel().tolist() for y in (dealt, run(ring.from_zigzag, dealt))]
        )
    return found


def program():
    found = {case: difference(case) for case in CASES}
    print(json.dumps({"differences": found, "collectives": collectives(), "zigzag": zigzag()}))


@pytest.fixture(scope="module")
def found(on_eight_devices):
    return on_eight_devices(__file__)


@pytest.mark.parametrize("case", CASES)
def test_a_mesh_changes_nothing(found, case):
    assert found["differences"][case] < 1e-13


def test_nothing_is_communicated_but_by_the_ring(found):
    assert found["collectives"] == [[], ["collective-permute"]]


def test_dealing_in_zigzag_and_back(found):
    for devices, (dealt, back) in zip((8, 3), found["zigzag"], strict=True):
        assert dealt == ring.ring_order(16 * devices, devices).tolist()
        assert back == list(range(16 * devices))


def test_one_device_is_no_mesh():
    """The same program as without one, to the last bit."""
    q, k, v = (x.astype(jnp.float32) for x in inputs(21)[:3])
    alone = ops.dot_product_attention(q, k, v, is_causal=True)
    with ops.sharded(mesh_of((1, 1, 1, 1))):
        np.testing.assert_array_equal(ops.dot_product_attention(q, k, v, is_causal=True), alone)


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    program()
