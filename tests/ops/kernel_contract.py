"""What every Pallas kernel is held to, interpreted: the oracle and cases of test_blockwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_blockwise import CASES, VARIABLES, B, S, T, arrays, check, oracle, run
from tolerances import assert_close

from attnzoo import ops
from attnzoo.ops import BlockMask, masks
from attnzoo.ops.kernels import interpret


def holds_to_float64_oracle(implementation, case):
    settings, _, names, _ = CASES[case]
    inputs = arrays(B, T, S, 11, 13)
    variables = {name: jnp.asarray(VARIABLES[name]) for name in names}
    with interpret():
        got = run(implementation, settings, *map(jnp.asarray, inputs), variables)
    check(got, inputs, case)


def errors_of(implementation, case, dtype):
    """Root mean square errors against the oracle by name, and of the reference."""
    settings, wanted, names, gradients = CASES[case]
    inputs = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in arrays(B, T, S, 11, 13)]
    variables = {name: jnp.asarray(VARIABLES[name], jnp.float32) for name in names}
    exact = oracle(*inputs, **wanted)
    exact |= {name: gradient(exact["scores"]) for name, gradient in gradients.items()}
    given = [jnp.asarray(x, dtype) for x in inputs]
    with interpret():
        got = run(implementation, settings, *given, variables)
    plain = run("reference", settings, *given, variables)
    assert got["out"].dtype == dtype
    assert got["lse"].dtype == "float32"

    def error(found):
        return {
            name: np.sqrt(np.mean((np.asarray(x, np.float64) - exact[name]) ** 2))
            for name, x in found.items()
        }

    return error(got), error(plain), exact


def keeps_empty_rows_and_what_is_not_finite_apart(implementation):
    """NaN exactly where the reference has it, and zeros where a row may attend nowhere."""
    q, k, v, d_out, d_lse = (jnp.asarray(x, "float32") for x in arrays(B, T, S, 11, 13))
    d_lse = 0 * d_lse
    k = k.at[0, 50, 1, 3].set(np.nan)
    v = v.at[1, 30, 0, 2].set(np.inf)
    q = q.at[1, 20, 4, 1].set(np.nan)
    mask = masks.sliding_window(15) & masks.padding(jnp.array([S, 20]))

    def settings(_):
        return {"mask": mask}

    wanted = run("reference", settings, q, k, v, d_out, d_lse)
    with interpret():
        got = run(implementation, settings, q, k, v, d_out, d_lse)
    assert np.isneginf(got["lse"][1, :, 40:]).all()
    assert np.all(got["out"][1, 40:] == 0)
    assert np.isnan(wanted["out"]).any()
    for name, x in got.items():
        np.testing.assert_array_equal(np.isnan(x), np.isnan(wanted[name]), err_msg=name)
        assert_close(x, wanted[name], 5e-6, err_msg=name)
    assert not any(np.isnan(got[name]).any() for name in "qkv")


def drops_what_the_reference_drops(implementation):
    inputs = [jnp.asarray(x, "float32") for x in arrays(B, T, S, 11, 13)]

    def settings(_):
        return {
            "dropout_rate": 0.3,
            "dropout_key": jax.random.key(1),
            "mask": masks.causal(),
        }

    wanted = run("reference", settings, *inputs)
    with interpret():
        got = run(implementation, settings, *inputs)
    for name, x in got.items():
        assert_close(x, wanted[name], 1e-5, err_msg=name)


def takes_nothing_but_empty_tiles(implementation):
    """A mask that permits nothing has no lists at all."""
    q, k, v = (jnp.ones((1, 40, n, 8)) for n in (2, 1, 1))
    mask = BlockMask.from_mask(~masks.full(), 1, 2, 40, 40)

    def total(q, k, v):
        out, lse = ops.dot_product_attention(
            q, k, v, mask, return_lse=True, implementation=implementation
        )
        return jnp.sum(out), (out, lse)

    with interpret():
        grads, (out, lse) = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    assert not np.any(out)
    assert np.isneginf(lse).all()
    assert not any(np.any(x) for x in grads)


def refuses(implementation, message, *arrays, **settings):
    with interpret(), pytest.raises(NotImplementedError) as raised:
        ops.dot_product_attention(*arrays, implementation=implementation, **settings)
    assert message in str(raised.value), raised.value
