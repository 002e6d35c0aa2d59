"""The Synthesizer: Tay et al. 2021 (arXiv 2005.00743), logits that do not depend on keys."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.contract import Positions
from attnzoo.attention.facts import Facts
from attnzoo.attention.positional import (
    CONTENT_FREE,
    PROJECTED,
    SlotAttention,
    checked_rank,
    rows_of,
    truncated_normal,
)
from attnzoo.attention.projection import (
    Projection,
    cast_like,
    exact_quotient,
    glorot_per_head,
    split_heads,
)
from attnzoo.ops.masks import MaskFunction

Variant = Literal["dense", "factorised_dense", "random", "fixed_random", "factorised_random"]


class Synthesizer(SlotAttention):
    """Attention with synthesised logits in place of q . k (section 3 of the paper).

    - ``dense``: W_2 relu(W_1 x + b_1) + b_2 of each query token x, one logit per slot;
    - ``factorised_dense``: two short vectors a, b of x; logit of slot i is a[i // |b|] b[i % |b|],
      with |a| |b| = ``max_length`` as nearly square as it divides;
    - ``random``: a learned L x L matrix per head; ``fixed_random``: the same, never trained;
    - ``factorised_random``: R_1 R_2^T of ``rank`` (8 in the paper).

    The logits are not divided by sqrt(H). The random kinds do not depend on content, and serve
    self-attention only. ``mask_mod``, such as ``masks.causal()``, joins the mask of the call.
    """

    facts = Facts(
        paper="Tay et al. 2021",
        score="W₂ relu(W₁ q) at the position of the key",
        output="multi-head",
        causal="mask",
        time="T L D",
        memory="N T L",
        state="S D",
    )

    def __init__(
        self,
        dim: int,
        max_length: int,
        num_heads: int = 1,
        variant: Variant = "dense",
        *,
        value_dim: int | None = None,
        out_dim: int | None = None,
        rank: int = 8,
        mask_mod: MaskFunction | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if variant not in get_args(Variant):
            raise ValueError(f"variant={variant!r}; wanted one of {', '.join(get_args(Variant))}")
        head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        self.variant, self.max_length, self.num_heads = variant, max_length, num_heads
        self.dim, self.mask_mod, self.dropout = dim, mask_mod, dropout
        self.value = Projection(dim if value_dim is None else value_dim, dim, rngs=rngs)
        self.out = Projection(dim, dim if out_dim is None else out_dim, rngs=rngs)
        square = (num_heads, max_length, max_length)
        if variant == "dense":
            self.hidden = Projection(dim, dim, use_bias=True, rngs=rngs)
            self.kernel = nnx.Param(glorot_per_head(rngs, (num_heads, head_dim, max_length)))
            self.bias = nnx.Param(jnp.zeros((num_heads, max_length), jnp.float32))
        elif variant == "factorised_dense":
            self.coarse_length = _nearly_square(max_length)
            fine = max_length // self.coarse_length
            self.coarse = Projection(dim, num_heads * self.coarse_length, use_bias=True, rngs=rngs)
            self.fine = Projection(dim, num_heads * fine, use_bias=True, rngs=rngs)
        elif variant == "random":
            self.table = nnx.Param(truncated_normal(rngs, square, 1.0))
        elif variant == "fixed_random":
            self.table = nnx.Variable(truncated_normal(rngs, square, 1.0))
        else:
            shape, std = (num_heads, max_length, checked_rank(rank)), rank**-0.25
            self.query_factor = nnx.Param(truncated_normal(rngs, shape, std))
            self.key_factor = nnx.Param(truncated_normal(rngs, shape, std))

    @property
    def contract_exceptions(self) -> dict[str, str]:
        """Tests of the contract kit that do not apply, with the reason."""
        if "random" in self.variant:
            return PROJECTED | CONTENT_FREE
        return PROJECTED | {"keys are exchangeable": CONTENT_FREE["keys are exchangeable"]}

    def result(self, context: Float[Array, "B T Dv"]) -> Float[Array, "B T Do"]:
        """Apply the output projection to the concatenated heads."""
        return self.out(context)

    def slot_scores(
        self, query: Float[Array, "B T D"], slots: Positions
    ) -> Float[Array, "#B N T L"]:
        """Return one logit per slot; the random variants use only the slots of the queries."""
        B, T, _ = query.shape
        if self.variant == "dense":
            hidden = split_heads(jax.nn.relu(self.hidden(query)), self.num_heads)
            logits = jnp.einsum("btnh,nhl->bntl", hidden, cast_like(self.kernel, query))
            return logits + cast_like(self.bias, query)[None, :, None, :]
        if self.variant == "factorised_dense":
            coarse = split_heads(self.coarse(query), self.num_heads)
            fine = split_heads(self.fine(query), self.num_heads)
            outer = coarse[..., :, None] * fine[..., None, :]
            return jnp.swapaxes(outer.reshape(B, T, self.num_heads, self.max_length), 1, 2)
        if self.variant == "factorised_random":
            rows = rows_of(self.query_factor, slots, query)
            columns = self.key_factor[...].astype(rows.dtype)
            return jnp.einsum("bntr,nsr->bnts", rows, columns)
        return rows_of(self.table, slots, query)


def _nearly_square(length: int) -> int:
    """Return the largest divisor of ``length`` not above its square root."""
    return max(a for a in range(1, int(length**0.5) + 1) if length % a == 0)
