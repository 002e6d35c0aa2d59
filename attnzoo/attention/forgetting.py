"""Forgetting attention (FoX): causal softmax attention whose scores decay by learned gates."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention import cache as caches
from attnzoo.attention.contract import Memory, Positions, Site, joined
from attnzoo.attention.facts import Facts
from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import Initializer, Projection, glorot_uniform
from attnzoo.ops.index_functions import as_four_axes
from attnzoo.ops.linear.fast_weights import check_key_mask
from attnzoo.ops.masks import MaskFunction, causal, padding
from attnzoo.ops.rotary import Rotary
from attnzoo.ops.score_mods import ScoreFunction, forget
from attnzoo.ops.softmax import compute_dtype, zero_unattended


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GatedMemory(Memory):
    """Keys and values with the log forget gate of each position, 0 at padding."""

    log_gates: Float[Array, "B S N"] | None = None


class GatedCache(NamedTuple):
    """Key/value cache with the log forget gates of its positions."""

    own: Any
    log_gates: Float[Array, "B L N"]


class ForgettingAttention(MultiHeadAttention):
    """o_i = sum_j softmax_j(q_i . k_j / sqrt(H) + d_ij) v_j,  d_ij = sum_{l = j+1 .. i} log f_l.

    The Forgetting Transformer (FoX): Lin et al. 2025, arXiv 2503.02130, equations 4 to 7. The
    forget gate f_l = sigmoid(w_n . x_l + b_n) is one number per head and position; d is the
    difference of two cumulative sums, in float32 or wider. Query i sees keys 0 .. i of its own
    sequence, and needs no embedding of positions. The output gate and norm, and the shift of keys
    and values, of the paper's "Pro" block are left out.

    A mask given as an array may only mark padding (``valid[:, None, None, :]``): padding has gate 1
    and delays nothing. A mask function (``ops.masks``) may hide any keys; a position that may not
    see itself counts as padding. See ``MultiHeadAttention`` for the arguments.
    """

    facts = Facts(
        paper="Lin et al. 2025",
        score="q · k / √H + the sum of log forget gates between them",
        inputs=("self",),
        output="multi-head",
        causal="mask",
        time="T² D",
        memory="N T²",
        state="2 S K H + S N",
    )

    supports = MultiHeadAttention.supports - {"grid_rotary"}
    always_causal = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        use_bias: bool = False,
        out_bias: bool | None = None,
        kernel_init: Initializer = glorot_uniform,
        out_init: Initializer = glorot_uniform,
        qk_norm: Any = None,
        rotary: Rotary | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            dim,
            num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            use_bias=use_bias,
            out_bias=out_bias,
            kernel_init=kernel_init,
            out_init=out_init,
            qk_norm=qk_norm,
            rotary=rotary,
            mask_mod=causal(),
            scale=scale,
            dropout=dropout,
            rngs=rngs,
        )
        self.forget = Projection(dim, num_heads, use_bias=True, rngs=rngs)

    @classmethod
    def from_config(cls, config: Any, site: Site, *, rngs: nnx.Rngs) -> Any:
        """Build the module of a config line for its place in a model (see ``Attention``)."""
        return cls.built(config, site, rngs=rngs)

    @property
    def contract_exceptions(self) -> dict[str, str]:
        """Tests of the contract kit that do not apply, with the reason."""
        moved = "a score depends on the gates between query and key"
        return {
            **super().contract_exceptions,
            "a mask for each query": "padding is that of all queries: its gates are open",
            "long sequences": "gates of 1/2 let nothing through over 128 positions, in float32",
            "queries are exchangeable": moved,
            "keys are exchangeable": moved,
        }

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N 1 S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> GatedMemory:
        """Project keys and values, and compute the forget gates of their positions."""
        memory = super().prepare(keys, values, mask=mask, positions=positions)
        check_key_mask(mask, keys.shape[0], self.num_heads, keys.shape[1])
        gates = self._log_gates(keys, mask)
        return GatedMemory(memory.keys, memory.values, memory.mask, memory.positions, gates)

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        mask_mod: MaskFunction | None = None,
        score_mod: ScoreFunction | None = None,
        **reading: Any,
    ) -> Any:
        """Read a prepared memory with T queries, at its positions 0 .. T-1 or ``positions``."""
        assert isinstance(memory, GatedMemory)
        assert memory.log_gates is not None
        B, S, N = memory.log_gates.shape
        if query.shape[1] > S:
            raise ValueError(
                f"query has length T={query.shape[1]} and keys have S={S}; {type(self).__name__} "
                "is causal: query i reads what stands at 0 .. i of its own sequence"
            )
        gates = memory.log_gates
        if mask_mod is not None:
            at = jnp.arange(S, dtype=jnp.int32)[None, None, None]
            row, head = (jnp.arange(n, dtype=jnp.int32) for n in (B, N))
            real = mask_mod(row[:, None, None, None], head[None, :, None, None], at, at)
            gates = _open(gates, as_four_axes(real, (B, N, 1, S)))
        modified = self._forgetting(gates, score_mod)
        return super().attend(query, memory, mask_mod=mask_mod, score_mod=modified, **reading)

    def self_mask(
        self,
        x: Float[Array, "B T D"],
        *,
        is_causal: bool,
        valid: Bool[Array, "B T"] | None,
        mask: MaskFunction | None,
    ) -> MaskFunction | None:
        """Return the mask of padding and documents; the causal rule is the module's own."""
        return joined(None if valid is None else padding(valid), mask)

    def empty_cache(
        self, batch: int, max_length: int, dtype: Any = jnp.float32, cache: caches.Kind = "plain"
    ) -> Any:
        """Return an empty cache of keys, values and gates for ``max_length`` positions."""
        self.check_plain(cache)
        own: Any = super().empty_cache(batch, max_length, dtype)
        gates = jnp.zeros((batch, max_length, self.num_heads), compute_dtype(own.keys))
        return GatedCache(own, gates)

    def decode(
        self,
        query: Float[Array, "B T D"],
        cache: Any,
        *,
        mask: Bool[Array, "#B #N 1 L"] | None = None,
        positions: Positions | None = None,
        score_mod: ScoreFunction | None = None,
        **reading: Any,
    ) -> tuple[Any, Any]:
        """Run self-attention for the next T positions (see ``MultiHeadAttention``)."""
        (B, T), L = query.shape[:2], cache.log_gates.shape[1]
        check_key_mask(mask, B, self.num_heads, L)
        length, here = cache.own.length, None
        if mask is not None:
            slots = length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
            wide = jnp.broadcast_to(mask, (B, *mask.shape[1:3], L))
            here = jnp.take_along_axis(wide, slots[:, None, None], axis=3, mode="clip")
        new = self._log_gates(query, here)
        gates = caches.write(cache.log_gates, new, length)
        modified = self._forgetting(gates, score_mod)
        result, own = super().decode(
            query, cache.own, mask=mask, positions=positions, score_mod=modified, **reading
        )
        return result, GatedCache(own, gates)

    def _log_gates(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "#B #N 1 S"] | None
    ) -> Float[Array, "B S N"]:
        x = zero_unattended(x, mask)
        gates = jax.nn.log_sigmoid(self.forget(x.astype(compute_dtype(x))))
        return gates if mask is None else _open(gates, mask)

    def _forgetting(
        self, log_gates: Float[Array, "B S N"], score_mod: ScoreFunction | None
    ) -> ScoreFunction:
        """Return the modifier of the gates, after the given one or the module's own."""
        score_mod = self.score_mod if score_mod is None else score_mod
        forgetting = forget(log_gates)
        if score_mod is None:
            return forgetting
        first = score_mod
        return lambda score, b, n, q, k: forgetting(first(score, b, n, q, k), b, n, q, k)


def _open(
    log_gates: Float[Array, "B S N"], real: Bool[Array, "#B #N 1 #S"]
) -> Float[Array, "B S N"]:
    """Return log gates that are 0 where a position is padding."""
    return jnp.where(jnp.moveaxis(real[:, :, 0], 1, 2), log_gates, jnp.zeros_like(log_gates))
