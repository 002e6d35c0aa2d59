"""Question that an explanation answers: the patches or tokens that a model's answer depends on.

An explanation is a callable from a :class:`Question` to scores of its patches or tokens, ``B P``. A
question has everything that an explanation may need: the maps and their gradients, the answer, the
input vectors with gradients, and the model with units removed. An attribute that the model cannot
provide raises ``NotImplementedError`` with the reason. An explanation runs under ``jax.jit``.
Attributes are computed when they are first read, so read them before entering a loop.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnzoo.explain.attention_modules import attention_modules
from attnzoo.explain.capture import WeightGradients, capture_attention, weight_gradients
from attnzoo.explain.relevance import Pair
from attnzoo.explain.target import check_output, chosen

Explanation = Callable[[Any], Float[Array, "B P"]]


STATIC = {"static": True}
"""Metadata of a field that is static under jax.jit: each new value compiles again."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Question:
    """One answer for each example of a batch, with all that an explanation may use.

    Attributes:
      inputs, keywords: arguments of the model; the first axis of every array is the batch.
      at: explained row of the output ``B T V`` for each example; None for outputs ``B V``.
      classes: explained class or token for each example; None if ``function`` is given.
      function: function from the output to one number per example, in place of ``classes``.
      units: ``B P``, the unit that each patch or token belongs to, or -1 where it cannot be
        removed; ``count`` is the largest number of units, U.
      real: ``B T``, False at tokens without effect: padding, and later tokens of a causal model.
      fill: replacement of a removed unit.
      prefix: number of tokens before those that have scores.
      stack: name of the stack that the tokens pass through.
      num_samples: number of samples or steps in methods that average.
      layer, head: source of raw attention; the last layer and the mean of heads if None.
    """

    graph: Any = dataclasses.field(metadata=STATIC)
    state: Any
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]
    at: Any
    classes: Any
    units: Any
    real: Any
    key: Key[Array, ""]
    function: Any = dataclasses.field(metadata=STATIC)
    fill: Any = dataclasses.field(metadata=STATIC)
    count: int = dataclasses.field(metadata=STATIC)
    num_samples: int = dataclasses.field(metadata=STATIC)
    layer: int | None = dataclasses.field(metadata=STATIC)
    head: int | None = dataclasses.field(metadata=STATIC)
    prefix: int = dataclasses.field(metadata=STATIC)
    stack: str = dataclasses.field(metadata=STATIC)

    @property
    def model(self) -> Any:
        """The explained model."""
        return nnx.merge(self.graph, self.state)

    def logits(self, output: Any) -> Float[Array, "B V"]:
        """Return the explained row of the output."""
        if self.at is None:
            return output
        return jnp.take_along_axis(output, self.at[:, None, None], axis=1)[:, 0]

    def answer(self, output: Any) -> Float[Array, " B"]:
        """Return the explained number of an output: a logit, or the value of ``function``."""
        return chosen(self.logits(output) if self.function is None else output, self.target)

    @property
    def target(self) -> Any:
        """The classes, or ``function`` if it is given."""
        return self.classes if self.function is None else self.function

    def value(self, output: Any, *, log: bool = False) -> Float[Array, " B"]:
        """Return the probability of the answer, or the value of ``function``.

        The number that is measured while units are removed.
        """
        if self.function is not None:
            return self.answer(output)
        logits = self.logits(output).astype(jnp.float32)
        check_output(logits, self.classes)
        return chosen((jax.nn.log_softmax if log else jax.nn.softmax)(logits, axis=-1), self.target)

    @cached_property
    def output(self) -> Any:
        """Output of the model."""
        return self.model(*self.inputs, **self.keywords)

    @cached_property
    def weights(self) -> dict[str, Float[Array, "B N T S"]]:
        """All attention maps of the model, with rows of unreal tokens set to 0."""
        _, maps = capture_attention(self.model, *self.inputs, **self.keywords)
        return {name: self._rows(name, weights) for name, weights in maps.items()}

    @cached_property
    def gradients(self) -> WeightGradients:
        """Gradients of the answer with respect to all weights, and :attr:`weights`."""
        found = weight_gradients(self.model, self.answer, *self.inputs, **self.keywords)
        weights = {name: self._rows(name, w) for name, w in found.weights.items()}
        return found._replace(weights=weights)

    def _rows(self, name: str, weights: Float[Array, "B N T S"]) -> Float[Array, "B N T S"]:
        return jnp.where(self.real[:, None, :, None], weights.astype(jnp.float32), 0)

    @cached_property
    def self_attention(self) -> list[Float[Array, "B N T T"]]:
        """Self-attention maps of ``stack``, first layer to last."""
        return [self.weights[name] for name in self._names(self.weights)]

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Weights and gradients of self-attention, first layer to last."""
        return (self._pair(self._names(self.gradients.weights)),)

    def _pair(self, names: Iterable[str]) -> Pair:
        found, names = self.gradients, list(names)
        return [found.weights[n] for n in names], [found.gradients[n] for n in names]

    def _names(self, maps: Iterable[str]) -> list[str]:
        names = [name for name in maps if name.startswith(f"{self.stack}/")]
        if not names:
            raise NotImplementedError(f"{type(self.model).__name__} has no self-attention")
        return names

    def readable(self, names: Iterable[str]) -> list[str]:
        """Select the maps through which the scored tokens are read, first layer to last."""
        return self._names(names)

    @property
    def shown(self) -> str:
        """Name of the map that raw attention shows."""
        return self.readable(self.weights)[-1 if self.layer is None else self.layer]

    @property
    def last(self) -> str:
        """Name of the last self-attention in ``stack``."""
        names = [name for place in attention_modules(self.model) for name in place.names]
        return self._names(name for name in names if name.endswith("/self"))[-1]

    @property
    def reading(self) -> Float[Array, "B T"]:
        """Shares with which the answer is read from each token after the last layer."""
        raise NotImplementedError

    @property
    def reading_token(self) -> Float[Array, "B T"]:
        """Like :attr:`reading`, for a model that reads its answer from one token."""
        return self.reading

    def read(self, tokens_by_tokens: Float[Array, "B T S"]) -> Float[Array, "B P"]:
        """Return the scores in the rows of a map from which the answer is read."""
        return self.of_tokens(jnp.einsum("bt,bts->bs", self.reading, tokens_by_tokens))

    def of_tokens(self, scores: Float[Array, "B T"]) -> Float[Array, "B P"]:
        """Select the scores of patches or tokens from those of all tokens."""
        return scores[:, self.prefix :]

    @property
    def vectors(self) -> Any:
        """Input with a gradient, ``B ...``: pixels, or token vectors."""
        raise NotImplementedError

    def of_vectors(self, vectors: Any) -> Float[Array, " B"]:
        """Return the answer with other values of :attr:`vectors`."""
        raise NotImplementedError

    def by_unit(self, values: Any) -> Float[Array, "B P"]:
        """Sum values of the shape of :attr:`vectors` to scores of patches or tokens."""
        raise NotImplementedError

    def kept(self, keep: Bool[Array, "B U"], *, log: bool = False) -> Float[Array, " B"]:
        """Return :meth:`value` with ``fill`` in place of the units that are not kept."""
        raise NotImplementedError

    def gather(self, scores: Float[Array, "B P"]) -> Float[Array, "B U"]:
        """Return the importance of each removable unit, the sum over its tokens.

        NaN where an example has fewer units than others.
        """
        return jnp.where(self.has_unit, self._sums(scores)[:, : self.count], jnp.nan)

    def scatter(self, values: Float[Array, "B U"]) -> Float[Array, "B P"]:
        """Return the scores of tokens, each an equal share of its unit's."""
        sizes = self._sums(jnp.ones(self.units.shape, values.dtype))
        shares = jnp.pad(values, ((0, 0), (0, 1))) / jnp.maximum(sizes, 1)
        return jnp.where(self.units < 0, 0, jnp.take_along_axis(shares, self._place, axis=1))

    @property
    def unit_count(self) -> Any:
        """Number of units of each example."""
        return jnp.max(self.units, axis=1) + 1

    @property
    def has_unit(self) -> Bool[Array, "B U"]:
        """False where an example has fewer units than others."""
        return jnp.arange(self.count)[None] < self.unit_count[:, None]

    def there(self, keep: Bool[Array, "B U"]) -> Bool[Array, "B P"]:
        """Return the tokens that remain when units are kept."""
        every = jnp.pad(keep, ((0, 0), (0, 1)), constant_values=True)
        return jnp.take_along_axis(every, self._place, axis=1)

    @property
    def _place(self) -> Any:
        """Unit of each token, with ``count`` for tokens that are never removed."""
        return jnp.where(self.units < 0, self.count, self.units)

    def _sums(self, scores: Float[Array, "B P"]) -> Float[Array, "B units"]:
        """Return sums over the tokens of each unit, and over all other tokens."""
        zeros = jnp.zeros((self.count + 1,), scores.dtype)
        return jax.vmap(lambda s, p: zeros.at[p].add(s))(scores, self._place)

    def scores(
        self, methods: Iterable[tuple[str, Explanation]]
    ) -> tuple[dict[str, Float[Array, "B P"]], dict[str, str]]:
        """Return scores by method, and the reasons why the other methods do not apply."""
        found: dict[str, Any] = {}
        skipped: dict[str, str] = {}
        for name, method in methods:
            try:
                scores = method(self)
            except NotImplementedError as reason:
                skipped[name] = str(reason)
                continue
            if scores.shape != self.units.shape:
                raise ValueError(
                    f"{name}: scores of shape {scores.shape}; wanted B P = {self.units.shape}"
                )
            found[name] = jnp.where(self.real[:, self.prefix :], scores.astype(jnp.float32), 0)
        return found, skipped

    def cases(self) -> "Question":
        """Return the question with one answer per example."""
        return self

    def of_rows(self, rows: Any) -> "Question":
        """Return the question for these examples, which may repeat."""
        per_example = ("inputs", "keywords", "at", "classes", "units", "real")
        taken = {name: jax.tree.map(lambda x: x[rows], getattr(self, name)) for name in per_example}
        return dataclasses.replace(self, **taken)
