"""Recurrent layers of the sequence-to-sequence papers, unrolled by ``lax.scan``.

The input products of the whole sequence are one matrix product; only the recurrent product is
inside the scan. Padding does not change the state: the final state of a forward pass is that of the
last real token, and a reverse pass starts there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnzoo.module import Module

Initializer = jax.nn.initializers.Initializer
orthogonal = jax.nn.initializers.orthogonal()
small_normal = jax.nn.initializers.normal(0.01)


def uniform(
    key: Key[Array, ""], shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None
) -> Array:
    """Draw uniformly from [-0.1, 0.1], as Luong et al. 2015 do for all parameters."""
    return jax.random.uniform(key, shape, dtype, -0.1, 0.1)


class GRU(Module):
    """Gated recurrent unit of Cho et al. 2014, as in Bahdanau et al. 2015, appendix A.1.1.

        z = sigmoid(W_z x + U_z h);  r = sigmoid(W_r x + U_r h)
        candidate = tanh(W x + U (r * h));  h <- (1 - z) * h + z * candidate

    flax's GRUCell differs: it uses 1 - z for z, and applies the reset gate after the product.
    Recurrent matrices start orthogonal, input matrices at N(0, 0.01^2) by default, biases at 0.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        *,
        kernel_init: Initializer = small_normal,
        rngs: nnx.Rngs,
    ):
        self.hidden_dim = hidden_dim
        kernel = kernel_init(rngs.params(), (input_dim, 3 * hidden_dim), jnp.float32)
        self.input_kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((3 * hidden_dim,), jnp.float32))
        square = (hidden_dim, hidden_dim)
        gates = [orthogonal(rngs.params(), square, jnp.float32) for _ in range(2)]
        self.gate_kernel = nnx.Param(jnp.concatenate(gates, axis=1))  # U_z | U_r
        self.candidate_kernel = nnx.Param(orthogonal(rngs.params(), square, jnp.float32))

    def project(self, inputs: Float[Array, "... D"]) -> Float[Array, "... G"]:
        """Return W_z x | W_r x | W x with the biases, for any number of steps at once."""
        return inputs @ self.input_kernel[...] + jnp.broadcast_to(
            self.bias[...], (*inputs.shape[:-1], self.bias.shape[0])
        )

    def step(
        self,
        projected: Float[Array, "B G"],
        hidden: Float[Array, "B D"],
    ) -> Float[Array, "B D"]:
        """Run one step, given the projected input."""
        width = self.hidden_dim
        gates = jax.nn.sigmoid(
            projected[:, : 2 * width] + jnp.einsum("bi,io->bo", hidden, self.gate_kernel[...])
        )
        update, reset = gates[:, :width], gates[:, width:]
        candidate = jnp.tanh(
            projected[:, 2 * width :]
            + jnp.einsum("bi,io->bo", reset * hidden, self.candidate_kernel[...])
        )
        return (1 - update) * hidden + update * candidate

    def __call__(
        self,
        inputs: Float[Array, "B S D"],
        valid: Bool[Array, "B S"],
        *,
        reverse: bool = False,
    ) -> Float[Array, "B S D2"]:
        """Return the states of all steps, from a zero state; padding does not change the state."""
        initial = jnp.zeros((inputs.shape[0], self.hidden_dim), inputs.dtype)

        def body(hidden, step):
            projected, alive = step
            hidden = jnp.where(alive[:, None], self.step(projected, hidden), hidden)
            return hidden, hidden

        steps = (jnp.swapaxes(self.project(inputs), 0, 1), valid.T)
        _, states = jax.lax.scan(body, initial, steps, reverse=reverse)
        return jnp.swapaxes(states, 0, 1)


class LSTM(Module):
    """LSTM of Hochreiter and Schmidhuber 1997, with forget gate; the state is (cell, hidden).

    All parameters start uniform in [-0.1, 0.1] by default, as in Luong et al. 2015, section 4.1,
    and the biases always; ``forget_bias`` is added to those of the forget gate (Jozefowicz et al.
    2015 recommend 1).
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        *,
        kernel_init: Initializer = uniform,
        forget_bias: float = 0.0,
        rngs: nnx.Rngs,
    ):
        def made(init: Initializer, *shape: int) -> nnx.Param:
            return nnx.Param(init(rngs.params(), shape, jnp.float32))

        self.hidden_dim = hidden_dim
        self.input_kernel = made(kernel_init, input_dim, 4 * hidden_dim)
        self.recurrent_kernel = made(kernel_init, hidden_dim, 4 * hidden_dim)
        bias = uniform(rngs.params(), (4 * hidden_dim,))
        self.bias = nnx.Param(bias.at[hidden_dim : 2 * hidden_dim].add(forget_bias))

    def initial(self, batch: int, dtype: jnp.dtype) -> tuple[Array, Array]:
        """Return a zero cell and hidden state."""
        zeros = jnp.zeros((batch, self.hidden_dim), dtype)
        return zeros, zeros

    def project(self, inputs: Float[Array, "*steps D"]) -> Float[Array, "*steps G"]:
        """Return the input part of the four gates with biases, for any number of steps."""
        projected = jnp.einsum("...i,io->...o", inputs, self.input_kernel[...])
        return projected + jnp.broadcast_to(self.bias[...], projected.shape)

    def step(
        self,
        projected: Float[Array, "B G"],
        state: tuple[Float[Array, "B D"], Float[Array, "B D"]],
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """Run one step, given the projected input."""
        cell, hidden = state
        gates = projected + jnp.einsum("bi,io->bo", hidden, self.recurrent_kernel[...])
        entry, forget, candidate, output = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(entry) * jnp.tanh(candidate)
        return cell, jax.nn.sigmoid(output) * jnp.tanh(cell)

    def __call__(
        self,
        inputs: Float[Array, "B S D"],
        valid: Bool[Array, "B S"],
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B S D2"], tuple[Float[Array, "B D2"], Float[Array, "B D2"]]]:
        """Return the hidden states of all steps from a zero state, and the final (cell, hidden).

        With ``reverse`` the final state is that of the first token.
        """

        def body(state, step):
            projected, alive = step
            new = self.step(projected, state)
            state = jax.tree.map(lambda a, b: jnp.where(alive[:, None], a, b), new, state)
            return state, state[1]

        steps = (jnp.swapaxes(self.project(inputs), 0, 1), valid.T)
        initial = self.initial(inputs.shape[0], inputs.dtype)
        final, states = jax.lax.scan(body, initial, steps, reverse=reverse)
        return jnp.swapaxes(states, 0, 1), final


class BidirectionalLSTM(Module):
    """Two LSTMs, one of which reads in reverse; their states are concatenated."""

    def __init__(self, input_dim: int, hidden_dim: int, *, rngs: nnx.Rngs):
        self.forward = LSTM(input_dim, hidden_dim, rngs=rngs)
        self.backward = LSTM(input_dim, hidden_dim, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], valid: Bool[Array, "B T"]
    ) -> Float[Array, "B T D2"]:
        """Return the states of all tokens; those where ``valid`` is False are passed over."""
        ahead, _ = self.forward(x, valid)
        back, _ = self.backward(x[:, ::-1], valid[:, ::-1])
        return jnp.concatenate([ahead, back[:, ::-1]], axis=-1)
