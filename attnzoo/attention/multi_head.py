# Over 400 lines: one class, whose call, memory, steps and cache share their projections.
"""Multi-head attention: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.2, and its variants."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention import cache as caches
from attnzoo.attention.cache import AnyCache
from attnzoo.attention.contract import (
    Attention,
    Memory,
    Positions,
    ReturnWeights,
    RotaryPositions,
    Site,
    joined,
    nan_where_overflow,
)
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import (
    Initializer,
    Projection,
    RMSNorm,
    exact_quotient,
    glorot_uniform,
    join_heads,
    split_heads,
)
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.ops.dot_product import dot_product_attention
from attnzoo.ops.guards import finite_or_zero
from attnzoo.ops.index_functions import broadcast_index
from attnzoo.ops.logits import ScoreFunction
from attnzoo.ops.masks import (
    MaskFunction,
    Window,
    causal,
    evaluate_mask,
    global_tokens,
    padding,
    sliding_window,
    symmetric_window,
)
from attnzoo.ops.padding import broadcast_mask, check_and_zero_padding
from attnzoo.ops.rotary import GridRotary, Rotary
from attnzoo.ops.weights import WeightRequest

Places = Int[Array, "#B S"]


class MultiHeadAttention(Attention):
    """Multi-head attention: softmax(scale q_n k_m^T) v_m per head n, concatenated, times W_o.

    Call it with ``keys = query`` for self-attention, with another sequence for cross-attention.
    Query head n reads key/value head m = n // (N / K). ``num_kv_heads=1`` is multi-query attention
    (Shazeer 2019, arXiv 1911.02150), a number between 1 and N grouped-query attention (Ainslie et
    al. 2023, arXiv 2305.13245). Biases and sinks start at 0. Indices passed to ``score_mod`` and
    ``mask_mod`` are absolute: keys count from 0, queries have ``positions`` (0 .. T-1 if None).

    Args:
      dim, key_dim, value_dim, out_dim: widths of queries, keys, values and the result. ``key_dim``
        and ``out_dim`` are ``dim`` if None, ``value_dim`` is ``key_dim``.
      head_dim: H; ``dim / num_heads`` if None.
      use_bias: projections have biases. A row that may attend nowhere then gives the output bias.
      key_bias: False: no bias of the keys, even with ``use_bias`` (Whisper, DINOv3).
      out_bias: whether the output projection has a bias; ``use_bias`` if None.
      kernel_init, out_init: initializers of W_q, W_k, W_v and of W_o; Glorot-uniform by default.
      qk_norm: constructor of the norms of width H of queries and keys, applied before rotary
        embedding (``RMSNorm``, as in Dehghani et al. 2023, arXiv 2302.05442, section 2).
      score_mod: ``score_mod(score, b, n, q, k)``, such as ``ALiBi`` or ``T5RelativeBias``.
      mask_mod: ``mask_mod(b, n, q, k)``, such as ``masks.causal()``, joins the mask of the call.
      scale: factor on q . k; 1/sqrt(H) if None, 1.0 for T5.
      softcap: scores s become c tanh(s / c) before the mask (Gemma 2, arXiv 2408.00118, section 2).
      sinks: a learned logit per head, without a value, joins the softmax; rows sum to less than 1.
    """

    facts = Facts(
        paper="Vaswani et al. 2017",
        score="q · k / √H",
        output="multi-head",
        causal="mask",
        time="T S D",
        memory="N T S",
        state="2 S K H",
    )

    takes_score_mod = True
    supports = frozenset({"dropout", "bias", "rotary", "grid_rotary", "score_mod", "norm_eps"})

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        out_dim: int | None = None,
        use_bias: bool = False,
        key_bias: bool = True,
        out_bias: bool | None = None,
        kernel_init: Initializer = glorot_uniform,
        out_init: Initializer = glorot_uniform,
        qk_norm: Callable[..., nnx.Module] | None = None,
        rotary: Rotary | GridRotary | None = None,
        score_mod: ScoreFunction | None = None,
        mask_mod: MaskFunction | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        exact_quotient("num_heads", num_heads, "num_kv_heads", self.num_kv_heads)
        if head_dim is None:
            head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}; wanted 0 <= dropout < 1")
        key_dim = dim if key_dim is None else key_dim
        value_dim = key_dim if value_dim is None else value_dim
        out_dim = dim if out_dim is None else out_dim
        self.dim, self.key_dim, self.head_dim = dim, key_dim, head_dim
        self.rotary, self.mask_mod, self.scale, self.dropout = rotary, mask_mod, scale, dropout
        for name, function in (("score_mod", score_mod), ("mask_mod", mask_mod)):
            _holds_no_arrays(name, function)
        self.score_mod, self.softcap = score_mod, softcap

        def projection(width: int, out: int, bias: bool = use_bias) -> Projection:
            return Projection(width, out, use_bias=bias, kernel_init=kernel_init, rngs=rngs)

        self.query = projection(dim, num_heads * head_dim)
        self.key = projection(key_dim, self.num_kv_heads * head_dim, use_bias and key_bias)
        self.value = projection(value_dim, self.num_kv_heads * head_dim)
        self.out = Projection(
            num_heads * head_dim,
            out_dim,
            use_bias=use_bias if out_bias is None else out_bias,
            kernel_init=out_init,
            rngs=rngs,
        )
        self.query_norm = None if qk_norm is None else qk_norm(head_dim, rngs=rngs)
        self.key_norm = None if qk_norm is None else qk_norm(head_dim, rngs=rngs)
        self.sinks = nnx.Param(jnp.zeros((num_heads,), jnp.float32)) if sinks else None

    @classmethod
    def from_config(
        cls, config: MultiHeadConfig, site: Site, *, rngs: nnx.Rngs
    ) -> "MultiHeadAttention":
        """Build the module of a config line.

        Raises:
          ValueError: a window in cross-attention, or no bias of the keys where nothing has one.
        """
        if not (config.key_bias or site.use_bias):
            raise ValueError("key_bias=false has no effect: no projection here has a bias")
        window = None
        if config.window is not None:
            if not site.is_self:
                raise ValueError(
                    f"window={config.window} of a cross-attention: positions of two sequences "
                    "are not those of one; wanted window: null, or kind: local_m"
                )
            window = (sliding_window if site.is_causal else symmetric_window)(config.window)
            if config.global_tokens:
                window = window | global_tokens(config.global_tokens)
        scale = site.scale if config.scale is None else config.scale
        return cls.built(config, site, rngs=rngs, mask_mod=window, scale=scale)

    @classmethod
    def built(cls, config: Any, site: Site, *, rngs: nnx.Rngs, **own: Any) -> Any:
        """Build the module by name, with norm, initializers and scale as the config and site say.

        ``config`` has a field ``qk_norm``; ``scale`` is the site's unless it is in ``own``.
        """
        settings = {"eps": site.norm_eps, "shift": site.norm_shift}
        norm = functools.partial(RMSNorm, **settings) if config.qk_norm else None
        for name in ("out_bias", "kernel_init", "out_init", "scale"):
            own.setdefault(name, getattr(site, name))
        module: Any = cls.by_name(config, site, rngs=rngs, qk_norm=norm, **own)
        if module.scale is not None:
            kernel = module.query.kernel
            kernel[...] = kernel[...] / (math.sqrt(module.head_dim) * module.scale)
        return module

    @property
    def head_groups(self) -> int:
        """Number of key/value heads; each stays on one device of the tensor axis."""
        return self.num_kv_heads

    @property
    def contract_exceptions(self) -> dict[str, str]:
        """Tests of the contract kit that do not apply, with the reason."""
        reasons = {
            "weights times values": "values are projected before they are weighed, and the result",
            "convex hull": "the hull is that of projected values, before the result is projected",
        }
        if self.rotary is not None or self.score_mod is not None:
            reasons["queries are exchangeable"] = "scores depend on positions"
            reasons["keys are exchangeable"] = "scores depend on positions"
        if self.mask_mod is not None or self.score_mod is not None:
            reasons["positions are places"] = (
                "masks and modified scores count the keys of the array"
            )
        if self.sinks is not None:
            reasons["rows sum to one"] = "the sink takes a share and has no key"
        if self.out.bias is not None:
            reasons["fully masked rows"] = "such a row is the bias of the output projection"
        return reasons

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Int[Array, "#B S"] | Float[Array, "#B S 2"] | None = None,
    ) -> Memory:
        """Project keys and values; ``positions`` are the rotary positions of the keys."""
        keys, values = check_and_zero_padding(keys, values, mask)
        k = self._keys(keys, _from_zero(keys) if positions is None else positions, keys.shape[1])
        return Memory(join_heads(k), self.value(values), broadcast_mask(mask, keys))

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
        mask_mod: MaskFunction | None = None,
        score_mod: ScoreFunction | None = None,
        rope_positions: RotaryPositions | None = None,
    ) -> Any:
        """Read a prepared memory with T queries (see ``Attention``).

        ``mask_mod`` joins the module's own, ``score_mod`` replaces it. ``rope_positions`` are
        rotary positions of the queries, if they differ from the ``positions`` of masks and scores.
        """
        S = memory.keys.shape[1]
        q = self._queries(query, positions if rope_positions is None else rope_positions, S)
        k = split_heads(memory.keys, self.num_kv_heads)
        v = split_heads(memory.values, self.num_kv_heads)
        visible = self._visible(q, k, memory.mask, positions, mask_mod)
        return self._read(q, k, v, visible, positions, return_weights, dropout_key, score_mod)

    def __call__(
        self,
        query: Float[Array, "B T D"],
        keys: Float[Array, "B S D2"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | MaskFunction | None = None,
        positions: RotaryPositions | None = None,
        key_positions: Int[Array, "#B S"] | Float[Array, "#B S 2"] | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
        score_mod: ScoreFunction | None = None,
        **more: Any,
    ) -> Any:
        """Attend from queries to keys (see ``Attention``); ``mask`` may be a function of indices.

        A function (``ops.masks``) needs no memory. Rotary embedding uses ``positions`` and
        ``key_positions``; masks and scores use row and column indices.
        """
        self.check_inputs(query, keys, values)
        function, array = (mask, None) if callable(mask) else (None, mask)
        return self.attend(
            query,
            self.prepare(keys, values, mask=array, positions=key_positions),
            return_weights=return_weights,
            dropout_key=dropout_key,
            mask_mod=function,
            score_mod=score_mod,
            rope_positions=positions,
            **more,
        )

    def self_mask(
        self,
        x: Float[Array, "B T D"],
        *,
        is_causal: bool,
        valid: Bool[Array, "B T"] | None,
        mask: MaskFunction | None,
    ) -> MaskFunction | None:
        """Return the mask of self-attention as a function of indices, which needs no memory."""
        past, real = causal() if is_causal else None, None if valid is None else padding(valid)
        return joined(past, real, mask)

    def empty_cache(
        self,
        batch: int,
        max_length: int,
        dtype: Any = jnp.float32,
        cache: caches.Kind = "plain",
    ) -> AnyCache:
        """Return an empty cache of ``max_length`` positions for self-attention.

        ``cache="window"`` keeps only the keys in the ``sliding_window``; ``"int8"`` all, in int8.
        """
        window = None
        if isinstance(self.mask_mod, Window) and self.mask_mod.left is not None:
            window = self.mask_mod.left + 1
        heads, width = self.num_kv_heads, self.head_dim
        return caches.empty(cache, batch, max_length, heads, width, window, dtype)

    def decode(
        self,
        query: Float[Array, "B T D"],
        cache: AnyCache,
        *,
        mask: Bool[Array, "#B #N #T #L"] | None = None,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        score_mod: ScoreFunction | None = None,
    ) -> tuple[Any, AnyCache]:
        """Run causal self-attention for the next T positions over the cache and themselves.

        Rotary embedding uses ``positions``; masks and scores use cache slots. With a window cache,
        the weights have one column per key returned by the cache.
        """
        if self.key_dim != self.dim:
            raise ValueError(f"key_dim={self.key_dim}, but self-attention needs dim={self.dim}")
        if self.rotary is not None:
            self.rotary.check_cache()
        T, room = query.shape[1], cache.room
        if room is not None and room < T:
            raise ValueError(f"query has {T} positions, but the cache has room for {room}")
        slots = cache.length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
        turned = slots if positions is None else positions
        L = cache.slots
        new = self._keys(query, turned, L), split_heads(self.value(query), self.num_kv_heads)
        keys, values, places, extended = cache.extend(*new)
        q = self._queries(query, turned, L)

        at = jnp.arange(L, dtype=jnp.int32)[None] if places is None else places
        past = (at[:, None, :] <= slots[:, :, None])[:, None]
        if places is not None:
            past = past & (places >= 0)[:, None, None, :]
            if mask is not None:
                mask = jnp.take_along_axis(mask, places[:, None, None, :], axis=3, mode="clip")
        past = past if mask is None else past & mask
        visible = self._visible(q, keys, past, slots, None, places)
        k, v = keys.astype(q.dtype), values.astype(q.dtype)
        result = self._read(q, k, v, visible, slots, return_weights, None, score_mod, places)
        if room is not None:
            result = nan_where_overflow(result, cache.length + T > room, return_weights)
        return result, extended

    def _queries(
        self,
        query: Float[Array, "B T D"],
        positions: RotaryPositions | None,
        length: int,
    ) -> Float[Array, "B T N H"]:
        q = self.query(query)
        q = split_heads(q, q.shape[2] // self.head_dim)
        q = q if self.query_norm is None else self.query_norm(q)
        if self.rotary is None:
            return q
        turned: Any = _from_zero(query) if positions is None else positions
        return self.rotary(q, turned, length)

    def _keys(
        self, keys: Float[Array, "B S D"], positions: RotaryPositions, length: int
    ) -> Float[Array, "B S K H"]:
        k = split_heads(self.key(keys), self.num_kv_heads)
        k = k if self.key_norm is None else self.key_norm(k)
        return k if self.rotary is None else self.rotary(k, positions, length)

    def _visible(
        self,
        q: Float[Array, "B T _ H"],
        k: Float[Array, "B S K H"],
        mask: Bool[Array, "#B #N #T #S"] | None,
        positions: Positions | None,
        mask_mod: MaskFunction | None,
        places: Places | None = None,
    ) -> Bool[Array, "#B #N #T #S"] | MaskFunction | None:
        """Combine the module's mask with that of the call; a function if neither is an array."""
        function = joined(self.mask_mod, mask_mod)
        if function is None:
            return mask
        placed = function if positions is None else _placed_mask(function, positions, places)
        if mask is None:
            return placed
        return mask & evaluate_mask(placed, (q.shape[0], self.num_heads, q.shape[1], k.shape[1]))

    def _read(
        self,
        q: Float[Array, "B T _ H"],
        k: Float[Array, "B S K H"],
        v: Float[Array, "B S K Hv"],
        mask: Bool[Array, "#B #N #T #S"] | MaskFunction | None,
        positions: Positions | None,
        return_weights: bool | WeightRequest,
        dropout_key: Key[Array, ""] | None,
        score_mod: ScoreFunction | None,
        places: Places | None = None,
    ) -> Any:
        score_mod = self.score_mod if score_mod is None else score_mod
        if score_mod is not None and positions is not None:
            score_mod = _placed_score(score_mod, positions, places)
        out, *seen = self.read_heads(q, k, v, mask, return_weights, dropout_key, score_mod)
        context = self.out(join_heads(out))
        return (context, *seen) if return_weights else context

    def read_heads(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B S K H"],
        v: Float[Array, "B S K Hv"],
        mask: Bool[Array, "#B #N #T #S"] | MaskFunction | None,
        return_weights: bool | WeightRequest,
        dropout_key: Key[Array, ""] | None,
        score_mod: ScoreFunction | None,
    ) -> tuple[Any, ...]:
        """Return the contexts of the heads, ``B T N Hv``, and the weights if they are requested."""
        result = dot_product_attention(
            q,
            k,
            v,
            mask,
            scale=1 / math.sqrt(self.head_dim) if self.scale is None else self.scale,
            return_weights=return_weights,
            score_mod=score_mod,
            sinks=None if self.sinks is None else self.sinks[...],
            softcap=self.softcap,
            dropout_rate=0.0 if dropout_key is None else self.dropout,
            dropout_key=dropout_key,
        )
        out, *seen = result if return_weights else (result,)
        return self.add_perturbed(out, v), *seen

    def add_perturbed(
        self, out: Float[Array, "B T N Hv"], v: Float[Array, "B S K Hv"]
    ) -> Float[Array, "B T N Hv"]:
        """Return contexts with the values that a perturbation of the weights adds."""
        if self.perturbation is None:
            return out
        delta = self.perturbed((out.shape[0], self.num_heads, out.shape[1], v.shape[1]))
        return out + _weigh(delta, v).astype(out.dtype)


