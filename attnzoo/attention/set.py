"""Attention for sets: the Set Transformer's blocks and Perceiver-style cross-attention.

Lee et al. 2019 (arXiv 1810.00825); Jaegle et al. 2021 (arXiv 2103.03206).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.contract import Attention, Memory, Positions, ReturnWeights
from attnzoo.attention.facts import Facts
from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import LayerNorm, Projection
from attnzoo.module import Module

SetMask = Bool[Array, "#B 1 1 #S"]


class MAB(Attention):
    """Multihead attention block: LN(H + rFF(H)) with H = LN(X + MultiHead(X, Y, Y)) (eqs. 6, 7).

    rFF is ReLU(H W + b) W' + b', on each row. X is the query and Y the keys; ``SAB(X) = MAB(X, X)``
    (eq. 8). A row that may attend nowhere is not 0, since X is added.
    """

    facts = Facts(
        paper="Lee et al. 2019",
        score="q · k / √D",
        output="multi-head",
        time="T S D",
        memory="N T S",
        state="2 S D",
    )

    takes_perturbation = False
    supports = frozenset()
    contract_exceptions: ClassVar[dict[str, str]] = {
        "fully masked rows": "the query is added to what was read: it remains",
        "weights times values": "a block: attention, residual, norm and feed-forward",
        "convex hull": "a block: attention, residual, norm and feed-forward",
    }

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        key_dim: int | None = None,
        ff_dim: int | None = None,
        rngs: nnx.Rngs,
    ):
        ff_dim = dim if ff_dim is None else ff_dim
        self.dim, self.num_heads = dim, num_heads
        self.attention = MultiHeadAttention(dim, num_heads, key_dim=key_dim, rngs=rngs)
        self.attention_norm = LayerNorm(dim, rngs=rngs)
        self.hidden = Projection(dim, ff_dim, use_bias=True, rngs=rngs)
        self.out = Projection(ff_dim, dim, use_bias=True, rngs=rngs)
        self.out_norm = LayerNorm(dim, rngs=rngs)

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.attention.widths

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> Memory:
        """Prepare the keys Y."""
        return self.attention.prepare(keys, values, mask=mask)

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Any:
        """Read a prepared memory; ``positions`` are ignored, since a set has none."""
        result = self.attention.attend(
            query, memory, return_weights=return_weights, dropout_key=dropout_key
        )
        read, *seen = result if return_weights else (result,)
        hidden = self.attention_norm(query + read)
        forward = self.out(jax.nn.relu(self.hidden(hidden)))
        context = self.out_norm(hidden + forward)
        return (context, *seen) if return_weights else context


class ISAB(Module):
    """Induced set attention: MAB(X, MAB(I, X)) with m learned points I, in O(T m) (eqs. 9, 10).

    Equivariant: permuting the elements permutes the results.
    """

    def __init__(self, dim: int, num_heads: int, num_points: int, *, rngs: nnx.Rngs):
        self.points = nnx.Param(_learned(rngs, num_points, dim))
        self.gather = MAB(dim, num_heads, rngs=rngs)
        self.spread = MAB(dim, num_heads, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        *,
        mask: SetMask | None = None,
        return_weights: ReturnWeights = False,
    ) -> Any:
        """Apply the block, ``B S D`` -> ``B S D``.

        ``mask`` is ``valid[:, None, None]``, False at padding. ``return_weights`` adds the weights
        of both steps, ``B N m S`` and ``B N S m``, or a report of each. Their product is not the
        influence of one element on another, because there is a nonlinear block in between.
        """
        points = _repeat(self.points, x)
        if not return_weights:
            return self.spread(x, self.gather(points, x, mask=mask))
        gathered, into = self.gather(points, x, mask=mask, return_weights=return_weights)
        spread, back = self.spread(x, gathered, return_weights=return_weights)
        return spread, (into, back)


class PMA(Module):
    """Pooling by attention: MAB(S, rFF(Z)) with k learned seeds S (eq. 11); invariant."""

    def __init__(self, dim: int, num_heads: int, num_seeds: int = 1, *, rngs: nnx.Rngs):
        self.seeds = nnx.Param(_learned(rngs, num_seeds, dim))
        self.hidden = Projection(dim, dim, use_bias=True, rngs=rngs)
        self.out = Projection(dim, dim, use_bias=True, rngs=rngs)
        self.pool = MAB(dim, num_heads, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        *,
        mask: SetMask | None = None,
        return_weights: ReturnWeights = False,
    ) -> Any:
        """Pool ``B S D`` to ``B k D``, with the weights ``B N k S`` if ``return_weights``."""
        x = self.out(jax.nn.relu(self.hidden(x)))
        return self.pool(_repeat(self.seeds, x), x, mask=mask, return_weights=return_weights)


class LatentReader(Module):
    """Perceiver's cross-attention: k learned latents read an input of any length and width.

    Jaegle et al. 2021, section 3.1 and appendix: pre-norm, Z <- Z + MHA(LN(Z), LN(x)), then
    Z <- Z + MLP(LN(Z)) with GELU. Cost O(k S). Where all inputs are masked, attention adds nothing
    to the latents.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_latents: int,
        *,
        input_dim: int,
        ff_dim: int | None = None,
        rngs: nnx.Rngs,
    ):
        ff_dim = dim if ff_dim is None else ff_dim
        self.latents = nnx.Param(_learned(rngs, num_latents, dim, std=0.02))
        self.latent_norm = LayerNorm(dim, rngs=rngs)
        self.input_norm = LayerNorm(input_dim, rngs=rngs)
        self.attention = MultiHeadAttention(dim, num_heads, key_dim=input_dim, rngs=rngs)
        self.hidden_norm = LayerNorm(dim, rngs=rngs)
        self.hidden = Projection(dim, ff_dim, use_bias=True, rngs=rngs)
        self.out = Projection(ff_dim, dim, use_bias=True, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B S C"],
        *,
        latents: Float[Array, "B k D"] | None = None,
        mask: SetMask | None = None,
        return_weights: ReturnWeights = False,
    ) -> Any:
        """Read ``B S C`` into ``latents``, ``B k D``; into the learned ones if None."""
        z = _repeat(self.latents, x) if latents is None else latents
        keys = self.input_norm(x)
        result = self.attention(self.latent_norm(z), keys, mask=mask, return_weights=return_weights)
        read, *seen = result if return_weights else (result,)
        z = z + read
        z = z + self.out(jax.nn.gelu(self.hidden(self.hidden_norm(z))))
        return (z, *seen) if return_weights else z


def _learned(rngs: nnx.Rngs, count: int, dim: int, std: float = 1.0) -> Float[Array, "m D"]:
    if count < 1:
        raise ValueError(f"wanted at least one learned vector, got {count}")
    return std * jax.random.normal(rngs.params(), (count, dim), jnp.float32)


def _repeat(learned: nnx.Param, x: Float[Array, "B S C"]) -> Float[Array, "B m D"]:
    vectors = learned[...].astype(x.dtype)
    return jnp.broadcast_to(vectors[None], (x.shape[0], *vectors.shape))
