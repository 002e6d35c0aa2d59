"""Recurrent layers against loops in numpy float64, and the gradients of their scan."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.layers.recurrent import GRU, LSTM

B, S, D, H = 3, 7, 5, 2
LENGTHS = np.array([7, 4, 0])  # full, padded, nothing but padding
VALID = np.arange(S) < LENGTHS[:, None]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def randomise(layer: nnx.Module, seed: int) -> dict[str, np.ndarray]:
    """Draw every parameter, biases too; the float64 values by name."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, param in vars(layer).items():
        if isinstance(param, nnx.Param):
            weights[name] = random.standard_normal(param.shape).astype(np.float32)
            param[...] = jnp.asarray(weights[name])
    return {name: value.astype(np.float64) for name, value in weights.items()}


def gru_loop(w: dict[str, np.ndarray], words: np.ndarray) -> np.ndarray:
    """Appendix A.1.1 of arXiv 1409.0473, one sentence, one direction: states L H."""
    W_z, W_r, W = np.split(w["input_kernel"], 3, axis=1)
    b_z, b_r, b = np.split(w["bias"], 3)
    U_z, U_r = np.split(w["gate_kernel"], 2, axis=1)
    U = w["candidate_kernel"]
    h, states = np.zeros(H), []
    for x in words:
        z = sigmoid(x @ W_z + h @ U_z + b_z)
        r = sigmoid(x @ W_r + h @ U_r + b_r)
        h = (1 - z) * h + z * np.tanh(x @ W + (r * h) @ U + b)
        states.append(h)
    return np.array(states).reshape(-1, H)


def lstm_loop(w: dict[str, np.ndarray], words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states L H and the last cell; gates stand in the order i, f, candidate, o."""
    h, c, states = np.zeros(H), np.zeros(H), []
    for x in words:
        i, f, g, o = np.split(x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states).reshape(-1, H), c


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((B, S, D)).astype(np.float32)


@pytest.fixture(scope="module")
def gru() -> tuple[GRU, dict[str, np.ndarray]]:
    layer = GRU(D, H, rngs=nnx.Rngs(0))
    return layer, randomise(layer, 1)


def test_gru_is_the_papers_and_stands_still_at_padding(gru, inputs) -> None:
    layer, weights = gru
    states = np.asarray(layer(jnp.asarray(inputs), jnp.asarray(VALID)))
    for row, length in enumerate(LENGTHS):
        wanted = gru_loop(weights, inputs[row, :length].astype(np.float64))
        np.testing.assert_allclose(states[row, :length], wanted, atol=2e-6)
        last = wanted[-1] if length else np.zeros(H)
        np.testing.assert_allclose(states[row, length:], np.tile(last, (S - length, 1)), atol=2e-6)


def test_reverse_gru_starts_at_the_last_real_token(gru, inputs) -> None:
    layer, weights = gru
    states = np.asarray(layer(jnp.asarray(inputs), jnp.asarray(VALID), reverse=True))
    for row, length in enumerate(LENGTHS):
        wanted = gru_loop(weights, inputs[row, :length][::-1].astype(np.float64))[::-1]
        np.testing.assert_allclose(states[row, :length], wanted, atol=2e-6)
        assert np.all(states[row, length:] == 0)


def test_gru_is_not_that_of_flax(gru, inputs) -> None:
    # flax complements the update gate and resets after the product.
    layer, weights = gru
    cell = nnx.GRUCell(D, H, rngs=nnx.Rngs(0))
    z, r, n = np.split(weights["input_kernel"], 3, axis=1)
    cell.dense_i.kernel[...] = jnp.asarray(np.concatenate([r, z, n], 1), jnp.float32)
    b_z, b_r, b_n = np.split(weights["bias"], 3)
    cell.dense_i.bias[...] = jnp.asarray(np.concatenate([b_r, b_z, b_n]), jnp.float32)
    u_z, u_r = np.split(weights["gate_kernel"], 2, axis=1)
    stacked = np.concatenate([u_r, u_z, weights["candidate_kernel"]], 1)
    cell.dense_h.kernel[...] = jnp.asarray(stacked, jnp.float32)
    hidden = jnp.asarray([[0.3, -0.7]] * B, jnp.float32)
    x = jnp.asarray(inputs[:, 0])
    ours, theirs = layer.step(layer.project(x), hidden), cell(hidden, x)[0]
    assert np.max(np.abs(ours - theirs)) > 0.05


def test_lstm_and_its_final_state(inputs) -> None:
    layer = LSTM(D, H, rngs=nnx.Rngs(0))
    weights = randomise(layer, 2)
    states, (cell, hidden) = layer(jnp.asarray(inputs), jnp.asarray(VALID))
    for row, length in enumerate(LENGTHS):
        wanted, last_cell = lstm_loop(weights, inputs[row, :length].astype(np.float64))
        np.testing.assert_allclose(states[row, :length], wanted, atol=2e-6)
        np.testing.assert_allclose(cell[row], last_cell, atol=2e-6)
        np.testing.assert_allclose(hidden[row], wanted[-1] if length else 0, atol=2e-6)
