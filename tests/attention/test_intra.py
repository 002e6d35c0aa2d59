"""LSTMN and intra-temporal attention: loops in float64, what comes later, what was read before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from attnzoo.attention import IntraTemporalAttention
from attnzoo.attention.intra import LSTMN

B, T, S, D, WIDTH, HIDDEN, DV = 3, 4, 7, 5, 2, 3, 11
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(B, S, D))
QUERY = RNG.normal(size=(B, T, WIDTH))
VALUES = RNG.normal(size=(B, S, DV))
LENGTHS = np.array([7, 4, 1])
VALID = np.arange(S)[None, :] < LENGTHS[:, None]


def draw(make, dtype: str = "float64") -> nnx.Module:
    """A module whose every parameter is drawn: nothing starts at 0."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    random = np.random.default_rng(1)
    return nnx.merge(
        graph, jax.tree.map(lambda a: jnp.asarray(random.normal(size=a.shape), dtype), state)
    )


def lstmn(dtype: str = "float64") -> LSTMN:
    return draw(lambda rngs: LSTMN(D, HIDDEN, WIDTH, rngs=rngs), dtype)


def temporal(dtype: str = "float64") -> IntraTemporalAttention:
    return draw(lambda rngs: IntraTemporalAttention(WIDTH, D, rngs=rngs), dtype)


@jax.jit
def run_lstmn(module, inputs, valid):
    return module(inputs, valid, return_weights=True)


@jax.jit
def run_temporal(module, query, keys, values, mask):
    return module(query, keys, values, mask=mask, return_weights=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def oracle_lstmn(module: LSTMN, inputs: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """One sentence, with lists for tapes."""
    kernel = {
        name: np.asarray(getattr(module, name).kernel[...], np.float64)
        for name in ("key", "input", "summary", "score", "gate_input", "gate_summary")
    }
    bias = np.asarray(module.gate_input.bias[...], np.float64)
    states, cells, rows, summary = [], [], np.zeros((S, S)), np.zeros(HIDDEN)
    for t in range(length):
        memory, new = np.zeros(HIDDEN), np.zeros(HIDDEN)
        if t > 0:
            scores = [
                np.tanh(
                    h @ kernel["key"] + inputs[t] @ kernel["input"] + summary @ kernel["summary"]
                )
                @ kernel["score"]
                for h in states
            ]
            share = np.exp(scores).ravel() / np.exp(scores).sum()
            rows[t, :t] = share
            new = sum(s * h for s, h in zip(share, states, strict=True))
            memory = sum(s * c for s, c in zip(share, cells, strict=True))
        summary = new
        gates = inputs[t] @ kernel["gate_input"] + bias + summary @ kernel["gate_summary"]
        entry, forget, output, candidate = np.split(gates, 4)
        cells.append(sigmoid(forget) * memory + sigmoid(entry) * np.tanh(candidate))
        states.append(sigmoid(output) * np.tanh(cells[-1]))
    return np.stack(states), rows


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_lstmn_is_the_loop(dtype: str, tolerance: float) -> None:
    with jax.enable_x64(dtype == "float64"):
        module = lstmn(dtype)
        states, weights = run_lstmn(module, jnp.asarray(INPUTS, dtype), jnp.asarray(VALID))
        assert states.dtype == weights.dtype == dtype
        assert weights.shape == (B, 1, S, S)
        for b, length in enumerate(LENGTHS):
            want, rows = oracle_lstmn(module, INPUTS[b], length)
            np.testing.assert_allclose(states[b, :length], want, rtol=0, atol=tolerance)
            np.testing.assert_allclose(weights[b, 0], rows, rtol=0, atol=tolerance)
            assert np.all(np.asarray(states)[b, length:] == 0)
        assert np.all(np.triu(np.asarray(weights)) == 0)  # i < t, and nothing to read at first


def test_lstmn_gradients_reach_every_parameter_and_no_padding(x64: None) -> None:
    module = lstmn()

    @jax.jit
    def loss(module, inputs):
        return jnp.sum(jnp.sin(module(inputs, jnp.asarray(VALID))))

    inputs = jnp.asarray(INPUTS)
    check_grads(loss, (module, inputs), order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-6)
    poisoned = jnp.where(jnp.asarray(VALID)[:, :, None], inputs, jnp.nan)
    value, (of_module, of_inputs) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        module, poisoned
    )
    assert value == pytest.approx(float(loss(module, inputs)), abs=1e-12)
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(of_module)):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(np.asarray(leaf) != 0), path
    np.testing.assert_array_equal(np.any(np.asarray(of_inputs) != 0, axis=2), VALID)


def test_lstmn_sees_the_past_alone() -> None:
    module = lstmn("float32")
    inputs = jnp.asarray(INPUTS[:1], jnp.float32)
    jacobian = jax.jit(jax.jacrev(lambda inputs: module(inputs)[0].sum(axis=-1)))(inputs)
    depends = np.any(np.asarray(jacobian)[:, 0] != 0, axis=2)
    np.testing.assert_array_equal(depends, np.tri(S, dtype=bool))


