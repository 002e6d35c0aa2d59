"""Multiplicative attention: Luong, Pham and Manning, EMNLP 2015 (arXiv 1508.04025), section 3.1."""

from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.contract import Asked, Attention, Memory, Read, hold, read, spread
from attnzoo.ops.normalisers import Normalise
from attnzoo.ops.softmax import masked_softmax

Score = Literal["dot", "scaled_dot", "general", "concat"]


class MultiplicativeAttention(Attention):
    """Luong's content-based scores; ``score`` is one of

    - ``dot``: q . k (equal widths, no 1/sqrt(D) in the paper);
    - ``scaled_dot``: q . k / sqrt(D) (Vaswani et al. 2017, eq. 1, without projections);
    - ``general``: q . W_a k;
    - ``concat``: v_a . tanh(W_a [q ; k]). All of W_a is learned here; the paper's own weak result
      comes from a block that was fixed to the identity.

    Weights W_a and v_a start uniform in [-0.1, 0.1] (section 4.1). One head, weights ``B 1 T S``.
    ``concat`` has ``width`` hidden units (``query_dim`` if None); the other scores have no width.
    ``normalise`` makes weights of logits and mask: ``sparsemax`` and ``entmax15`` are others.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        score: Score = "general",
        *,
        width: int | None = None,
        normalise: Normalise = masked_softmax,
        rngs: nnx.Rngs,
    ):
        self.normalise = normalise
        if score not in get_args(Score):
            raise ValueError(f"score={score!r}; wanted one of {', '.join(get_args(Score))}")
        if score in ("dot", "scaled_dot") and query_dim != key_dim:
            raise ValueError(
                f"score={score!r} needs equal widths, but query_dim={query_dim} and "
                f"key_dim={key_dim}; score='general' takes unequal ones"
            )
        self.score = score
        init = _uniform
        if score == "general":
            self.kernel = nnx.Param(init(rngs.params(), (query_dim, key_dim)))
        elif score == "concat":
            width = query_dim if width is None else width
            self.query_kernel = nnx.Param(init(rngs.params(), (query_dim, width)))
            self.key_kernel = nnx.Param(init(rngs.params(), (key_dim, width)))
            self.score_kernel = nnx.Param(init(rngs.params(), (width,)))

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
    ) -> Memory:
        """Apply what depends on the keys alone: W_a k (general), the key half of W_a (concat)."""
        keys, values = hold(keys, values, mask)
        if self.score == "general":
            keys = keys @ self.kernel[...].T
        elif self.score == "concat":
            keys = keys @ self.key_kernel[...]
        return Memory(keys, values, spread(mask, keys))

    def scores(self, query: Float[Array, "B T D"], memory: Memory) -> Float[Array, "B 1 T S"]:
        """Logits before mask and softmax."""
        if self.score == "concat":
            projected = jnp.einsum("btd,dw->btw", query, self.query_kernel[...])
            hidden = jnp.tanh(projected[:, :, None, :] + memory.keys[:, None, :, :])
            return (hidden @ self.score_kernel[...])[:, None]
        if self.score == "scaled_dot":
            query = query * query.shape[-1] ** -0.5
        return jnp.einsum("btd,bsd->bts", query, memory.keys)[:, None]

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Int[Array, "B T"] | None = None,
        return_weights: Asked = False,
    ) -> Read:
        """Read a prepared memory. ``positions`` is ignored: the score is content alone."""
        weights = self.normalise(self.scores(query, memory), memory.mask)
        return read(weights, memory, return_weights)


class LocationAttention(Attention):
    """Luong's location-based function (eq. 8): weights = softmax(W_a q), whatever the keys hold.

    The length is a parameter: W_a has ``max_length`` columns, cut to S. Longer keys are an error.
    """

    contract_exceptions: ClassVar[dict[str, str]] = {
        "keys are exchangeable": "weights belong to positions, not to keys",
    }

    def __init__(self, query_dim: int, max_length: int, *, rngs: nnx.Rngs):
        self.max_length = max_length
        self.kernel = nnx.Param(_uniform(rngs.params(), (query_dim, max_length)))

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
    ) -> Memory:
        """Nothing to project: only the values and the mask matter."""
        if keys.shape[1] > self.max_length:
            raise ValueError(
                f"keys has length S={keys.shape[1]}, but location-based attention was built for "
                f"max_length={self.max_length}; raise max_length or shorten the source"
            )
        keys, values = hold(keys, values, mask)
        return Memory(keys, values, spread(mask, keys))

    def scores(self, query: Float[Array, "B T D"], memory: Memory) -> Float[Array, "B 1 T S"]:
        """Logits before mask and softmax."""
        return jnp.einsum("btd,dl->btl", query, self.kernel[...])[
            :, None, :, : memory.values.shape[1]
        ]

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Int[Array, "B T"] | None = None,
        return_weights: Asked = False,
    ) -> Read:
        """Read a prepared memory. ``positions`` is ignored: the query says where to look."""
        weights = masked_softmax(self.scores(query, memory), memory.mask)
        return read(weights, memory, return_weights)


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -0.1, 0.1)
