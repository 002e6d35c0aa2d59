"""Local attention: Luong, Pham and Manning, EMNLP 2015 (arXiv 1508.04025), section 3.2.

Positions are 0-based; the window is ``[p_t - D, p_t + D]``, clipped to the sentence.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.contract import Attention, Memory, Positions
from attnzoo.attention.facts import Facts
from attnzoo.attention.multiplicative import MultiplicativeAttention, Score
from attnzoo.ops.softmax import compute_dtype, masked_softmax


class LocalAttention(Attention):
    """Multiplicative attention to the keys within ``window`` tokens of a centre."""

    counts_positions = True

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        score: Score = "general",
        *,
        window: int = 10,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.dim, self.window, self.dropout = query_dim, _half_width(window), dropout
        self.content = MultiplicativeAttention(query_dim, key_dim, score, rngs=rngs)

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.content.widths

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Prepare the keys for the content score."""
        return self.content.prepare_keys(keys)


class LocalMonotonicAttention(LocalAttention):
    """Luong's local-m: the window is centred at the query's own position, p_t = t.

    A query whose window lies entirely beyond the source gets zero weights and a zero context.
    """

    facts = Facts(
        paper="Luong et al. 2015",
        score="as multiplicative, near the query's position",
        softness="local",
        inputs=("distinctive",),
        time="T S D",
        memory="T S",
        state="2 S D",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        "every permitted key is reached": "keys outside of the window are not read",
        "queries are exchangeable": "the window moves with the query's position",
        "keys are exchangeable": "the window is one of positions",
    }

    def weigh(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None
    ) -> tuple[Float[Array, "B N T S"], Bool[Array, "#B #N #T #S"] | None]:
        """Return softmax weights within the window around ``positions``."""
        centre = _positions(query, positions).astype(jnp.float32)
        logits = self.content.scores(query, memory)
        window = jnp.abs(_offsets(centre, memory)) <= self.window
        visible = _both(window, memory.mask)
        return masked_softmax(logits, visible), visible


class LocalPredictiveAttention(LocalAttention):
    """Luong's local-p: the centre is predicted, p_t = S sigmoid(v_p . tanh(W_p q)) (equation 9).

    Inside the window the softmax weights are multiplied by exp(-(s - p_t)^2 / (2 (D/2)^2))
    (equation 10) and *not* renormalised, so rows sum to less than one. S is the number of keys a
    query may attend to, so the length of each sentence without padding. The gradient reaches v_p
    and W_p only through the Gaussian.
    """

    facts = Facts(
        paper="Luong et al. 2015",
        score="as multiplicative, near a predicted position",
        distribution="softmax times a Gaussian",
        softness="local",
        inputs=("distinctive",),
        time="T S D",
        memory="T S",
        state="2 S D",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        "rows sum to one": "local-p does not renormalise after the Gaussian (equation 10)",
        "every permitted key is reached": "keys outside of the window are not read",
        "keys are exchangeable": "the window and the Gaussian are of positions",
        "convex hull": "rows sum to less than one: the hull is that of the values and 0",
    }

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        score: Score = "general",
        *,
        window: int = 10,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(query_dim, key_dim, score, window=window, dropout=dropout, rngs=rngs)
        uniform = lambda shape: jax.random.uniform(rngs.params(), shape, jnp.float32, -0.1, 0.1)  # noqa: E731
        self.position_kernel = nnx.Param(uniform((query_dim, query_dim)))
        self.position_vector = nnx.Param(uniform((query_dim,)))

    def centre(self, query: Float[Array, "B T D"], memory: Memory) -> Float[Array, "B T"]:
        """Return p_t, a real number between 0 and the length of the sentence, in tokens."""
        hidden = jnp.tanh(jnp.einsum("btd,de->bte", query, self.position_kernel[...]))
        hidden = hidden.astype(compute_dtype(hidden))
        share = jax.nn.sigmoid(hidden @ self.position_vector[...].astype(hidden.dtype))
        if memory.mask is None:
            return memory.values.shape[1] * share
        length = jnp.sum(memory.mask[:, 0], axis=-1)  # B #T
        return length.astype(share.dtype) * share

    def weigh(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None
    ) -> tuple[Float[Array, "B N T S"], Bool[Array, "#B #N #T #S"] | None]:
        """Return the weights around the predicted centre; ``positions`` are ignored."""
        logits = self.content.scores(query, memory)
        offsets = _offsets(self.centre(query, memory), memory)
        visible = _both(jnp.abs(jax.lax.stop_gradient(offsets)) <= self.window, memory.mask)
        weights = masked_softmax(logits, visible)
        weights = weights * jnp.exp(-2.0 * jnp.square(offsets / self.window))
        return weights, visible


def _half_width(window: int) -> int:
    if window < 1:
        raise ValueError(f"window={window}; wanted a half-width of at least 1 token")
    return window


def _positions(query: Float[Array, "B T D"], positions: Positions | None) -> Positions:
    if positions is not None:
        return positions
    return jnp.arange(query.shape[1], dtype=jnp.int32)[None]


def _offsets(centre: Float[Array, "#B T"], memory: Memory) -> Float[Array, "#B 1 T S"]:
    """Return the signed distance of every key from the centre of the window, in tokens."""
    if memory.positions is None:
        keys = jnp.arange(memory.values.shape[1], dtype=centre.dtype)[None]
    else:
        keys = memory.positions.astype(centre.dtype)
    return (keys[:, None, :] - centre[:, :, None])[:, None]


def _both(
    window: Bool[Array, "#B 1 T S"], mask: Bool[Array, "#B #N #T #S"] | None
) -> Bool[Array, "#B #N T S"]:
    return window if mask is None else window & mask
