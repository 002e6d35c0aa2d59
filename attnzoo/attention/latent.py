"""Multi-head latent attention (MLA): DeepSeek-V2 2024 (arXiv 2405.04434), section 2.1."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.cache import Kind, next_slots, write
from attnzoo.attention.contract import (
    Attention,
    Memory,
    Positions,
    ReturnWeights,
    Site,
    nan_where_overflow,
)
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import (
    Projection,
    RMSNorm,
    cast_like,
    glorot_per_head,
    join_heads,
    split_heads,
)
from attnzoo.config.attention import LatentConfig
from attnzoo.ops.dot_product import dot_product_attention
from attnzoo.ops.index_functions import broadcast_index
from attnzoo.ops.masks import MaskFunction, evaluate_mask
from attnzoo.ops.padding import broadcast_mask, check_and_zero_padding
from attnzoo.ops.rotary import Rotary

INTERLEAVED = Rotary(layout="interleaved")


class LatentCache(NamedTuple):
    """Cache of [c ; k^R] per position: C = latent_dim + rotary_dim numbers."""

    latents: Float[Array, "B L C"]
    length: Int[Array, " B"]


class LatentAttention(Attention):
    """Attention with keys and values of all heads from one short latent c (equations 9 to 19).

        c = RMSNorm(x W_DKV),  k^R = RoPE(x W_KR);       k_n = [W_UK^n c ; k^R],  v_n = W_UV^n c
        q_n = [q^N_n ; RoPE(q^R_n)];       o_n = softmax(q_n . k_n / sqrt(d_n + d_r)) v_n

    ``prepare`` and the cache keep only c and k^R (shared by all heads). With ``absorbed=True`` W_UK
    is multiplied into the query, and W_UV applied after the sum, so that keys and values are never
    expanded: the same up to rounding, and cheaper for few queries and many keys, as in ``decode``.

    Args:
      latent_dim: d_c, the width of c. rotary_dim: d_r, even. head_dim: d_n, the part of a head
        without rotary embedding. value_dim: width of a head's values; ``head_dim`` if None.
      query_rank: width of a normalised latent between x and the queries; None: no such latent.
      key_dim, out_dim: widths of keys and of the result; ``dim`` if None.
      mask_mod: combined with the mask of the call, such as ``masks.causal()``.
      scale: factor on q . k; 1/sqrt(d_n + d_r) if None (with YaRN DeepSeek multiplies it further).
    """

    facts = Facts(
        paper="DeepSeek-AI 2024",
        score="(q · k + q_r · k_r) / √(H + d_r), k from a latent",
        output="multi-head",
        causal="mask",
        time="T S D; absorbed T S N (2 d_c + d_r)",
        memory="N T S",
        state="S (d_c + d_r)",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        "weights times values": "values are made of the keys' latents",
        "convex hull": "the hull is that of the values made of latents",
        "queries are exchangeable": "rotary embedding: positions count",
        "keys are exchangeable": "rotary embedding: positions count",
    }

    takes_perturbation = False
    supports = frozenset({"dropout", "rotary"})

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        latent_dim: int,
        rotary_dim: int,
        head_dim: int,
        value_dim: int | None = None,
        query_rank: int | None = None,
        key_dim: int | None = None,
        out_dim: int | None = None,
        rotary: Rotary = INTERLEAVED,
        mask_mod: MaskFunction | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if rotary_dim < 2 or rotary_dim % 2:
            raise ValueError(f"rotary_dim={rotary_dim}; wanted an even number of at least 2")
        value_dim = head_dim if value_dim is None else value_dim
        self.dim, self.key_dim = dim, dim if key_dim is None else key_dim
        self.num_heads, self.latent_dim, self.head_dim = num_heads, latent_dim, head_dim
        self.rotary, self.mask_mod, self.dropout = rotary, mask_mod, dropout
        self.scale = 1 / math.sqrt(head_dim + rotary_dim) if scale is None else scale
        query_width = num_heads * (head_dim + rotary_dim)
        if query_rank is None:
            self.query_down = self.query_norm = None
            self.query = Projection(dim, query_width, rngs=rngs)
        else:
            self.query_down = Projection(dim, query_rank, rngs=rngs)
            self.query_norm = RMSNorm(query_rank, rngs=rngs)
            self.query = Projection(query_rank, query_width, rngs=rngs)
        self.down = Projection(self.key_dim, latent_dim + rotary_dim, rngs=rngs)
        self.norm = RMSNorm(latent_dim, rngs=rngs)
        self.key_up = nnx.Param(glorot_per_head(rngs, (num_heads, head_dim, latent_dim)))
        self.value_up = nnx.Param(glorot_per_head(rngs, (num_heads, value_dim, latent_dim)))
        out_dim = dim if out_dim is None else out_dim
        self.out = Projection(num_heads * value_dim, out_dim, rngs=rngs)

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.dim, self.key_dim, self.key_dim

    @classmethod
    def from_config(cls, config: LatentConfig, site: Site, *, rngs: nnx.Rngs) -> Attention:
        """Build the module of a config line for its place in a model (see ``Attention``).

        ValueError if keys and values have different widths, or the model sets a rotary width.
        """
        if site.value_dim != site.key_dim:
            raise ValueError(
                "attention.kind='latent' makes keys and values of one vector, but keys have width "
                f"{site.key_dim} and values {site.value_dim}; model.reads='words' does not fit it"
            )
        rotary = INTERLEAVED
        if site.rotary is not None:
            if site.rotary.width is not None:
                raise ValueError(
                    f"rotary_width={site.rotary.width}, but the part of a head that turns is "
                    f"attention.rotary_dim={config.rotary_dim}; wanted rotary_width: null"
                )
            rotary = dataclasses.replace(site.rotary, layout="interleaved")
        # In ``__init__`` ``value_dim`` is the width of one head's values.
        return cls.by_name(config, site, rngs=rngs, rotary=rotary, value_dim=None)

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> Memory:
        """Return the memory [c ; k^R]; ``values`` other than the keys have latents of their own."""
        own = values is not None and values is not keys
        keys, values = check_and_zero_padding(keys, values, mask)
        placed = jnp.arange(keys.shape[1], dtype=jnp.int32)[None]
        latents = self._latents(keys, placed if positions is None else positions)
        c = self.norm(self.down(values)[..., : self.latent_dim]) if own else latents[..., :0]
        return Memory(latents, c, broadcast_mask(mask, keys))

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
        absorbed: bool = False,
    ) -> Any:
        """Read a prepared memory; ``absorbed=True`` does so without expanding keys and values."""
        B, T, _ = query.shape
        S = memory.keys.shape[1]
        placed = jnp.arange(T, dtype=jnp.int32)[None] if positions is None else positions
        x = query if self.query_down is None else self.query_down(query)
        x = x if self.query_norm is None else self.query_norm(x)
        q = split_heads(self.query(x), self.num_heads)
        q_plain, q_turning = q[..., : self.head_dim], q[..., self.head_dim :]
        q_turned = self.rotary(q_turning, placed, S)

        c = memory.keys[..., : self.latent_dim].astype(q.dtype)
        c_values = memory.values.astype(q.dtype) if memory.values.shape[2] else c
        k_turned = memory.keys[..., self.latent_dim :].astype(q.dtype)[:, :, None, :]
        key_up, value_up = cast_like(self.key_up, q), cast_like(self.value_up, q)
        if absorbed:
            q = jnp.concatenate([jnp.einsum("btnh,nhc->btnc", q_plain, key_up), q_turned], axis=-1)
            k = jnp.concatenate([c[:, :, None, :], k_turned], axis=-1)
            v = c_values[:, :, None, :]
        else:
            k_plain = jnp.einsum("nhc,bsc->bsnh", key_up, c)
            k_turned = jnp.broadcast_to(k_turned, (B, S, self.num_heads, k_turned.shape[3]))
            q = jnp.concatenate([q_plain, q_turned], axis=-1)
            k = jnp.concatenate([k_plain, k_turned], axis=-1)
            v = jnp.einsum("nvc,bsc->bsnv", value_up, c_values)

        visible = memory.mask
        if self.mask_mod is not None:
            mask_mod = self.mask_mod
            pattern = evaluate_mask(
                lambda b, n, q, k: mask_mod(
                    b, n, placed[broadcast_index(b, placed.shape[0]), q], k
                ),
                (B, self.num_heads, T, S),
            )
            visible = pattern if visible is None else visible & pattern
        result = dot_product_attention(
            q,
            k,
            v,
            visible,
            scale=self.scale,
            return_weights=return_weights,
            dropout_rate=0.0 if dropout_key is None else self.dropout,
            dropout_key=dropout_key,
        )
        out, *seen = result if return_weights else (result,)
        if absorbed:
            out = jnp.einsum("btnc,nvc->btnv", out, value_up)
        context = self.out(join_heads(out))
        return (context, *seen) if return_weights else context

    def empty_cache(
        self, batch: int, max_length: int, dtype: Any = jnp.float32, cache: Kind = "plain"
    ) -> LatentCache:
        """Return an empty cache of latents for ``max_length`` positions."""
        self.check_plain(cache)
        width = self.down.kernel.shape[1]
        zeros = jnp.zeros((batch, max_length, width), dtype)
        return LatentCache(zeros, jnp.zeros((batch,), jnp.int32))

    def decode(
        self,
        query: Float[Array, "B T D"],
        cache: LatentCache,
        *,
        mask: Bool[Array, "#B #N #T #L"] | None = None,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
    ) -> tuple[Any, LatentCache]:
        """Run causal self-attention for the next T positions, in absorbed form."""
        if self.key_dim != self.dim:
            raise ValueError(f"key_dim={self.key_dim}, but self-attention needs dim={self.dim}")
        self.rotary.check_cache()
        T, L = query.shape[1], cache.latents.shape[1]
        slots, past = next_slots(cache.length, T, L)
        placed = slots if positions is None else positions
        latents = write(cache.latents, self._latents(query, placed), cache.length)
        visible = past if mask is None else past & mask
        memory = Memory(latents, latents[..., :0], broadcast_mask(visible, latents))
        result = self.attend(
            query, memory, positions=placed, return_weights=return_weights, absorbed=True
        )
        result = nan_where_overflow(result, cache.length + T > L, return_weights)
        return result, LatentCache(latents, cache.length + T)

    def _latents(
        self, keys: Float[Array, "B S D"], positions: Int[Array, "#B S"]
    ) -> Float[Array, "B S C"]:
        down = self.down(keys)
        turning = down[..., None, self.latent_dim :]
        turned = self.rotary(turning, positions, keys.shape[1])[:, :, 0]
        # The norm comes before the cache, so that the cache holds what is multiplied.
        return jnp.concatenate([self.norm(down[..., : self.latent_dim]), turned], axis=-1)