def _weigh(
    weights: Float[Array, "B N T S"], v: Float[Array, "B S K Hv"]
) -> Float[Array, "B T N Hv"]:
    """Return weights times values; a value that is not finite counts as 0."""
    B, N, T, S = weights.shape
    grouped = weights.reshape(B, v.shape[2], N // v.shape[2], T, S)
    values = finite_or_zero(v).astype(weights.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", grouped, values).reshape(B, T, N, v.shape[3])


def _holds_no_arrays(name: str, function: Any) -> None:
    """Raise a ValueError if a function holds arrays: a checkpoint would not save them."""
    leaves = [] if isinstance(function, nnx.Module) else jax.tree.leaves(function)
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        raise ValueError(
            f"{name}={function!r} holds arrays; wanted a function without, such as "
            "ALiBi(num_heads), or an nnx.Module whose parameters they are, such as T5RelativeBias"
        )


def _from_zero(x: Float[Array, "B T D"]) -> Int[Array, "1 T"]:
    return jnp.arange(x.shape[1], dtype=jnp.int32)[None]


def _placed_mask(
    mask_mod: MaskFunction, positions: Positions, places: Places | None
) -> MaskFunction:
    """Return the mask with query row i at ``positions[b, i]`` and key j at ``places[b, j]``."""
    return lambda b, n, q, k: mask_mod(b, n, _at(positions, b, q), _at(places, b, k))


def _placed_score(
    score_mod: ScoreFunction, positions: Positions, places: Places | None
) -> ScoreFunction:
    def score(score: Any, b: Any, n: Any, q: Any, k: Any) -> Any:
        return score_mod(score, b, n, _at(positions, b, q), _at(places, b, k))

    return score


def _at(positions: Positions | None, b: Any, i: Any) -> Any:
    return i if positions is None else positions[broadcast_index(b, positions.shape[0]), i]
