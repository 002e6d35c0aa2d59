"""The Triton kernels: interpreted against the oracle; lowered and compiled without a GPU."""

import jax
import jax.numpy as jnp
import kernel_contract as contract
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from test_blockwise import CASES, VARIABLES, arrays, in_tiles, oracle, run

from attnzoo import ops
from attnzoo.ops import masks, score_mods
from attnzoo.ops.kernels import interpret, triton
from attnzoo.ops.logits import Scoring


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "case",
    [
        "full",
        "everything",
        "documents",
        "a relative table",
        "a dense array in a modifier",
        "a plain function",
    ],
)
def test_float64_oracle(case):
    contract.holds_to_float64_oracle("triton", case)


@pytest.mark.usefixtures("x64")
def test_tiles_of_the_mask_that_are_several_of_the_kernel():
    """Blocks of 64 x 64 are tiles of 64 x 32 forward and 32 x 32 backward."""
    T, S = 150, 203
    inputs = arrays(1, T, S, 5, 7)
    slopes = VARIABLES["slopes"]

    def settings(x):
        return {
            "mask": in_tiles(masks.window(70, 20), 1, T, S, (64, 64)),
            "score_mod": score_mods.alibi(x["slopes"]),
        }

    with interpret():
        got = run("triton", settings, *map(jnp.asarray, inputs), {"slopes": jnp.asarray(slopes)})
    query, key = np.arange(T)[:, None], np.arange(S)[None]
    distance = abs(query - key)
    wanted = oracle(
        *inputs,
        bias=-slopes[:, None, None] * distance,
        mask=(query - 70 <= key) & (key <= query + 20),
    )
    wanted["slopes"] = -(wanted["scores"] * distance).sum((0, 2, 3))
    for name, x in got.items():
        np.testing.assert_allclose(x, wanted[name], atol=1e-11, rtol=1e-11, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window", [None, 40])
def test_decoding_splits_the_keys(window):
    """One query of the last position; with a window most parts of the keys see nothing."""
    S = 641
    inputs = arrays(2, 1, S, 16, 16)
    mask = None if window is None else masks.sliding_window(window).offset(S - 1)
    assert S // triton.tiles(16, jnp.float64)[0][1] // 4 > 4
    with interpret():
        got = run("triton", lambda _: {"mask": mask}, *map(jnp.asarray, inputs))
    seen = True if window is None else np.arange(S) > S - 1 - window
    wanted = oracle(*inputs, mask=seen)
    for name, x in got.items():
        np.testing.assert_allclose(x, wanted[name], atol=1e-11, err_msg=name)


def test_no_more_than_twice_the_error_of_the_reference_in_float32():
    errors, plain, exact = contract.errors_of("triton", "everything", "float32")
    for name, error in errors.items():
        rounding = 5e-7 * np.sqrt(np.mean(exact[name] ** 2))  # of the values themselves
        assert error <= 2 * plain[name] + rounding, (name, errors, plain)


def test_no_more_than_twice_the_error_of_the_reference_in_bfloat16():
    """The reference computes with float32 inside and rounds results; products of tiles are of
    bfloat16. A gradient that is no bfloat16 shows that, and is held to jax.nn, which does so, too.
    """
    errors, plain, exact = contract.errors_of("triton", "a bias per key", "bfloat16")
    for name in ("out", "lse", "q", "k", "v"):
        rounding = 5e-7 * np.sqrt(np.mean(exact[name] ** 2))
        assert errors[name] <= 2 * plain[name] + rounding, (name, errors, plain)
    *inputs, d_lse = (jnp.asarray(x, jnp.bfloat16) for x in arrays(2, 61, 83, 11, 11))
    bias = jnp.asarray(VARIABLES["column"], jnp.float32)

    def error(implementation):
        def loss(bias):
            out = ops.dot_product_attention(*inputs[:3], bias=bias, implementation=implementation)
            return jnp.sum(out.astype(jnp.float32) * inputs[3].astype(jnp.float32))

        return np.sqrt(np.mean((np.asarray(jax.jit(jax.grad(loss))(bias)) - gradient) ** 2))

    exact = (np.asarray(x, np.float64) for x in (*inputs, 0 * d_lse))
    gradient = oracle(*exact, bias=np.asarray(bias, np.float64))["scores"]
    gradient = gradient.sum((1, 2), keepdims=True)
    with jax.numpy_dtype_promotion("standard"):  # jax.nn adds a float32 bias to bfloat16
        plain = error("xla")
    with interpret():
        assert error("triton") <= 2 * plain


def test_empty_rows_and_what_is_not_finite():
    contract.keeps_empty_rows_and_what_is_not_finite_apart("triton")


def test_nothing_but_empty_tiles():
    contract.takes_nothing_but_empty_tiles("triton")


def test_dropout_drops_what_the_reference_drops():
    contract.drops_what_the_reference_drops("triton")


def test_repeats_are_bit_equal_under_vmap():
    settings, _, names, _ = CASES["a relative table"]
    q, k, v = (jnp.asarray(x, "float32") for x in arrays(2, 61, 83, 11, 13)[:3])
    variables = {name: jnp.asarray(VARIABLES[name], jnp.float32) for name in names}

    def gradients(implementation):
        def loss(q, variables):
            out = ops.dot_product_attention(
                q, k, v, **settings(variables), implementation=implementation
            )
            return jnp.sum(out**2)

        both = jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None))
        return jax.jit(both)(jnp.stack([q, q + 1]), variables)

    with interpret():
        first, again = (jax.tree.leaves(gradients("triton")) for _ in range(2))
    wanted = jax.tree.leaves(gradients("reference"))
    for x, y, z in zip(first, again, wanted):
        assert np.array_equal(x, y)
        np.testing.assert_allclose(x, z, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("width", "settings", "message"),
    [
        (512, {}, "cannot take q: head size 512; wanted at most 256"),
        (
            16,
            {"score_mod": lambda s, b, n, q, k: s + jnp.ones((8, 8))},
            "cannot take score_mod: on a tile it raises",
        ),
        (
            16,
            {"score_mod": lambda s, b, n, q, k: s + jnp.ones((8, 3))[k].sum(-1)},
            "score_mod: it takes slices of an array of shape (8, 3)",
        ),
    ],
)
def test_refusals(width, settings, message):
    x = jnp.ones((1, 8, 2, width))
    contract.refuses("triton", message, x, x, x, **settings)


