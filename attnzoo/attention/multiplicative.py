"""Multiplicative attention: Luong, Pham and Manning, EMNLP 2015 (arXiv 1508.04025), section 3.1."""

from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.contract import Attention, Memory, Positions, columns_of
from attnzoo.attention.facts import Facts
from attnzoo.ops.normalisers import Normalise
from attnzoo.ops.softmax import masked_softmax

Score = Literal["dot", "scaled_dot", "general", "concat"]


class MultiplicativeAttention(Attention):
    """Multiplicative attention with one of Luong's content-based scores.

    - ``dot``: q . k (equal widths, no 1/sqrt(D) in the paper);
    - ``scaled_dot``: score = q . k / sqrt(D) (Vaswani et al. 2017, eq. 1, without projections);
    - ``general``: q . W_a k;
    - ``concat``: v_a . tanh(W_a [q ; k]). All of W_a is learned here; in the paper a block of it
      was fixed to the identity, which explains the weak result reported there.

    W_a and v_a start uniform in [-0.1, 0.1] (section 4.1). One head, weights ``B 1 T S``. ``width``
    is the number of hidden units of ``concat`` (``query_dim`` if None). ``normalise`` maps logits
    and mask to weights, such as ``sparsemax`` or ``entmax15``; softmax by default.
    """

    facts = Facts(
        paper="Luong et al. 2015",
        score="q · k, q · k / √D, q · W k or v · tanh(W [q ; k])",
        causal="mask",
        time="T S D",
        memory="T S",
        state="2 S D",
    )

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        score: Score = "general",
        *,
        width: int | None = None,
        normalise: Normalise = masked_softmax,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.dim, self.normalise, self.dropout = query_dim, normalise, dropout
        if score not in get_args(Score):
            raise ValueError(f"score={score!r}; wanted one of {', '.join(get_args(Score))}")
        if score in ("dot", "scaled_dot") and query_dim != key_dim:
            raise ValueError(
                f"score={score!r} needs equal widths, but query_dim={query_dim} and "
                f"key_dim={key_dim}; score='general' takes unequal ones"
            )
        self.score, self.key_dim = score, key_dim
        init = _uniform
        if score == "general":
            self.kernel = nnx.Param(init(rngs.params(), (query_dim, key_dim)))
        elif score == "concat":
            width = query_dim if width is None else width
            self.query_kernel = nnx.Param(init(rngs.params(), (query_dim, width)))
            self.key_kernel = nnx.Param(init(rngs.params(), (key_dim, width)))
            self.score_kernel = nnx.Param(init(rngs.params(), (width,)))

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.dim, self.key_dim, None

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Apply the projection of the keys: W_a k (general), or the key half of W_a (concat)."""
        if self.score == "general":
            return keys @ self.kernel[...].T
        return keys @ self.key_kernel[...] if self.score == "concat" else keys

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B 1 T S"]:
        """Return the logits before mask and softmax; ``positions`` have no effect."""
        if self.score == "concat":
            projected = jnp.einsum("btd,dw->btw", query, self.query_kernel[...])
            hidden = jnp.tanh(projected[:, :, None, :] + memory.keys[:, None, :, :])
            return (hidden @ self.score_kernel[...])[:, None]
        if self.score == "scaled_dot":
            query = query * query.shape[-1] ** -0.5
        return jnp.einsum("btd,bsd->bts", query, memory.keys)[:, None]


class LocationAttention(Attention):
    """Luong's location-based function (eq. 8): weights = softmax(W_a q), independent of the keys.

    W_a has ``max_length`` columns, of which the first S are used. More keys are a ValueError.
    """

    facts = Facts(
        paper="Luong et al. 2015",
        score="W q at the position of the key",
        inputs=("distinctive",),
        time="T L D",
        memory="T L",
        state="S D",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        "keys are exchangeable": "weights belong to positions, not to keys",
    }

    asks_keys = False
    counts_positions = True

    def __init__(self, query_dim: int, max_length: int, *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.dim, self.max_length, self.dropout = query_dim, max_length, dropout
        self.kernel = nnx.Param(_uniform(rngs.params(), (query_dim, max_length)))

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Return the keys unchanged; raise a ValueError if there are more than ``max_length``."""
        if keys.shape[1] > self.max_length:
            raise ValueError(
                f"keys has length S={keys.shape[1]}, but location-based attention was built for "
                f"max_length={self.max_length}; raise max_length or shorten the source"
            )
        return keys

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B 1 T S"]:
        """Return the logits before mask and softmax, which depend on the query only."""
        logits = jnp.einsum("btd,dl->btl", query, self.kernel[...])[:, None]
        return columns_of(logits, memory.values.shape[1], memory.positions)


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -0.1, 0.1)
