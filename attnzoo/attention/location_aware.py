"""Location-aware attention: Chorowski et al., NeurIPS 2015 (arXiv 1506.07503), section 2."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.contract import Memory
from attnzoo.attention.facts import Facts
from attnzoo.attention.in_order import InOrderAttention
from attnzoo.attention.projection import Initializer, cast_like
from attnzoo.ops.normalisers import Normalise
from attnzoo.ops.softmax import compute_dtype, masked_softmax

lecun_normal = jax.nn.initializers.lecun_normal()


class LocationAwareAttention(InOrderAttention):
    """Additive attention that also reads the weights of the query before (equations 8 and 9).

        f_t = F * alpha_{t-1};   e_ti = w . tanh(W q_t + V h_i + U f_ti + b)
        alpha_t = normalise(sharpening e_t) over the keys within the window

    F are ``filters`` filters of ``kernel`` keys, and alpha_0 is 0. One head, weights ``B 1 T S``.
    The order of the queries matters: a decoder calls ``extend`` and passes alpha on. A prefix of
    masked keys, as of padding on the left, changes nothing.

    Args:
      width: width of the hidden layer; ``query_dim`` if None.
      filters, kernel: number of filters, and keys that each spans; an odd number.
      normalise: function from scores and mask to weights: ``ops.normalisers.smoothing`` is that of
        section 2.3, which replaces the exponential by the sigmoid.
      sharpening: factor on the scores (section 2.2), 1 / temperature.
      window: largest distance, in keys, from the median of the weights before (section 2.2); the
        first query, and one after a query that saw no key, may read all. None: no window.
    """

    facts = Facts(
        paper="Chorowski et al. 2015",
        score="v · tanh(W q + U k + V f), f filters of the weights before",
        inputs=("distinctive",),
        time="T S (W + kernel filters)",
        memory="S W, T S",
        state="S (W + D + 1)",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        **InOrderAttention.contract_exceptions,
        "keys are exchangeable": "filters over the weights know which keys are neighbours",
    }

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        width: int | None = None,
        *,
        filters: int = 10,
        kernel: int = 201,
        normalise: Normalise = masked_softmax,
        sharpening: float = 1.0,
        window: int | None = None,
        kernel_init: Initializer = lecun_normal,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}; wanted an odd number of keys, centred at one")
        width = query_dim if width is None else width
        self.normalise, self.dropout = normalise, dropout
        self.sharpening, self.window = sharpening, window

        def init(*shape: int) -> nnx.Param:
            return nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))

        self.query_kernel = init(query_dim, width)  # W
        self.key_kernel = init(key_dim, width)  # V
        self.filters = init(kernel, filters)  # F
        self.location_kernel = init(filters, width)  # U
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.score_kernel = nnx.Param(
            jax.random.normal(rngs.params(), (width,), jnp.float32) * width**-0.5
        )

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.query_kernel.shape[0], self.key_kernel.shape[0], None

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Project the keys (V h_i + b), once for all queries."""
        projected = keys @ cast_like(self.key_kernel, keys)
        return projected + cast_like(self.bias, keys)[None, None]

    def empty_past(self, memory: Memory) -> Float[Array, "B S"]:
        """Return the weights before the first query: 0."""
        return jnp.zeros(memory.keys.shape[:2], compute_dtype(memory.keys))

    def after(
        self, query: Float[Array, "B T D"], memory: Memory, past: Float[Array, "B S"]
    ) -> tuple[Float[Array, "B 1 T S"], Bool[Array, "B 1 T S"], Float[Array, "B S"]]:
        """Return weights, visible keys and the past, the weights of the last query."""
        T = query.shape[1]
        projected = jnp.einsum("btd,dw->tbw", query, cast_like(self.query_kernel, query))
        masks = self.seen(memory, T)[:, 0]

        def body(past: Array, step: tuple[Array, Array]) -> tuple[Array, Any]:
            query, seen = step
            if self.window is not None:
                seen = seen & within(past, self.window)
            located = self._located(past).astype(memory.keys.dtype)
            hidden = jnp.tanh(query[:, None] + memory.keys + located)
            logits = hidden @ cast_like(self.score_kernel, hidden)
            weights = self.normalise(self.sharpening * logits, seen)
            return weights.astype(past.dtype), (weights, seen)

        steps = projected, jnp.moveaxis(masks, 1, 0)
        past, (weights, seen) = jax.lax.scan(body, past, steps)
        return jnp.moveaxis(weights, 0, 1)[:, None], jnp.moveaxis(seen, 0, 1)[:, None], past

    def _located(self, past: Float[Array, "B S"]) -> Float[Array, "B S W"]:
        """Return U f_i of every key: what the filters make of the weights before."""
        found = jax.lax.conv_general_dilated(
            past[:, :, None],
            self.filters[...].astype(past.dtype)[:, None],
            (1,),
            "SAME",
            dimension_numbers=("NHC", "HIO", "NHC"),
        )
        return found @ self.location_kernel[...].astype(past.dtype)


def within(past: Float[Array, "B S"], window: int) -> Bool[Array, "B S"]:
    """Return True for keys at most ``window`` from the median of weights; all if these are 0."""
    total = jnp.cumsum(past, axis=1)
    median = jnp.argmax(2 * total >= total[:, -1:], axis=1)
    places = jnp.arange(past.shape[1], dtype=median.dtype)[None]
    return (jnp.abs(places - median[:, None]) <= window) | (total[:, -1:] == 0)
