"""The contract of attention between two sequences, and the memory it reads.

``U_a h_j`` of Bahdanau et al. 2015 does not depend on the decoder step. A mechanism therefore
splits in two: ``prepare(keys, values, mask=...)`` returns a :class:`Memory` (a value, not hidden
state of the module), and ``attend(query, memory)`` reads it. Calling the module does both.

:class:`Attention` is all that a model may ask of a mechanism: how it is made from a config, what it
supports, how it reads a sequence at once, and how it reads one step by step.
"""

import dataclasses
import inspect
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.cache import InputCache, Kind, next_slots, write
from attnzoo.attention.projection import Initializer, glorot_uniform, read_heads
from attnzoo.module import Module
from attnzoo.ops.checks import check_dropout
from attnzoo.ops.masks import And, MaskFunction, causal, evaluate_mask
from attnzoo.ops.normalisers import NORMALISERS, Normalise
from attnzoo.ops.padding import broadcast_mask, check_and_zero_padding
from attnzoo.ops.rotary import Rotary
from attnzoo.ops.softmax import masked_softmax, weighted_values
from attnzoo.ops.weights import WeightRequest, with_weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """Keys as the mechanism wants them, the values, and where one may look.

    ``positions`` are the places of the keys in their text, 0 .. S-1 if None. The leading axis of
    every leaf is the batch, so that beam search can repeat or gather rows.
    """

    keys: Float[Array, "B S K"]
    values: Float[Array, "B S Dv"]
    mask: Bool[Array, "B #N #T S"] | None
    positions: Int[Array, "B S"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """The place of an attention in a model: widths, direction, and the model's own settings.

    Attributes:
      query_dim, key_dim, value_dim: widths of queries, keys and values; contexts are as wide as
        values.
      is_self: a sequence reads itself; else queries of one sequence read another.
      is_causal: of a sequence that reads itself, position t sees positions 0 .. t.
      max_length: longest sequence in tokens that the model takes; None: any.
      use_bias, out_bias: projections have biases, that of the result by ``out_bias`` if not None.
      rotary: how queries and keys turn with their positions, in a model with rotary positions.
      scale: factor on q . k of a model that does not divide scores by sqrt(H) (T5): the first
        values of W_q are divided instead.
      norm_eps: of norms within the attention. dropout: share of weights dropped while training.
      kernel_init, out_init: first values of the model's matrices.
      fan_in: a mechanism whose paper starts it at tiny weights starts at variance 1 / inputs.
    """

    query_dim: int
    key_dim: int
    value_dim: int
    is_self: bool = False
    is_causal: bool = False
    max_length: int | None = None
    use_bias: bool = False
    out_bias: bool | None = None
    rotary: Rotary | None = None
    scale: float | None = None
    norm_eps: float = 1e-6
    dropout: float = 0.0
    kernel_init: Initializer = glorot_uniform
    out_init: Initializer = glorot_uniform
    fan_in: bool = True

    @classmethod
    def of_itself(cls, dim: int, **settings: Any) -> "Site":
        """The place of a self-attention of states of width ``dim``."""
        return cls(query_dim=dim, key_dim=dim, value_dim=dim, is_self=True, **settings)


def columns_of(
    logits: Float[Array, "#B N T L"], S: int, positions: Int[Array, "B S"] | None
) -> Float[Array, "B N T S"]:
    """Return, of logits with a column for each of L positions, the columns of S keys."""
    if positions is None:
        return logits[..., :S]
    logits = jnp.broadcast_to(logits, (positions.shape[0], *logits.shape[1:]))
    return jnp.take_along_axis(logits, positions[:, None, None, :], axis=3, mode="clip")


Weights = Float[Array, "B N T S"]
Asked = bool | WeightRequest
Positions = Int[Array, "#B T"]
Read = Any
"""The context ``B T Do``; beside it, if asked for, the weights or a ``WeightReport`` of them."""


class Attention(Module):
    """The interface of every attention between a query sequence and a key sequence.

    A mechanism writes ``__init__``, ``prepare_keys``, ``prepare_values`` and ``scores``, as far as
    the defaults are not its own; one with a mask of its own overrides ``weigh``, one that weighs
    nothing ``attend``, one whose queries remember those before them ``extend`` and ``empty_past``,
    one with a cache of its own ``empty_cache`` and ``decode``.

    Attributes:
      num_heads: N, the heads of the weights.
      dim: width of the queries; None of an attention that no sequence can read itself with.
      dropout: share of weights dropped where a ``dropout_key`` is given.
      normalise: makes weights of scores and mask.
      perturbation: ``B N T S`` is added to the weights that values are weighed with, for gradients
        with respect to weights; ``attnzoo.explain`` puts it there.
    """

    is_recurrent: ClassVar[bool] = False
    """Query i reads what keys 0 .. i have written: causal by itself, blind to documents."""
    takes_score_mod: ClassVar[bool] = False
    """Scores can be modified by a function of indices (``score_mod``)."""
    takes_perturbation: ClassVar[bool] = True
    """Values are weighed by explicit weights, which can be varied."""
    supports: ClassVar[frozenset[str]] = frozenset({"dropout"})
    """Settings of a model that have an effect here: dropout, bias, rotary, score_mod, norm_eps."""
    asks_keys: ClassVar[bool] = True
    """Weights depend on the content of keys."""
    counts_positions: ClassVar[bool] = False
    """Scores depend on the places of keys, which a memory then holds."""
    heads_split_values: ClassVar[bool] = False
    """Each head reads its part of the values' last axis; else all heads read the same, in mean."""

    num_heads: int = 1
    dim: int | None = None
    dropout: float = 0.0
    normalise: Normalise = staticmethod(masked_softmax)
    perturbation: nnx.Perturbation | None = None

    @classmethod
    def from_config(cls, config: Any, site: Site, *, rngs: nnx.Rngs) -> "Attention":
        """Make the mechanism that a config line asks for, at its place in a model.

        Raises:
          ValueError: widths or settings that do not fit, by name.
        """
        return cls.by_name(config, site, rngs=rngs)

    @classmethod
    def by_name(cls, config: Any, site: Site, *, rngs: nnx.Rngs, **own: Any) -> Any:
        """Fill the parameters of ``__init__`` by their names: from ``own``, the config, the site.

        ``dim`` is the width of the queries, ``out_dim`` that of the values. Others, and those that
        are None, keep their defaults; what a query may see is for the model (``mask_mod=None``).
        """
        shared = "query_dim", "key_dim", "value_dim", "rotary", "dropout", "use_bias"
        at: dict[str, Any] = {name: getattr(site, name) for name in shared}
        at |= {"dim": site.query_dim, "out_dim": site.value_dim, "rngs": rngs}
        chosen: dict[str, Any] = {}
        for name in inspect.signature(cls.__init__).parameters:
            value: Any = own[name] if name in own else getattr(config, name, at.get(name))
            if value is not None or name == "mask_mod":
                chosen[name] = NORMALISERS[value] if name == "normalise" else value
        return cls(**chosen)

    @property
    def head_groups(self) -> int | None:
        """Number of groups of heads that several devices can share; None: heads stay together."""
        return None

    # One sequence reads another, or itself, at once.

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> Memory:
        """Do once what depends on keys and values alone; values are the keys if None.

        ``positions`` are the places of the keys in their text, 0 .. S-1 if None: only mechanisms
        that depend on them look.
        """
        keys, values = check_and_zero_padding(keys, values, mask)
        if positions is not None:
            whole = jnp.broadcast_to(positions, keys.shape[:2])
            positions = whole if self.counts_positions else None
        prepared = self.prepare_keys(keys), self.prepare_values(values)
        return Memory(*prepared, broadcast_mask(mask, keys), positions)

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Return the keys as :meth:`scores` wants them."""
        return keys

    def prepare_values(self, values: Float[Array, "B S Dv"]) -> Float[Array, "B S F"]:
        """Return the values as they are weighed."""
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
        return_weights: Asked = False,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Read:
        """Read a prepared memory.

        ``positions`` are the places of the queries in their text, 0 .. T-1 if None: only mechanisms
        that depend on them look. ``dropout_key`` switches dropout of weights on; the weights
        returned are those before it.
        """
        weights, visible = self.weigh(query, memory, positions)
        return self.read(weights, memory, visible, return_weights, dropout_key)

    def weigh(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None
    ) -> tuple[Weights, Bool[Array, "#B #N #T #S"] | None]:
        """Return the weights, and where the queries may look."""
        return self.normalise(self.scores(query, memory, positions), memory.mask), memory.mask

    def read(
        self,
        weights: Weights,
        memory: Memory,
        visible: Bool[Array, "#B #N #T #S"] | None,
        return_weights: Asked,
        dropout_key: Key[Array, ""] | None,
    ) -> Read:
        """Weigh the values; answer with the weights beside the context if they are asked for."""
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
        """Return what becomes of the weighed values: themselves, or their projection."""
        return context

    def perturbed(self, shape: tuple[int, ...]) -> Float[Array, "B N T S"]:
        """Return the perturbation, or raise a ValueError if it has not the shape of the weights."""
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
        return_weights: Asked = False,
        dropout_key: Key[Array, ""] | None = None,
        **more: Any,
    ) -> Read:
        """``B T D``, ``B S D``, ``B S Dv`` -> ``B T Do``; with the weights ``B N T S`` beside it if
        ``return_weights``, or a ``WeightReport`` of the rows, heads, largest weights or statistics
        that a ``WeightRequest`` asks for. Do is Dv unless values are projected. ``mask`` is bool,
        True = may attend, broadcastable to ``B N T S``. ``positions`` and ``key_positions`` are the
        places of queries and keys in their texts, 0 .. T-1 and 0 .. S-1 if None; ``more`` is for
        what a mechanism's ``attend`` takes beside.
        """
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
        """Return the mask with which ``x`` reads itself: an array, written out, if any.

        ``valid`` is False at padding; ``mask`` joins it, such as ``masks.document(ids)``.
        """
        array = None if valid is None else valid[:, None, None, :]
        function = joined(causal() if is_causal else None, mask)
        if function is None:
            return array
        B, T = x.shape[:2]
        pattern = evaluate_mask(function, (B, 1, T, T))
        return pattern if array is None else array & pattern

    # A decoder reads another sequence, some queries at a time.

    def empty_past(self, memory: Memory) -> Any:
        """Return the past before the first query: None, unless former queries count."""
        return None

    def extend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        past: Any,
        *,
        positions: Positions | None = None,
        return_weights: Asked = False,
    ) -> tuple[Read, Any]:
        """Read with the next T queries of a decoder: what :meth:`attend` gives, and the past for
        those after them. Queries one by one, in blocks or all at once give the same.
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
        """One query of a decoder after others: (context, weights, past for the next step).

        A mechanism that depends on ``position`` takes None for 0.
        """
        (context, weights), past = self.extend(
            query[:, None],
            memory,
            past,
            positions=None if position is None else position[:, None],
            return_weights=True,
        )
        return context[:, 0], weights[:, :, 0], past

    # A sequence reads its past, some positions at a time.

    def empty_cache(
        self, batch: int, max_length: int, dtype: Any = jnp.float32, cache: Kind = "plain"
    ) -> Any:
        """Room for ``max_length`` positions of a sequence that reads itself, none of them filled.

        ``cache`` is "plain" but for mechanisms that have other kinds (``attention.cache``).

        Raises:
          ValueError: there is no such cache.
          NotImplementedError: no sequence can read itself with this attention.
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
        """Refuse a kind of cache that only multi-head attention has."""
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
        return_weights: Asked = False,
    ) -> tuple[Read, Any]:
        """Self-attention of the T next positions (one, or a whole prompt) over the cache and them.

        Always causal. ``mask`` and weights have a key for each of the L positions of the cache.
        ``positions`` are places in the text where they are not those in the cache, as behind
        padding. Rows that do not fit into the cache are NaN, since under jit nothing can be raised.
        A mechanism without a cache of its own prepares all former inputs again.
        """
        T, L = query.shape[1], cache.inputs.shape[1]
        slots, past = next_slots(cache.length, T, L)
        places = slots if positions is None else jnp.broadcast_to(positions, slots.shape)
        inputs = write(cache.inputs, query, cache.length)
        held = write(cache.positions, places, cache.length)
        prepared = self.prepare(inputs.astype(query.dtype), positions=held)
        visible = past if mask is None else past & mask
        memory = dataclasses.replace(prepared, mask=broadcast_mask(visible, inputs))
        read = self.attend(query, memory, positions=places, return_weights=return_weights)
        read = nan_where_full(read, cache.length + T > L, return_weights)
        return read, InputCache(inputs, held, cache.length + T)


def joined(*functions: MaskFunction | None) -> MaskFunction | None:
    """Return the mask function that permits what all permit; None: everything."""
    found = None
    for one in functions:
        if one is not None:
            found = one if found is None else And(found, one)
    return found


def nan_where_full(read: Read, full: Bool[Array, " B"], return_weights: Asked) -> Read:
    """Return what was read with NaN for the rows that did not fit into a cache."""
    context, *seen = read if return_weights else (read,)
    context = jnp.where(full[:, None, None], jnp.full_like(context, jnp.nan), context)
    return (context, *seen) if return_weights else context
