# Over 400 lines: one class, the interface of every attention with its defaults.
"""Interface of attention between a query and a key sequence, and the memory it reads.

A part of the computation depends on keys and values only, such as ``U_a h_j`` of Bahdanau et al.
2015. ``prepare(keys, values, mask=...)`` computes it and returns a :class:`Memory` (a value, not
hidden state of the module); ``attend(query, memory)`` reads it. Calling the module does both.
"""

import dataclasses
import inspect
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.cache import InputCache, Kind, next_slots, write
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Initializer, Projection, glorot_uniform, read_heads
from attnzoo.module import Module
from attnzoo.ops.checks import check_dropout, check_sequences
from attnzoo.ops.masks import And, MaskFunction, causal, evaluate_mask
from attnzoo.ops.normalisers import NORMALISERS, Normalise
from attnzoo.ops.padding import broadcast_mask, check_and_zero_padding
from attnzoo.ops.rotary import GridRotary, Rotary
from attnzoo.ops.softmax import masked_softmax, weighted_values
from attnzoo.ops.weights import WeightRequest, with_weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """Keys and values prepared by a mechanism, with the mask and the positions of the keys.

    ``positions`` are positions in the text, 0 .. S-1 if None. The first axis of every leaf is the
    batch, so that beam search can repeat or gather rows.
    """

    keys: Float[Array, "B S K"]
    values: Float[Array, "B S Dv"]
    mask: Bool[Array, "B #N #T S"] | None
    positions: Int[Array, "B S"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """Place of an attention module in a model: widths, direction, and settings of the model.

    Attributes:
      query_dim, key_dim, value_dim: widths of queries, keys and values; contexts are as wide as
        values.
      is_self: self-attention; else cross-attention. is_causal: position t sees positions 0 .. t.
      max_length: longest sequence in tokens that the model accepts; None: any.
      use_bias, out_bias: biases of projections, and of the output projection (None: ``use_bias``).
      rotary: rotary embedding of queries and keys, in a model with rotary positions.
      scale: factor on q . k, in a model that does not divide scores by sqrt(H) (T5): W_q is divided
        by sqrt(H) at initialisation instead.
      norm_eps, norm_shift: settings of norms within the attention (``RMSNorm``).
      dropout: dropout rate of weights in training.
      kernel_init, out_init: initializers of the projections and of the output projection.
      fan_in: initialise with variance 1 / inputs where a mechanism's paper has tiny weights.
    """

    query_dim: int
    key_dim: int
    value_dim: int
    is_self: bool = False
    is_causal: bool = False
    max_length: int | None = None
    use_bias: bool = False
    out_bias: bool | None = None
    rotary: Rotary | GridRotary | None = None
    scale: float | None = None
    norm_eps: float = 1e-6
    norm_shift: float = 0.0
    dropout: float = 0.0
    kernel_init: Initializer = glorot_uniform
    out_init: Initializer = glorot_uniform
    fan_in: bool = True

    @classmethod
    def of_itself(cls, dim: int, **settings: Any) -> "Site":
        """Return the place of a self-attention over states of width ``dim``."""
        return cls(query_dim=dim, key_dim=dim, value_dim=dim, is_self=True, **settings)


def columns_of(
    logits: Float[Array, "#B N T L"], S: int, positions: Int[Array, "B S"] | None
) -> Float[Array, "B N T S"]:
    """Select the columns of S keys from logits that have one column for each of L positions."""
    if positions is None:
        return logits[..., :S]
    logits = jnp.broadcast_to(logits, (positions.shape[0], *logits.shape[1:]))
    return jnp.take_along_axis(logits, positions[:, None, None, :], axis=3, mode="clip")


Weights = Float[Array, "B N T S"]
ReturnWeights = bool | WeightRequest
Positions = Int[Array, "#B T"]
RotaryPositions = Int[Array, "#B T"] | Float[Array, "#B T 2"]
"""Positions in a text, or rows and columns in an image, for rotary embedding."""
AttentionOutput = Any
"""Context ``B T Do``, or the pair of context and weights (or ``WeightReport``) if requested."""


class Attention(Module):
    """Interface of every attention between a query sequence and a key sequence.

    A mechanism defines ``__init__`` and ``scores``, and ``prepare_keys`` and ``prepare_values`` if
    it changes keys and values. It overrides ``weigh`` if it has a mask of its own, ``attend`` if it
    has no explicit weights, ``extend`` and ``empty_past`` if a query depends on earlier ones, and
    ``empty_cache`` and ``decode`` if it has a cache of its own.

    Attributes:
      num_heads: N, the heads of the weights. dropout: rate, with a ``dropout_key`` only.
      dim: width of the queries; None if the attention cannot be used as self-attention.
      normalise: function from scores and mask to weights; softmax by default.
      perturbation: ``B N T S``, added to the weights to take gradients with respect to them; set by
        ``attnzoo.explain``.
    """

    facts: ClassVar[Facts | None] = None
    """Place on the map of mechanisms (``attention.facts``); None: not on it."""
    is_recurrent: ClassVar[bool] = False
    """Recurrent form: query i reads the state written by keys 0 .. i; causal, no document masks."""
    always_causal: ClassVar[bool] = False
    """Query i reads keys 0 .. i at most, whatever the mask: so is every recurrent form."""
    takes_causal_mask: ClassVar[bool] = True
    """Causal self-attention is supported: the mechanism is causal, or a mask can make it so."""
    takes_score_mod: ClassVar[bool] = False
    """A score modifier (``score_mod``, a function of indices) is supported."""
    takes_perturbation: ClassVar[bool] = True
    """Values are weighted by explicit weights, to which a perturbation can be added."""
    supports: ClassVar[frozenset[str]] = frozenset({"dropout"})
    """Model settings that have an effect: dropout, bias, rotary, score_mod, norm_eps."""
    asks_keys: ClassVar[bool] = True
    """Weights depend on the content of keys."""
    counts_positions: ClassVar[bool] = False
    """Scores depend on the positions of keys, so ``Memory`` holds them."""
    heads_split_values: ClassVar[bool] = False
    """Each head reads its own slice of the values; else heads read all of them and are averaged."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.is_recurrent:
            cls.always_causal = True

    num_heads: int = 1
    dim: int | None = None
    dropout: float = 0.0
    normalise: Normalise = staticmethod(masked_softmax)
    perturbation: nnx.Perturbation | None = None

    @classmethod
    def from_config(cls, config: Any, site: Site, *, rngs: nnx.Rngs) -> "Attention":
        """Build the module of a config line for a site; ValueError if the widths do not fit."""
        return cls.by_name(config, site, rngs=rngs)

    @classmethod
    def by_name(cls, config: Any, site: Site, *, rngs: nnx.Rngs, **own: Any) -> Any:
        """Construct the module with arguments found by name in ``own``, the config, or the site.

        ``dim`` is the width of the queries, ``out_dim`` that of the values. Parameters not found,
        or None, keep their defaults; but ``mask_mod`` is None unless in ``own``: the model passes
        masks.
        """
        shared = "query_dim", "key_dim", "value_dim", "rotary", "dropout", "use_bias"
        at: dict[str, Any] = {name: getattr(site, name) for name in shared}
        at |= {"dim": site.query_dim, "out_dim": site.value_dim, "rngs": rngs}
        chosen: dict[str, Any] = {}
        for name in inspect.signature(cls.__init__).parameters:
            value: Any = own[name] if name in own else getattr(config, name, at.get(name))
            if value is not None or name == "mask_mod":
                chosen[name] = NORMALISERS[value] if name == "normalise" else value
        made = cls(**chosen)
        if site.dropout and "dropout" in made.supports and "dropout" not in chosen:
            made.dropout = site.dropout  # ``read`` drops weights of any mechanism
        return made

    @property
    def head_groups(self) -> int | None:
        """Number of groups of heads that can be sharded over devices; None: heads stay together."""
        return None

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        query, key, value = (
            one.in_dim if isinstance(one := getattr(self, name, None), Projection) else None
            for name in ("query", "key", "value")
        )
        return query or self.dim, key, value

    def check_inputs(self, query: Any, keys: Any, values: Any) -> None:
        """Raise a ValueError that names the argument whose shape or dtype does not fit."""
        query_width, key_width, value_width = self.widths
        if values is None:
            check_sequences((query_width, key_width or value_width), query=query, keys=keys)
        else:
            check_sequences(self.widths, query=query, keys=keys, values=values)

    def set_depth(self, depth: int) -> None:
        """Set what depends on the layer in a stack, 0 for the first: nothing in most mechanisms."""

    # One sequence reads another, or itself, at once.

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> Memory:
        """Compute once what depends only on keys and values; ``values`` are the keys if None."""
        keys, values = check_and_zero_padding(keys, values, mask)
        if positions is not None:
            whole = jnp.broadcast_to(positions, keys.shape[:2])
            positions = whole if self.counts_positions else None
        prepared = self.prepare_keys(keys), self.prepare_values(values)
        return Memory(*prepared, broadcast_mask(mask, keys), positions)

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Return the keys in the form that :meth:`scores` takes."""
        return keys

    def prepare_values(self, values: Float[Array, "B S Dv"]) -> Float[Array, "B S F"]:
        """Return the values in the form in which they are weighted."""
        return values

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B N T S"]:
        """Return the logits before mask and softmax; ``positions`` as in :meth:`attend`."""
        raise NotImplementedError(f"{type(self).__name__}.scores")

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
    ) -> AttentionOutput:
        """Read a prepared memory with T queries.

        ``positions`` are those of the queries in their text, 0 .. T-1 if None. ``dropout_key``
        switches dropout on; the weights returned are those before dropout.
        """
        weights, visible = self.weigh(query, memory, positions)
        return self.read(weights, memory, visible, return_weights, dropout_key)

    def weigh(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None
    ) -> tuple[Weights, Bool[Array, "#B #N #T #S"] | None]:
        """Return the weights, and the mask of the keys that each query may see (None: all)."""
        return self.normalise(self.scores(query, memory, positions), memory.mask), memory.mask

    def read(
        self,
        weights: Weights,
        memory: Memory,
        visible: Bool[Array, "#B #N #T #S"] | None,
        return_weights: ReturnWeights,
        dropout_key: Key[Array, ""] | None,
    ) -> AttentionOutput:
        """Return the weighted values, with the weights if they are requested."""
        applied = weights
        if dropout_key is not None and self.dropout > 0:
            check_dropout(self.dropout, dropout_key)
            kept = jax.random.bernoulli(dropout_key, 1 - self.dropout, weights.shape)
            applied = jnp.where(kept, weights / (1 - self.dropout), jnp.zeros_like(weights))
        if self.perturbation is not None:
            applied = applied + self.perturbed(weights.shape).astype(weights.dtype)
        if self.heads_split_values:
            context = read_heads(applied, memory.values, visible)
        else:
            context = weighted_values(applied, memory.values)
        return with_weights(self.result(context), weights, return_weights)

    def result(self, context: Float[Array, "B T Dv"]) -> Float[Array, "B T Do"]:
        """Return the output for the weighted values: unchanged, or after a projection."""
        return context

    def perturbed(self, shape: tuple[int, ...]) -> Float[Array, "B N T S"]:
        """Return the perturbation; ValueError if its shape is not that of the weights."""
        assert self.perturbation is not None
        delta = self.perturbation[...]
        if delta.shape != shape:
            raise ValueError(f"perturbation has shape {delta.shape}; wanted B N T S = {shape}")
        return delta

    def __call__(
        self,
        query: Float[Array, "B T D"],
        keys: Float[Array, "B S D2"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Positions | None = None,
        key_positions: Int[Array, "#B S"] | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
        **more: Any,
    ) -> AttentionOutput:
        """Attend from ``query`` (``B T D``) to ``keys`` (``B S D``) and ``values`` (``B S Dv``).

        Return the context ``B T Do``, with Do = Dv unless values are projected.

        Args:
          mask: bool, True = may attend, broadcastable to ``B N T S``.
          positions, key_positions: positions of queries and keys in their texts, if scores depend
            on them; 0 .. T-1 and 0 .. S-1 if None.
          return_weights: also return the weights ``B N T S``; for a ``WeightRequest``, a
            ``WeightReport`` of the requested rows, heads, largest weights or statistics.
          dropout_key: switches dropout of the weights on. more: further arguments of ``attend``.
        """
        self.check_inputs(query, keys, values)
        memory = self.prepare(keys, values, mask=mask, positions=key_positions)
        return self.attend(
            query,
            memory,
            positions=positions,
            return_weights=return_weights,
            dropout_key=dropout_key,
            **more,
        )

    def self_mask(
        self,
        x: Float[Array, "B T D"],
        *,
        is_causal: bool,
        valid: Bool[Array, "B T"] | None,
        mask: MaskFunction | None,
    ) -> Any:
        """Return the mask of self-attention over ``x`` as an array, or None if all may be seen.

        ``valid`` is False at padding; ``mask`` restricts further, such as ``masks.document(ids)``.
        """
        array = None if valid is None else valid[:, None, None, :]
        function = joined(causal() if is_causal else None, mask)
        if function is None:
            return array
        B, T = x.shape[:2]
        pattern = evaluate_mask(function, (B, 1, T, T))
        return pattern if array is None else array & pattern

    # Cross-attention of a decoder, one block of queries at a time.

    def empty_past(self, memory: Memory) -> Any:
        """Return the past before the first query; None unless queries depend on earlier ones."""
        return None

    def extend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        past: Any,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
    ) -> tuple[AttentionOutput, Any]:
        """Read with the next T queries of a decoder; also return the updated past.

        Feeding queries one by one, in blocks, or all at once gives the same result.
        """
        read = self.attend(query, memory, positions=positions, return_weights=return_weights)
        return read, past

    def step(
        self,
        query: Float[Array, "B D"],
        memory: Memory,
        *,
        position: Int[Array, "B"] | None = None,
        past: Any,
    ) -> tuple[Float[Array, "B Do"], Float[Array, "B N S"], Any]:
        """Read with one query of a decoder; return the context, the weights and the new past."""
        (context, weights), past = self.extend(
            query[:, None],
            memory,
            past,
            positions=None if position is None else position[:, None],
            return_weights=True,
        )
        return context[:, 0], weights[:, :, 0], past

    # Causal self-attention with a cache, one block of positions at a time.

    def empty_cache(
        self, batch: int, max_length: int, dtype: Any = jnp.float32, cache: Kind = "plain"
    ) -> Any:
        """Return an empty cache for self-attention over up to ``max_length`` positions.

        ValueError for a kind of cache (see ``attention.cache``) that the mechanism lacks, and
        NotImplementedError if it cannot be used as self-attention.
        """
        self.check_plain(cache)
        if self.dim is None:
            raise NotImplementedError(
                f"{type(self).__name__} does not read its own sequence; it has no cache"
            )
        return InputCache(
            jnp.zeros((batch, max_length, self.dim), dtype),
            jnp.zeros((batch, max_length), jnp.int32),
            jnp.zeros((batch,), jnp.int32),
        )

    def check_plain(self, cache: Kind) -> None:
        """Raise a ValueError if ``cache`` is a kind that only multi-head attention has."""
        if cache != "plain":
            raise ValueError(
                f"cache={cache!r}: {type(self).__name__} has one kind of memory; wanted 'plain', "
                "or attention.kind=multi_head"
            )

    def decode(
        self,
        query: Float[Array, "B T D"],
        cache: Any,
        *,
        mask: Bool[Array, "#B #N #T #L"] | None = None,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
    ) -> tuple[AttentionOutput, Any]:
        """Run causal self-attention for the next T positions over the cache and themselves.

        ``mask`` and the weights have one column for each of the L positions of the cache;
        ``positions`` are those in the text, if they differ, as after padding. Rows that do not fit
        into the cache become NaN, because no error can be raised under jit. By default all earlier
        inputs are prepared again.
        """
        T, L = query.shape[1], cache.inputs.shape[1]
        slots, past = next_slots(cache.length, T, L)
        places = slots if positions is None else jnp.broadcast_to(positions, slots.shape)
        inputs = write(cache.inputs, query, cache.length)
        held = write(cache.positions, places, cache.length)
        visible = past if mask is None else past & mask
        memory = self.prepare(inputs.astype(query.dtype), mask=visible, positions=held)
        read = self.attend(query, memory, positions=places, return_weights=return_weights)
        read = nan_where_overflow(read, cache.length + T > L, return_weights)
        return read, InputCache(inputs, held, cache.length + T)


def joined(*functions: MaskFunction | None) -> MaskFunction | None:
    """Return the mask function that permits what all given ones permit; None permits all."""
    found = None
    for one in functions:
        if one is not None:
            found = one if found is None else And(found, one)
    return found


def nan_where_overflow(
    read: AttentionOutput, full: Bool[Array, " B"], return_weights: ReturnWeights
) -> AttentionOutput:
    """Replace the context by NaN in the rows that did not fit into a cache."""
    context, *seen = read if return_weights else (read,)
    context = jnp.where(full[:, None, None], jnp.full_like(context, jnp.nan), context)
    return (context, *seen) if return_weights else context
