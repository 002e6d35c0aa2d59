"""LSH attention of the Reformer: Kitaev, Kaiser and Levskaya 2020 (arXiv 2001.04451)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.contract import (
    Attention,
    AttentionOutput,
    Memory,
    Positions,
    ReturnWeights,
)
from attnzoo.attention.cosine import CosineAttention
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Projection, exact_quotient, join_heads, split_heads
from attnzoo.ops.checks import check_dropout
from attnzoo.ops.dropout import dropout_keep_mask, seed_of
from attnzoo.ops.lsh import SortedKeys, buckets_of, candidates, sort_keys
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.padding import broadcast_mask, check_and_zero_padding
from attnzoo.ops.softmax import compute_dtype, masked_softmax
from attnzoo.ops.weights import BLOCK, row_blocks, unblock, with_weights

ITSELF = -1e5
"""Score of a query's own key, which is read only where there is no other (section 2)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HashedMemory(Memory):
    """Keys of length 1, values, mask and positions, with the keys sorted by bucket."""

    positions: Int[Array, "B S"]
    by_bucket: SortedKeys = dataclasses.field(kw_only=True)


class LSHAttention(Attention):
    """context = softmax(q_t . k_s) v_s over keys s in a bucket of t, k_s = q_s / |q_s|.

    Section 2 of the paper: queries and keys share one projection (``query``), and a random rotation
    hashes both to ``num_buckets`` buckets by direction. In each of ``rounds`` a query reads the
    ``chunk`` keys around it of its bucket and the chunk before, in the order of positions; the
    softmax runs over what all rounds find. Its own key it reads only if there is no other. The
    rotations come from ``seed`` and are the same in all heads and layers.

    Time grows with T rounds (chunk H + log S), not T S. Unlike in the paper each bucket begins a
    chunk of its own, so that what a query reads depends on earlier keys of its bucket alone under a
    causal mask: a sequence decodes to what it was taught, and padding changes nothing. For
    self-attention; packed documents are refused.
    """

    facts = Facts(
        paper="Kitaev et al. 2020",
        score="q · k / |k| in the same hash bucket",
        softness="local",
        inputs=("self",),
        output="multi-head",
        causal="mask",
        time="T R (m D + N b)",
        memory="T R (m + N b)",
        state="S D",
    )

    takes_perturbation = False
    counts_positions = True
    heads_split_values = True
    contract_exceptions: ClassVar[dict[str, str]] = {
        **CosineAttention.contract_exceptions,
        "rows sum to one": "a query whose bucket has no key reads nothing",
        "every permitted key is reached": "keys of other buckets are not read",
        "queries are exchangeable": "a query reads the chunk of its position, without itself",
        "keys are exchangeable": "chunks are cut in the order of positions",
    }

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_buckets: int = 8,
        chunk: int = 16,
        rounds: int = 2,
        seed: int = 0,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if num_buckets < 2 or num_buckets % 2 or num_buckets > 2000:
            raise ValueError(f"num_buckets={num_buckets}; wanted an even number from 2 to 2000")
        for name, number in (("chunk", chunk), ("rounds", rounds)):
            if number < 1:
                raise ValueError(f"{name}={number}; wanted at least 1")
        exact_quotient("dim", dim, "num_heads", num_heads)
        self.dim, self.num_heads, self.dropout = dim, num_heads, dropout
        self.num_buckets, self.chunk, self.rounds, self.seed = num_buckets, chunk, rounds, seed
        self.query, self.value, self.out = (Projection(dim, dim, rngs=rngs) for _ in range(3))

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit: all ``dim``."""
        return self.dim, self.dim, self.dim

    def self_mask(
        self,
        x: Float[Array, "B T D"],
        *,
        is_causal: bool,
        valid: Bool[Array, "B T"] | None,
        mask: MaskFunction | None,
    ) -> Any:
        """Return the causal and padding mask; NotImplementedError if any other mask is given."""
        if mask is not None:
            raise NotImplementedError(
                f"mask={mask!r}: LSHAttention sorts the keys of a whole row; packed documents want "
                "attention.kind=multi_head, or training without packing"
            )
        return super().self_mask(x, is_causal=is_causal, valid=valid, mask=None)

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> HashedMemory:
        """Hash and sort the keys; a key hidden from every query of the call counts in no chunk."""
        keys, values = check_and_zero_padding(keys, values, mask)
        B, S = keys.shape[:2]
        k = self._directions(keys)
        mask = broadcast_mask(mask, keys)
        valid = jnp.ones((1, 1, S), bool) if mask is None else jnp.any(mask, axis=2)
        positions = jnp.arange(S, dtype=jnp.int32)[None] if positions is None else positions
        places = jnp.broadcast_to(positions, (B, S))
        buckets = buckets_of(k, self.num_buckets, self.rounds, self.seed)
        by_bucket = sort_keys(buckets, places, valid, self.num_buckets, self.chunk)
        unit = join_heads(k).astype(keys.dtype)
        return HashedMemory(unit, self.value(values), mask, places, by_bucket=by_bucket)

    def _directions(self, x: Float[Array, "B L D"]) -> Float[Array, "B L N H"]:
        """Project and divide each head by its length, in float32; a zero vector stays zero."""
        q = split_heads(self.query(x), self.num_heads)
        wide = q.astype(compute_dtype(q))
        return wide * jax.lax.rsqrt(jnp.sum(wide**2, axis=-1, keepdims=True) + 1e-12)

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
    ) -> AttentionOutput:
        """Read a hashed memory, at most ``ops.weights.BLOCK`` queries at once."""
        assert isinstance(memory, HashedMemory)
        if dropout_key is not None:
            check_dropout(self.dropout, dropout_key)
        B, T = query.shape[:2]
        q = split_heads(self.query(query), self.num_heads)
        buckets = buckets_of(self._directions(query), self.num_buckets, self.rounds, self.seed)
        places = jnp.arange(T, dtype=jnp.int32)[None] if positions is None else positions
        places = jnp.broadcast_to(places, (B, T))

        def read(rows: Int[Array, " rows"]) -> tuple[Array, ...]:
            given = q[:, rows], buckets[..., rows], places[:, rows], rows
            return self._read(*given, memory, bool(return_weights), dropout_key)

        if T <= BLOCK:
            context, *weights = read(jnp.arange(T, dtype=jnp.int32))
        else:
            context, *weights = jax.lax.map(jax.checkpoint(read), row_blocks(T))
            context = unblock(context, 1, T)
            weights = [unblock(x, 2, T) for x in weights]
        context = self.out(join_heads(context))
        return with_weights(context, weights[0], return_weights) if weights else context

    def _read(
        self,
        q: Float[Array, "B T N H"],
        buckets: Int[Array, "B N R T"],
        places: Int[Array, "B T"],
        rows: Int[Array, " T"],
        memory: HashedMemory,
        return_weights: bool,
        dropout_key: Key[Array, ""] | None,
    ) -> tuple[Array, ...]:
        """Return the contexts ``B T N H`` of some rows, with their weights if requested."""
        (B, T, N, _), S = q.shape, memory.keys.shape[1]
        keys, visible = candidates(memory.by_bucket, buckets, places, self.chunk)  # B N T C
        b, n, t = (jnp.arange(size, dtype=jnp.int32) for size in (B, N, T))
        b, n, t = b[:, None, None, None], n[None, :, None, None], t[None, None, :, None]
        row = rows[None, None, :, None]
        if memory.mask is not None:
            _, heads, queries, _ = memory.mask.shape
            at = n if heads > 1 else jnp.zeros_like(n), row if queries > 1 else jnp.zeros_like(row)
            visible &= memory.mask[b, *at, keys]
        k, v = (
            jnp.where(visible[..., None], split_heads(x, N)[b, keys, n], jnp.zeros((), x.dtype))
            for x in (memory.keys, memory.values)
        )
        scores = jnp.einsum("btnh,bntch->bntc", q, k).astype(compute_dtype(q))
        itself = memory.positions[b, keys] == places[:, None, :, None]
        weights = masked_softmax(jnp.where(itself, jnp.full_like(scores, ITSELF), scores), visible)
        applied = weights
        if dropout_key is not None and self.dropout > 0:
            kept = dropout_keep_mask(seed_of(dropout_key), self.dropout, b, n, row, keys)
            applied = jnp.where(kept, weights / (1 - self.dropout), jnp.zeros_like(weights))
        context = jnp.einsum("bntc,bntch->btnh", applied, v.astype(applied.dtype)).astype(v.dtype)
        if not return_weights:
            return (context,)
        return context, jnp.zeros((B, N, T, S), weights.dtype).at[b, n, t, keys].add(weights)