def test_the_memory_of_an_lstmn_that_only_remembers_is_the_mean_of_its_past(x64: None) -> None:
    """Scores of 0, forget gate 1, input gate open at the first two steps alone."""
    module = jax.tree.map(jnp.zeros_like, lstmn())
    entry, forget, output, candidate = np.split(np.arange(4 * HIDDEN), 4)
    bias = np.zeros(4 * HIDDEN)
    bias[entry], bias[forget], bias[output] = -60.0, 60.0, 60.0
    kernel = np.zeros((D, 4 * HIDDEN))
    kernel[0, entry] = 120.0  # the first input feature opens the input gate
    kernel[1, candidate] = 1.0
    module.gate_input.bias[...] = jnp.asarray(bias)
    module.gate_input.kernel[...] = jnp.asarray(kernel)
    inputs = np.zeros((1, S, D))
    inputs[0, :2, 0] = 1.0
    inputs[0, :2, 1] = [0.3, -0.8]
    states, weights = run_lstmn(module, jnp.asarray(inputs), jnp.ones((1, S), bool))
    cells = [np.tanh(0.3)]
    cells.append(cells[0] + np.tanh(-0.8))
    for _ in range(2, S):
        cells.append(np.mean(cells))
    np.testing.assert_allclose(states[0, :, 0], np.tanh(cells), atol=1e-12)
    np.testing.assert_allclose(weights[0, 0, 4], [0.25] * 4 + [0.0] * 3, atol=1e-12)


def oracle_temporal(module, query, keys, mask) -> np.ndarray:
    kernel = np.asarray(module.kernel[...], np.float64)
    weights = np.zeros((B, T, S))
    for b in range(B):
        past = np.zeros(S)
        for t in range(T):
            score = np.exp([query[b, t] @ kernel @ key for key in keys[b]])
            share = np.where(past > 0, score / np.where(past > 0, past, 1), score) * mask[b, 0, t]
            weights[b, t] = share / share.sum() if share.sum() else 0
            past += score * mask[b, 0, t]
    return weights


MASKS = {
    "padding": np.broadcast_to(VALID[:, None, None], (B, 1, T, S)),
    "causal": np.broadcast_to(np.tri(T, S, dtype=bool), (B, 1, T, S)),
    "ragged": RNG.random((B, 1, T, S)) < 0.4,
}


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_intra_temporal_is_the_loop(mask: str, dtype: str, tolerance: float) -> None:
    with jax.enable_x64(dtype == "float64"):
        module = temporal(dtype)
        arrays = [jnp.asarray(x, dtype) for x in (QUERY, INPUTS, VALUES)]
        context, weights = run_temporal(module, *arrays, jnp.asarray(MASKS[mask]))
        wanted = oracle_temporal(module, QUERY, INPUTS, MASKS[mask])
        np.testing.assert_allclose(weights[:, 0], wanted, rtol=0, atol=tolerance)
        np.testing.assert_allclose(context, wanted @ VALUES, rtol=0, atol=10 * tolerance)


def test_the_second_query_turns_away_from_what_the_first_has_read() -> None:
    module = temporal("float32")
    twice = np.repeat(QUERY[:, :1], 2, axis=1)
    arrays = [jnp.asarray(x, jnp.float32) for x in (twice, INPUTS, VALUES)]
    _, weights = run_temporal(module, *arrays, jnp.ones((1, 1, 1, S), bool))
    assert np.ptp(weights[:, 0, 0]) > 0.1
    # exp(e) / exp(e) is 1: the same query once more reads everything alike.
    np.testing.assert_allclose(weights[:, 0, 1], 1 / S, rtol=1e-5)


def test_intra_temporal_gradients_also_where_nobody_has_looked(x64: None) -> None:
    module, mask = temporal(), jnp.asarray(MASKS["ragged"].copy())
    mask = mask.at[0].set(False).at[1, :, :, 3].set(False)

    @jax.jit
    def loss(module, query, keys, values):
        context, weights = module(query, keys, values, mask=mask, return_weights=True)
        return jnp.sum(jnp.sin(context)) + jnp.sum(weights**2)

    arrays = [jnp.asarray(x) for x in (QUERY, INPUTS, VALUES)]
    check_grads(loss, (module, *arrays), order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-6)
    dark = ~jnp.any(mask, axis=(1, 2))[:, :, None]
    keys, values = (jnp.where(dark, jnp.nan, x) for x in arrays[1:])
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(module, arrays[0], keys, values)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    assert np.all(np.asarray(gradients[1])[0] == 0)  # the sentence that is all masked


def test_steps_of_a_decoder_are_the_call_and_large_logits_do_not_overflow() -> None:
    module = temporal("float32")
    query, keys, values = (jnp.asarray(x, jnp.float32) for x in (50 * QUERY, INPUTS, VALUES))
    mask = jnp.asarray(VALID)[:, None, None, :]
    context, weights = run_temporal(module, query, keys, values, mask)
    assert np.all(np.isfinite(context))
    memory = module.prepare(keys, values, mask=mask)
    past = module.empty_past(memory)
    step = jax.jit(lambda module, query, memory, past: module.step(query, memory, past=past))
    for t in range(T):
        one, row, past = step(module, query[:, t], memory, past)
        # Logits of a few hundred in float32 are known to 3e-5, and so are shares of 1.
        np.testing.assert_allclose(row, weights[:, :, t], rtol=0, atol=1e-4)
        np.testing.assert_allclose(one, context[:, t], rtol=0, atol=1e-3)


def test_errors_name_the_argument() -> None:
    module = temporal("float32")
    query, keys = (jnp.asarray(x, jnp.float32) for x in (QUERY, INPUTS))
    memory = module.prepare(keys, mask=jnp.ones((1, 1, T, S), bool))
    with pytest.raises(NotImplementedError, match=r"positions.*step"):
        module.attend(query, memory, positions=jnp.zeros((B, T), jnp.int32))
    with pytest.raises(ValueError, match=f"T={T}"):
        module.step(query[:, 0], memory, past=module.empty_past(memory))