# Interpreting takes operations that no GPU has, so every kind of kernel is lowered and compiled.
T, H = 256, 64
KINDS = {
    "full": lambda x: Scoring(),
    "causal alibi": lambda x: Scoring(
        softcap=20.0, mask_mod=masks.causal(), score_mod=score_mods.alibi(x["slopes"])
    ),
    "a table": lambda x: Scoring(score_mod=score_mods.t5_bias(x["table"], bidirectional=True)),
    "documents and a bias": lambda x: Scoring(
        bias=x["bias"], mask_mod=masks.document(x["ids"]) & masks.causal()
    ),
    "a plain function": lambda x: Scoring(
        score_mod=lambda s, b, n, q, k: s * jnp.tanh(x["per_key"])[k]
    ),
}


def described(sharding=None):
    def array(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    variables = {
        "slopes": array((4,)),
        "table": array((4, 32)),
        "bias": array((1, 1, T, T)),
        "ids": array((1, T), jnp.int32),
        "per_key": array((T,)),
    }
    heads = [array((1, T, n, H), jnp.bfloat16) for n in (4, 2, 2)]
    return (*heads, variables, array((), jax.random.key(0).dtype))


def gradients(kind, drop=False):
    def loss(q, k, v, variables, ids, key):
        settings = KINDS[kind]({**variables, "ids": ids})
        out, lse = triton.attend(q, k, v, settings, 0.1 if drop else 0.0, key if drop else None)
        return jnp.sum(out.astype(jnp.float32)) + jnp.sum(lse)

    def both(q, k, v, variables, key):
        ids = variables.pop("ids")
        return jax.grad(loss, argnums=(0, 1, 2, 3))(q, k, v, variables, ids, key)

    return both


def for_gpu():
    """Pallas wants to know which GPU since jax 0.11, and is told by the mesh."""
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh(
            (),
            (),
            abstract_device=jax.sharding.AbstractDevice(
                device_kind="NVIDIA H200", platform="gpu", num_cores=132
            ),
        )
    )


DEPRECATED = pytest.mark.filterwarnings("ignore:.*Triton.*:DeprecationWarning")


@DEPRECATED
@pytest.mark.parametrize("kind", KINDS)
def test_lowers_for_a_gpu(kind):
    checks = [jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
    with for_gpu():
        lowered = jax.export.export(
            jax.jit(gradients(kind, drop=kind == "full")),
            platforms=["cuda"],
            disabled_checks=checks,
        )(*described())
    assert lowered.mlir_module().count("__gpu$xla.gpu.triton") >= 3


@DEPRECATED
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_for_an_h200(kind, shared):
    """With jax-cuda13-plugin, its pjrt and ptxas, and JAX_PLATFORMS=cpu; nothing runs."""
    target = (shared / "kernels" / "h200.txtpb").read_text()
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=target, topology="1x1x1"
        )
    except NotImplementedError as error:
        pytest.skip(f"no CUDA plugin to compile with: {error}")
    mesh = topologies.make_mesh(topology, (1,), ("x",))
    with for_gpu():
        lowered = jax.jit(gradients(kind)).lower(*described(NamedSharding(mesh, PartitionSpec())))
        assert lowered.compile().memory_analysis().temp_size_in_bytes > 0
