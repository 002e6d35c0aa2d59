"""The TPU kernels: interpreted against the oracle; lowered and compiled without a TPU."""

import jax
import jax.numpy as jnp
import kernel_contract as contract
import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu
from test_blockwise import CASES, N, arrays, draw, in_tiles, oracle, run
from test_blockwise import VARIABLES as SMALL

from attnzoo import ops
from attnzoo.ops import masks, score_mods
from attnzoo.ops.kernels import interpret, mosaic_tpu
from attnzoo.ops.logits import Scoring

T, S = 150, 300
VARIABLES = {
    "slopes": draw((N,), 1) ** 2,
    "dense": draw((1, N, T, S), 2),
    "per_key": draw((S,), 3),
    "per_query": draw((2, T), 4),
}
IDS = np.sort(np.random.default_rng(5).integers(0, 3, (2, S)), axis=1)
DISTANCE = abs(np.arange(T)[:, None] - np.arange(S))
SEEN = (IDS[:, :T, None] == IDS[:, None, :])[:, None] & (DISTANCE <= 110)


def everything(x):
    """Every way in which a tile may read an array: by head, query, key, and both."""

    def rows_and_columns(score, b, n, q, k):
        return score + x["per_key"][k].astype(score.dtype) * x["per_query"][b, q]

    return (
        score_mods.alibi(x["slopes"]).then(score_mods.dense_bias(x["dense"])).then(rows_and_columns)
    )


def exact(inputs, x, mask):
    outer = x["per_query"][:, None, :, None] * x["per_key"]
    bias = -x["slopes"][:, None, None] * DISTANCE + x["dense"] + outer
    wanted = oracle(*inputs, mask=mask, bias=bias)
    ds = wanted["scores"]
    return wanted | {
        "slopes": -(ds * DISTANCE).sum((0, 2, 3)),
        "dense": ds.sum(0, keepdims=True),
        "per_key": (ds * x["per_query"][:, None, :, None]).sum((0, 1, 2)),
        "per_query": (ds * x["per_key"]).sum((1, 3)),
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("block", [None, (512, 256)])
def test_float64_oracle_over_many_tiles(block):
    """Several tiles of the kernel, some of them empty; two of them to a tile of a block mask."""
    inputs = arrays(2, T, S, 5, 7)
    ids = jnp.asarray(IDS, jnp.int32)
    mask = masks.document(ids[:, :T], ids) & masks.symmetric_window(110)
    if block is not None:
        mask = in_tiles(mask, 2, T, S, block)
    with interpret():
        got = run(
            "mosaic_tpu",
            lambda x: {"mask": mask, "score_mod": everything(x)},
            *map(jnp.asarray, inputs),
            {name: jnp.asarray(x) for name, x in VARIABLES.items()},
        )
    wanted = exact(inputs, VARIABLES, SEEN)
    for name, x in got.items():
        np.testing.assert_allclose(x, wanted[name], atol=1e-11, rtol=1e-11, err_msg=name)


def test_in_a_simulated_tpu():
    """With memories, copies and their order simulated, which only float32 is; one batch row."""
    random = np.random.default_rng(7).normal
    heads = ((T, 2, 5), (S, 1, 5), (S, 1, 7), (T, 2, 7), (2, T))
    inputs = [random(size=(1, *shape)) for shape in heads]
    x = {name: array[:1] for name, array in VARIABLES.items() if name == "per_query"}
    x |= {"slopes": VARIABLES["slopes"][:2], "dense": VARIABLES["dense"][:, :2]}
    x |= {"per_key": VARIABLES["per_key"]}
    q, k, v, d_out, d_lse = (jnp.asarray(a, jnp.float32) for a in inputs)

    def loss(q, k, v, x):
        settings = Scoring(score_mod=everything(x), mask_mod=masks.symmetric_window(110))
        out, lse = mosaic_tpu.attend(q, k, v, settings)
        return jnp.sum(out * d_out) + jnp.sum(lse * d_lse), (out, lse)

    variables = {name: jnp.asarray(a, jnp.float32) for name, a in x.items()}
    with pltpu.force_tpu_interpret_mode():
        both = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
        (*heads, rest), (out, lse) = jax.jit(both)(q, k, v, variables)
    wanted = exact(inputs, x, DISTANCE <= 110)
    for name, got in {"out": out, "lse": lse, **dict(zip("qkv", heads)), **rest}.items():
        size = np.abs(wanted[name]).max()
        np.testing.assert_allclose(got, wanted[name], atol=2e-5 * size, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_float64_oracle():
    contract.holds_to_float64_oracle("mosaic_tpu", "everything")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_more_than_twice_the_error_of_the_reference(dtype):
    """Of captured arrays in float32 only: the reference multiplies bfloat16 in float32, a tile does
    not, which a gradient that is no bfloat16 shows.
    """
    errors, plain, exact = contract.errors_of("mosaic_tpu", "alibi", dtype)
    for name in ("out", "lse", "q", "k", "v", *(["slopes"] if dtype == "float32" else [])):
        rounding = 5e-7 * np.sqrt(np.mean(exact[name] ** 2))  # of the values themselves
        assert errors[name] <= 2 * plain[name] + rounding, (name, errors, plain)


def test_empty_rows_and_what_is_not_finite():
    contract.keeps_empty_rows_and_what_is_not_finite_apart("mosaic_tpu")


def test_nothing_but_empty_tiles():
    contract.takes_nothing_but_empty_tiles("mosaic_tpu")


def test_dropout_drops_what_the_reference_drops():
    contract.drops_what_the_reference_drops("mosaic_tpu")


def test_repeats_are_bit_equal_under_vmap():
    settings = CASES["alibi"][0]
    q, k, v = (jnp.asarray(x, "float32") for x in arrays(2, 61, 83, 11, 13)[:3])
    slopes = {"slopes": jnp.asarray(SMALL["slopes"], jnp.float32)}

    def gradients(implementation):
        def loss(q, slopes):
            out = ops.dot_product_attention(
                q, k, v, **settings(slopes), implementation=implementation
            )
            return jnp.sum(out**2)

        both = jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None))
        return jax.jit(both)(jnp.stack([q, q + 1]), slopes)

    with interpret():
        first, again = (jax.tree.leaves(gradients("mosaic_tpu")) for _ in range(2))
    wanted = jax.tree.leaves(gradients("reference"))
    for x, y, z in zip(first, again, wanted):
        assert np.array_equal(x, y)
        np.testing.assert_allclose(x, z, atol=2e-4, rtol=1e-4)


