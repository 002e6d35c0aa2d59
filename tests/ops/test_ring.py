"""Ring attention equals dense attention: run as a program, with eight devices on the CPU."""

import json

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from attnzoo import ops
from attnzoo.ops import masks, score_mods
from attnzoo.ops.ring import ring_attention, ring_order

B, T, N, K, H = 2, 48, 4, 2, 8
DEVICES = 4


def documents():
    ids = np.sort(np.random.default_rng(1).integers(0, 4, (B, T)), axis=1)
    return masks.document(jnp.asarray(ids, jnp.int32)) & masks.causal()


# name: (order, devices, mask, settings)
CASES = {
    "causal": ("zigzag", 4, None, {"is_causal": True, "softcap": 2.0, "scale": 0.4}),
    "window": ("zigzag", 2, masks.sliding_window(9), {}),
    "documents": ("zigzag", 4, documents(), {"dropout_rate": 0.3}),
    "in order": ("contiguous", 4, None, {"is_causal": True}),
    "a plain function": ("contiguous", 4, lambda b, n, q, k: (q + 2 * k + n) % 5 > 0, {}),
    "one device": ("zigzag", 1, masks.padding(jnp.array([40, 0])), {}),
}


def mesh_of(devices, kind="Auto"):
    kinds = (getattr(jax.sharding.AxisType, kind),)
    return jax.make_mesh((devices,), ("ring",), axis_types=kinds)


def inputs():
    draw = np.random.default_rng(0).normal
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H + 3), (N,), (N,))
    return [jnp.asarray(draw(size=shape)) for shape in shapes]


def losses(order, devices, mask, settings):
    """Two functions of q, k, v, slopes and sinks that should be the same, dense and in a ring."""
    settings = dict(settings, return_lse=True)
    if "dropout_rate" in settings:
        settings["dropout_key"] = jax.random.key(3)
    there = ring_order(T, devices, order)
    back = np.argsort(there)
    shape = np.random.default_rng(2).normal(size=(B, T, N, H + 3))

    def loss(out, lse):
        return jnp.sum(out * shape) + jnp.sum(jnp.where(jnp.isneginf(lse), 0, lse) ** 2), (out, lse)

    def dense(q, k, v, slopes, sinks):
        mod = score_mods.alibi(slopes)
        return loss(
            *ops.dot_product_attention(
                q, k, v, mask, score_mod=mod, sinks=sinks, implementation="reference", **settings
            )
        )

    def ring(q, k, v, slopes, sinks):
        out, lse = ring_attention(
            *(x[:, there] for x in (q, k, v)),
            mask,
            mesh=mesh_of(devices),
            axis_name="ring",
            order=order,
            score_mod=score_mods.alibi(slopes),
            sinks=sinks,
            **settings,
        )
        return loss(out[:, back], lse[:, :, back])

    return dense, ring


def difference(case):
    """The largest relative difference of loss, output, lse and all gradients, in float64."""
    with jax.enable_x64(True):
        both = [
            jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True))(*inputs())
            for loss in losses(*CASES[case])
        ]
        pairs = [map(np.asarray, pair) for pair in zip(*map(jax.tree.leaves, both))]
        # Empty rows have an lse of -inf on both sides, or the difference is NaN and the test fails.
        pairs = [
            (np.where(np.isneginf(x), -1e9, x), np.where(np.isneginf(y), -1e9, y)) for x, y in pairs
        ]
        return max(float(np.max(np.abs(x - y)) / (1 + np.max(np.abs(y)))) for x, y in pairs)


def nan_rows():
    """Rows with NaN when the key at position 30 has one: itself and the future, in one head."""
    q, k, v = (x.astype(jnp.float32) for x in inputs()[:3])
    k = k.at[0, 30, 1].set(jnp.nan)
    there = ring_order(T, 4, "zigzag")

    @jax.jit
    def run(q, k, v):
        return ring_attention(
            q, k, v, mesh=mesh_of(4), axis_name="ring", order="zigzag", is_causal=True
        )

    out = np.asarray(run(*(x[:, there] for x in (q, k, v))))[:, np.argsort(there)]
    return np.argwhere(np.isnan(out).any(axis=(0, 3))).tolist()


