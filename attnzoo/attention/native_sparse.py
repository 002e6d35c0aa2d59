"""Native sparse attention (NSA): compressed blocks, selected blocks and a window, with gates."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.cache import Kind, next_slots
from attnzoo.attention.contract import (
    Attention,
    Memory,
    Positions,
    ReturnWeights,
    nan_where_overflow,
)
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import (
    Projection,
    broadcast_parameter,
    cast_like,
    exact_quotient,
    join_heads,
    split_heads,
)
from attnzoo.module import Module
from attnzoo.ops.dot_product import dot_product_attention
from attnzoo.ops.index_functions import broadcast_index
from attnzoo.ops.linear.fast_weights import check_key_mask
from attnzoo.ops.masks import MaskFunction, sliding_window
from attnzoo.ops.padding import check_and_zero_padding
from attnzoo.ops.rotary import Rotary
from attnzoo.ops.sparse import (
    branch_weights,
    places_of,
    put_rows,
    read_blocks,
    select_blocks,
    unpack_columns,
)
from attnzoo.ops.weights import with_weights


class SparseCache(NamedTuple):
    """Keys and values of the branches by position in the text; padding takes no place."""

    keys: Float[Array, "B L 3 K H"]
    values: Float[Array, "B L 3 K H"]
    block_keys: Float[Array, "B M K H"]
    block_values: Float[Array, "B M K H"]
    length: Int[Array, " B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseMemory(Memory):
    """Keys and values of the three branches, moved to the left over padding, and of the blocks."""

    block_keys: Float[Array, "B M G H"] | None = None
    block_values: Float[Array, "B M G H"] | None = None
    places: Int[Array, "B S"] | None = None
    """Position in the text of each position of the row, not counting padding."""


class NativeSparseAttention(Attention):
    """o = sum_c g_c Attention(q, K_c, V_c) for c = compressed blocks, selected blocks, window.

    Native Sparse Attention (NSA): Yuan et al. 2025, arXiv 2502.11089, section 3. Query i sees keys
    0 .. i of its own sequence, in three ways, each with keys and values of its own and a gate g_c =
    sigmoid(w . x) per head:

    - compressed (equation 7): a network with embeddings of the places in a block makes one key and
      one value of each whole block of ``block`` positions up to i;
    - selected (equations 8 to 12): the tokens of the ``selected`` blocks with the largest weights
      of the compressed keys, summed over the heads that share keys. The block of the query, the one
      before and the first one come first;
    - window: the last ``window`` positions.

    Blocks of both kinds are the same (l = l' = d in the paper), they do not overlap. Padding is
    skipped before blocks are cut. A mask may only mark padding (``valid[:, None, None, :]``).

    The weights are those of the branches times their gates; a compressed block's weight is shared
    by its tokens. Rows sum to the sum of the gates.

    Args:
      num_kv_heads: K, heads of keys and values, ``num_heads`` if None; heads that share one select
        the same blocks.
      head_dim: H; ``dim / num_heads`` if None.
    """

    facts = Facts(
        paper="Yuan et al. 2025",
        score="q · k / √H of blocks, of tokens of the best blocks, and of near tokens",
        softness="local",
        inputs=("self",),
        output="multi-head",
        causal="mask",
        time="T (T / b + n b + w) D",
        memory="N T² / b + n b K D",
        state="6 S K H + 2 S K H / b",
    )

    always_causal = True
    takes_perturbation = False
    supports = frozenset({"dropout", "rotary"})
    contract_exceptions: ClassVar[dict[str, str]] = {
        "a mask for each query": "blocks are cut once, for all queries",
        "rows sum to one": "a row is the sum of three, each times its gate",
        "weights times values": "each branch has values of its own",
        "weights explain the context": "values of blocks are made by a network",
        "convex hull": "the hull is that of projected and compressed values",
        "queries are exchangeable": "a query reads the block and the window of its position",
        "keys are exchangeable": "blocks are cut in the order of positions",
        "positions are places": "blocks are cut in the order of the array",
    }

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        block: int = 32,
        selected: int = 16,
        window: int = 512,
        rotary: Rotary | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        exact_quotient("num_heads", num_heads, "num_kv_heads", num_kv_heads)
        if head_dim is None:
            head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        for name, number in (("block", block), ("selected", selected), ("window", window)):
            if number < 1:
                raise ValueError(f"{name}={number}; wanted at least 1")
        self.dim, self.num_heads, self.num_kv_heads = dim, num_heads, num_kv_heads
        self.head_dim, self.block, self.selected, self.window = head_dim, block, selected, window
        self.rotary, self.dropout = rotary, dropout
        width = 3 * num_kv_heads * head_dim
        self.query = Projection(dim, num_heads * head_dim, rngs=rngs)
        self.key, self.value = (Projection(dim, width, rngs=rngs) for _ in range(2))
        self.gates = Projection(dim, 3 * num_heads, use_bias=True, rngs=rngs)
        self.compress_keys, self.compress_values = (
            Compression(block, head_dim, rngs=rngs) for _ in range(2)
        )
        self.out = Projection(num_heads * head_dim, dim, rngs=rngs)

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit: all ``dim``."""
        return self.dim, self.dim, self.dim

    def __call__(
        self,
        query: Float[Array, "B T D"],
        keys: Float[Array, "B S D2"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        positions: Positions | None = None,
        key_positions: Int[Array, "#B S"] | None = None,
        **reading: Any,
    ) -> Any:
        """Attend to the own past (see ``Attention``); positions are counted, not those given."""
        return super().__call__(query, keys, values, **reading)

    def self_mask(
        self,
        x: Float[Array, "B T D"],
        *,
        is_causal: bool,
        valid: Bool[Array, "B T"] | None,
        mask: MaskFunction | None,
    ) -> Bool[Array, "B 1 1 T"] | None:
        """Return the padding mask; NotImplementedError if any other mask is given."""
        if mask is not None:
            raise NotImplementedError(
                f"mask={mask!r}: {type(self).__name__} cuts a whole row into blocks; packed "
                "documents want attention.kind=multi_head, or training without packing"
            )
        return None if valid is None else valid[:, None, None, :]

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B 1 1 S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> SparseMemory:
        """Project keys and values, move them over padding, and compress the blocks."""
        keys, values = check_and_zero_padding(keys, values, mask)
        B, S = keys.shape[:2]
        check_key_mask(mask, B, 1, S)
        places = places_of(mask, B, S)
        k, v = self._branches(keys, values)
        if mask is not None:
            order = jnp.where(jnp.broadcast_to(mask[:, 0, 0], (B, S)), places, S)
            k, v = (put_rows(jnp.zeros_like(x), x, order) for x in (k, v))
        blocks = self._compressed(k, v)
        k = self._turned(k, jnp.arange(S, dtype=jnp.int32)[None], S)
        flat = (x.reshape(B, S, math.prod(x.shape[2:])) for x in (k, v))
        mask = None if mask is None else jnp.broadcast_to(mask, (B, 1, 1, S))
        return SparseMemory(*flat, mask, None, *blocks, places)

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Any:
        """Read a prepared memory with queries at its positions 0 .. T-1, or ``positions``."""
        assert isinstance(memory, SparseMemory)
        (B, T, _), S, places = query.shape, memory.keys.shape[1], memory.places
        if T > S:
            raise ValueError(
                f"query has length T={T} and keys have S={S}; {type(self).__name__} is causal: "
                "query i reads what stands at 0 .. i of its own sequence"
            )
        assert places is not None
        at = places[:, :T]
        if positions is not None:
            rows = jnp.broadcast_to(positions, (B, T))
            at = jnp.take_along_axis(places, rows, axis=1, mode="clip")
        shape = (B, S, 3, self.num_kv_heads, self.head_dim)
        k, v = (x.reshape(shape) for x in (memory.keys, memory.values))
        plain = positions is None and memory.mask is None
        blocks = memory.block_keys, memory.block_values
        result = self._read(query, at, k, v, blocks, bool(return_weights), dropout_key, plain)
        if not return_weights:
            return result[0]
        weights = unpack_columns(result[1], memory.mask, places)
        return with_weights(result[0], weights, return_weights)

    def empty_cache(
        self, batch: int, max_length: int, dtype: Any = jnp.float32, cache: Kind = "plain"
    ) -> SparseCache:
        """Return an empty cache of all keys and values, and of those of the blocks."""
        self.check_plain(cache)
        K, H = self.num_kv_heads, self.head_dim
        tokens = jnp.zeros((batch, max_length, 3, K, H), dtype)
        blocks = jnp.zeros((batch, self._blocks(max_length), K, H), dtype)
        return SparseCache(tokens, tokens, blocks, blocks, jnp.zeros((batch,), jnp.int32))

    def decode(
        self,
        query: Float[Array, "B T D"],
        cache: SparseCache,
        *,
        mask: Bool[Array, "#B 1 1 L"] | None = None,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
    ) -> tuple[Any, SparseCache]:
        """Run self-attention for the next T positions; one position compresses its block alone."""
        (B, T, _), L = query.shape, cache.keys.shape[1]
        check_key_mask(mask, B, 1, L)
        if self.rotary is not None:
            self.rotary.check_cache()
        slots, _ = next_slots(cache.length, T, L)
        places = places_of(mask, B, L)
        at = jnp.take_along_axis(places, slots, axis=1, mode="clip")
        put = at
        if mask is not None:
            real = jnp.broadcast_to(mask[:, 0, 0], (B, L))
            put = jnp.where(jnp.take_along_axis(real, slots, axis=1, mode="clip"), at, L)
        new = self._branches(query, query)
        k, v = (put_rows(held, given, put) for held, given in zip(cache[:2], new))
        blocks = self._compressed(k, v) if T > 1 else self._recompressed(k, v, put[:, 0], cache)
        held = SparseCache(k, v, *blocks, cache.length + T)
        k, v = k.astype(query.dtype), v.astype(query.dtype)
        turned = self._turned(k, jnp.arange(L, dtype=jnp.int32)[None], L)
        blocks = tuple(x.astype(query.dtype) for x in blocks)
        out, *weights = self._read(query, at, turned, v, blocks, bool(return_weights), None)
        if weights:
            out = with_weights(out, unpack_columns(weights[0], mask, places), return_weights)
        return nan_where_overflow(out, cache.length + T > L, return_weights), held

    def _branches(
        self, keys: Float[Array, "B S D"], values: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S 3 K H"], Float[Array, "B S 3 K H"]]:
        shape = (*keys.shape[:2], 3, self.num_kv_heads, self.head_dim)
        return self.key(keys).reshape(shape), self.value(values).reshape(shape)

    def _blocks(self, length: int) -> int:
        return max(1, -(-length // self.block))

    def _compressed(
        self, k: Float[Array, "B S 3 K H"], v: Float[Array, "B S 3 K H"]
    ) -> tuple[Float[Array, "B M K H"], Float[Array, "B M K H"]]:
        """Return the keys and values of all blocks; unfinished ones are hidden from reading."""
        B, S = k.shape[:2]
        M = self._blocks(S)

        def whole(x: Float[Array, "B S 3 K H"]) -> Float[Array, "B M b K H"]:
            x = jnp.pad(x[:, :, 0], [(0, 0), (0, M * self.block - S), (0, 0), (0, 0)])
            return x.reshape(B, M, self.block, *x.shape[2:])

        return self.compress_keys(whole(k)), self.compress_values(whole(v))

    def _recompressed(
        self,
        k: Float[Array, "B L 3 K H"],
        v: Float[Array, "B L 3 K H"],
        at: Int[Array, " B"],
        cache: SparseCache,
    ) -> tuple[Float[Array, "B M K H"], Float[Array, "B M K H"]]:
        """Return the keys and values of the blocks after a change at one position of each row."""
        block = at // self.block
        inside = block[:, None] * self.block + jnp.arange(self.block, dtype=jnp.int32)[None]
        rows = jnp.arange(k.shape[0], dtype=jnp.int32)[:, None]
        new_key = self.compress_keys(k[:, :, 0][rows, inside][:, None])
        new_value = self.compress_values(v[:, :, 0][rows, inside][:, None])
        held = put_rows(cache.block_keys, new_key, block[:, None])
        return held, put_rows(cache.block_values, new_value, block[:, None])

    def _turned(
        self, k: Float[Array, "B S 3 K H"], places: Int[Array, "#B S"], length: int
    ) -> Float[Array, "B S 3 K H"]:
        """Apply rotary embedding to the keys of tokens, not to those that become blocks."""
        if self.rotary is None:
            return k
        turned = [self.rotary(k[:, :, i], places, length) for i in (1, 2)]
        return jnp.stack([k[:, :, 0], *turned], axis=2)

    def _read(
        self,
        query: Float[Array, "B T D"],
        at: Int[Array, "B T"],
        k: Float[Array, "B S 3 K H"],
        v: Float[Array, "B S 3 K H"],
        blocks: Any,
        return_weights: bool,
        dropout_key: Key[Array, ""] | None,
        whole_row: bool = False,
    ) -> tuple[Any, ...]:
        """Return the output, and the weights by position in the text if they are requested."""
        B, T = at.shape
        M, S = blocks[0].shape[1], k.shape[1]
        q = split_heads(self.query(query), self.num_heads)
        turned = q if self.rotary is None else self.rotary(q, at, S)
        keys = [None] * 3 if dropout_key is None else list(jax.random.split(dropout_key, 3))
        rate = 0.0 if dropout_key is None else self.dropout
        dropout: list[Any] = [{"dropout_rate": rate, "dropout_key": key} for key in keys]

        near = sliding_window(self.window)
        near = near if whole_row else _moved(near, at)
        ends = (jnp.arange(M, dtype=jnp.int32) + 1) * self.block - 1
        whole = (ends[None, None] <= at[..., None])[:, None]  # B 1 T M
        of_blocks, importance = dot_product_attention(
            q, blocks[0], blocks[1], whole, return_weights=True, **dropout[0]
        )
        chosen = select_blocks(importance, at, self.num_kv_heads, self.block, self.selected)
        tokens = read_blocks(
            turned, k[:, :, 1], v[:, :, 1], chosen, at, self.block, return_weights, **dropout[1]
        )
        window = dot_product_attention(
            turned,
            k[:, :, 2],
            v[:, :, 2],
            near,
            return_weights=return_weights,
            **dropout[2],
        )
        gates = jax.nn.sigmoid(self.gates(query)).reshape(B, T, 3, self.num_heads, 1)
        parts = of_blocks, tokens[0], window[0] if return_weights else window
        out = sum(gates[:, :, i] * part for i, part in enumerate(parts))
        out = self.out(join_heads(out))
        if not return_weights:
            return (out,)
        of_tokens = branch_weights(importance, self.block, S), tokens[1], window[1]
        shares = jnp.moveaxis(gates, 3, 1).astype(importance.dtype)  # B N T 3 1
        return out, sum(shares[:, :, :, i] * part for i, part in enumerate(of_tokens))


class Compression(Module):
    """One vector of the b vectors of a block, by a network with embeddings of their places."""

    def __init__(self, block: int, width: int, *, rngs: nnx.Rngs):
        normal = jax.nn.initializers.normal(0.02)
        self.places = nnx.Param(normal(rngs.params(), (block, width), jnp.float32))
        self.hidden = Projection(block * width, 2 * width, use_bias=True, rngs=rngs)
        self.out = Projection(2 * width, width, use_bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "B M b K H"]) -> Float[Array, "B M K H"]:
        B, M, b, K, H = x.shape
        x = jnp.moveaxis(x, 2, 3)
        x = x + broadcast_parameter(cast_like(self.places, x), x.shape)
        return self.out(jax.nn.gelu(self.hidden(x.reshape(B, M, K, b * H))))


def _moved(mask_mod: MaskFunction, at: Int[Array, "B T"]) -> MaskFunction:
    """Return a mask function for queries at the positions ``at``."""
    return lambda b, n, q, k: mask_mod(b, n, at[broadcast_index(b, at.shape[0]), q], k)