def test_refusals():
    x = jnp.ones((1, 8, 2, 16))
    contract.refuses(
        "mosaic_tpu", "cannot take q: head size 512; wanted at most 256", *[x.repeat(32, 3)] * 3
    )
    for function, message in {
        lambda s, b, n, q, k: s + jnp.ones((8, 8)): "on a tile it raises",
        lambda s, b, n, q, k: s + jnp.ones((8, 3))[k].sum(-1): (
            "it takes slices of an array of shape (8, 3)"
        ),
        lambda s, b, n, q, k: (
            s + jnp.ones((8, 8))[q, q]
        ): "it reads two axes of an array by the same position",
    }.items():
        contract.refuses("mosaic_tpu", message, *[x] * 3, score_mod=function)
    contract.refuses(
        "mosaic_tpu",
        "cannot take score_mod: it reads an array at computed indices",
        *[x] * 3,
        score_mod=score_mods.clipped_bias(jnp.ones((2, 5))),
    )
    contract.refuses(
        "mosaic_tpu",
        "cannot take mask_mod: it reads an array at computed indices",
        *[x] * 3,
        mask=lambda b, n, q, k: jnp.ones(9, bool)[abs(q - k)],
    )
    contract.refuses("mosaic_tpu", "cannot take q: float16", *[x.astype(jnp.float16)] * 3)


# Interpreting takes operations that no TPU has, so every kind of kernel is lowered and compiled.
KINDS = {
    "full": lambda x: Scoring(),
    "causal alibi": lambda x: Scoring(
        softcap=20.0, mask_mod=masks.causal(), score_mod=score_mods.alibi(x["slopes"])
    ),
    "documents and a bias": lambda x: Scoring(
        bias=x["bias"], mask_mod=masks.document(x["ids"]) & masks.causal()
    ),
    "a plain function": lambda x: Scoring(
        score_mod=lambda s, b, n, q, k: s * jnp.tanh(x["per_key"])[k]
    ),
}
LENGTH, H = 640, 128


def described(sharding=None):
    def array(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    variables = {
        "slopes": array((4,)),
        "bias": array((1, 1, LENGTH, LENGTH)),
        "ids": array((1, LENGTH), jnp.int32),
        "per_key": array((LENGTH,)),
    }
    heads = [array((1, LENGTH, n, H), jnp.bfloat16) for n in (4, 2, 2)]
    return (*heads, variables, array((), jax.random.key(0).dtype))


def gradients(kind):
    rate = 0.1 if kind == "full" else 0.0

    def loss(q, k, v, variables, ids, key):
        settings = KINDS[kind]({**variables, "ids": ids})
        out, lse = mosaic_tpu.attend(q, k, v, settings, rate, key if rate else None)
        return jnp.sum(out.astype(jnp.float32)) + jnp.sum(lse)

    def both(q, k, v, variables, key):
        ids = variables.pop("ids")
        return jax.grad(loss, argnums=(0, 1, 2, 3))(q, k, v, variables, ids, key)

    return both


def for_tpu():
    """Pallas wants to know which TPU since jax 0.11, and is told by the mesh."""
    device = jax.sharding.AbstractDevice(device_kind="TPU v5 lite", platform="tpu", num_cores=1)
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


@pytest.mark.parametrize("kind", KINDS)
def test_lowers_for_a_tpu(kind):
    with for_tpu():
        lowered = jax.export.export(jax.jit(gradients(kind)), platforms=["tpu"])(*described())
    assert lowered.mlir_module().count("tpu_custom_call") >= 3


def test_compiles_for_a_v5e():
    """With libtpu and JAX_PLATFORMS=cpu; nothing runs."""
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"no libtpu to compile with: {error}")
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    for kind in KINDS:
        with for_tpu():
            compiled = jax.jit(gradients(kind)).lower(*described(sharding)).compile()
        assert compiled.memory_analysis().temp_size_in_bytes > 0, kind