def memory():
    """Bytes of temporaries of a device, for 2 devices, and for 8 with four times the length."""

    def gradients(devices):
        def loss(q, k, v):
            out = ring_attention(
                q, k, v, mesh=mesh_of(devices), axis_name="ring", order="zigzag", is_causal=True
            )
            return jnp.sum(out**2)

        sharded = jax.sharding.PartitionSpec(None, "ring")
        place = jax.sharding.NamedSharding(mesh_of(devices), sharded)
        x = jax.ShapeDtypeStruct((1, 512 * devices, 2, 64), jnp.float32, sharding=place)
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    return [gradients(2), gradients(8)]


def explicit():
    """A mesh whose shardings are part of the types takes arrays that are not sharded yet."""
    q, k, v = (x.astype(jnp.float32) for x in inputs()[:3])
    out = jax.jit(
        lambda q, k, v: ring_attention(q, k, v, mesh=mesh_of(4, "Explicit"), axis_name="ring")
    )(q, k, v)
    return float(np.abs(np.asarray(out) - ops.dot_product_attention(q, k, v)).max())


def program():
    print(
        json.dumps(
            {
                "differences": {case: difference(case) for case in CASES},
                "nan_rows": nan_rows(),
                "memory": memory(),
                "explicit": explicit(),
            }
        )
    )


@pytest.fixture(scope="module")
def found(on_eight_devices):
    return on_eight_devices(__file__)


@pytest.mark.parametrize("case", CASES)
def test_ring_is_dense_with_all_gradients(found, case):
    assert found["differences"][case] < 1e-13


def test_not_a_number_reaches_only_who_may_see_it(found):
    assert found["nan_rows"] == [[row, head] for row in range(30, T) for head in (2, 3)]


def test_memory_of_a_device_is_flat(found):
    """Four times the devices and the length: what grows are lists of positions."""
    small, large = found["memory"]
    assert large < 1.1 * small
    assert small < 40 * 512 * 2 * 64 * 4


def test_shardings_in_types(found):
    assert found["explicit"] < 1e-5


def test_zigzag_gives_every_device_the_same_work():
    def work(order):  # a causal query at position p sees p + 1 keys
        return (ring_order(480, DEVICES, order).reshape(DEVICES, -1) + 1).sum(axis=1)

    assert len(set(work("zigzag"))) == 1
    assert work("contiguous").max() > 6 * work("contiguous").min()
    assert ring_order(16, 2).tolist() == [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7, 8, 9, 10, 11]
    assert sorted(ring_order(480, DEVICES)) == list(range(480))


@pytest.fixture
def unchecked():
    """Errors as users see them: without the type checker that runs in the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "striped"}, "order='striped'; wanted 'contiguous' or 'zigzag'"),
        ({"axis_name": "model"}, "axis_name='model' is no axis of mesh: ring"),
        ({"mask": jnp.ones((1, 1, T, T), bool)}, "mask is an array; wanted a mask function"),
        ({"dropout_rate": 0.1}, "needs dropout_key"),
    ],
)
def test_errors(settings, message):
    q, k, v = (x.astype(jnp.float32) for x in inputs()[:3])
    arguments = {"mesh": mesh_of(1), "axis_name": "ring", **settings}
    with pytest.raises(ValueError) as error:
        ring_attention(q, k, v, **arguments)
    assert message in str(error.value)


def test_lengths_that_the_devices_do_not_divide():
    with pytest.raises(ValueError, match="length=50 is not a multiple of 8, the pieces of 4"):
        ring_order(50, 4)


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    program()
