"""The question that an explanation answers: by which patches or tokens a model gives its answer.

An explanation is a callable from a :class:`Question` to scores of its patches or tokens, ``B P``.
Everything that it may need is an attribute here: the maps and their gradients, the answer, the
vectors that a gradient reaches, and the model with units taken away. What a model does not have is
a ``NotImplementedError`` with the reason. An explanation runs under ``jax.jit``; it should read
attributes before it enters a loop of its own, since they are computed where they are first read.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnzoo.explain.capture import WeightGradients, capture_attention, weight_gradients
from attnzoo.explain.places import places
from attnzoo.explain.relevance import Pair
from attnzoo.explain.target import check_output, chosen

Explanation = Callable[[Any], Float[Array, "B P"]]


STATIC = {"static": True}
"""A field that jax.jit compiles for, a value each."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Question:
    """One answer for each example of a batch, and all that an explanation may use of the model.

    Attributes:
      inputs, keywords: what the model is called with; every array has an example a row.
      at: the row of the output ``B T V`` that is explained, an example each; None of ``B V``.
      classes: the class or token that is explained, an example each; None where ``function``, from
        the output to a number an example, stands for it.
      units: ``B P``, the number of the unit that each patch or token belongs to, or -1 where it
        cannot be taken away; ``count`` is the largest number of units, U.
      real: ``B T``, False at tokens that cannot matter: padding, and what a causal model reads
        later.
      fill: what takes the place of a unit that is taken away.
      prefix: how many tokens stand before those that have scores.
      stack: the stack of blocks that the tokens pass through.
      draws: of methods that average.
      layer, head: whose raw attention; the last layer, and the mean of heads, if None.
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
    draws: int = dataclasses.field(metadata=STATIC)
    layer: int | None = dataclasses.field(metadata=STATIC)
    head: int | None = dataclasses.field(metadata=STATIC)
    prefix: int = dataclasses.field(metadata=STATIC)
    stack: str = dataclasses.field(metadata=STATIC)

    @property
    def model(self) -> Any:
        """The model."""
        return nnx.merge(self.graph, self.state)

    def logits(self, output: Any) -> Float[Array, "B V"]:
        """The row of the output that is explained."""
        if self.at is None:
            return output
        return jnp.take_along_axis(output, self.at[:, None, None], axis=1)[:, 0]

    def answer(self, output: Any) -> Float[Array, " B"]:
        """The number that is explained, of an output: a logit, or what ``function`` says."""
        return chosen(self.logits(output) if self.function is None else output, self.target)

    @property
    def target(self) -> Any:
        """The classes, or the function in their place."""
        return self.classes if self.function is None else self.function

    def value(self, output: Any, *, log: bool = False) -> Float[Array, " B"]:
        """The number that is watched while units are taken away: the probability of the answer, or
        what ``function`` says.
        """
        if self.function is not None:
            return self.answer(output)
        logits = self.logits(output).astype(jnp.float32)
        check_output(logits, self.classes)
        return chosen((jax.nn.log_softmax if log else jax.nn.softmax)(logits, axis=-1), self.target)

    @cached_property
    def output(self) -> Any:
        """The model's output."""
        return self.model(*self.inputs, **self.keywords)

    @cached_property
    def weights(self) -> dict[str, Float[Array, "B N T S"]]:
        """All maps of the model, without rows of tokens that are not real."""
        _, maps = capture_attention(self.model, *self.inputs, **self.keywords)
        return {name: self._rows(name, weights) for name, weights in maps.items()}

    @cached_property
    def gradients(self) -> WeightGradients:
        """The gradient of the answer by every weight, and the weights as in :attr:`weights`."""
        found = weight_gradients(self.model, self.answer, *self.inputs, **self.keywords)
        weights = {name: self._rows(name, w) for name, w in found.weights.items()}
        return found._replace(weights=weights)

    def _rows(self, name: str, weights: Float[Array, "B N T S"]) -> Float[Array, "B N T S"]:
        return jnp.where(self.real[:, None, :, None], weights.astype(jnp.float32), 0)

    @cached_property
    def self_attention(self) -> list[Float[Array, "B N T T"]]:
        """The maps of the one stack that the tokens pass through, first layer to last."""
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
        """The maps that lead to the scored tokens, first layer to last, of the names of all."""
        return self._names(names)

    @property
    def shown(self) -> str:
        """The name of the map whose raw attention is shown."""
        return self.readable(self.weights)[-1 if self.layer is None else self.layer]

    @property
    def last(self) -> str:
        """The name of the last self-attention that the tokens pass through."""
        names = [name for place in places(self.model) for name in place.names]
        return self._names(name for name in names if name.endswith("/self"))[-1]

    @property
    def reading(self) -> Float[Array, "B T"]:
        """The shares with which the answer is read from each token behind the last layer."""
        raise NotImplementedError

    @property
    def reading_token(self) -> Float[Array, "B T"]:
        """:attr:`reading` of a model that reads its answer from one token."""
        return self.reading

    def read(self, tokens_by_tokens: Float[Array, "B T S"]) -> Float[Array, "B P"]:
        """Scores by the rows of a map at which the answer is read."""
        return self.of_tokens(jnp.einsum("bt,bts->bs", self.reading, tokens_by_tokens))

    def of_tokens(self, scores: Float[Array, "B T"]) -> Float[Array, "B P"]:
        """Scores of units, of those of all tokens."""
        return scores[:, self.prefix :]

    @property
    def vectors(self) -> Any:
        """The input that a gradient reaches, ``B ...``: pixels, or the vectors of tokens."""
        raise NotImplementedError

    def of_vectors(self, vectors: Any) -> Float[Array, " B"]:
        """The answer when these are read in place of :attr:`vectors`."""
        raise NotImplementedError

    def by_unit(self, values: Any) -> Float[Array, "B P"]:
        """Scores of units: sums of values of the shape of :attr:`vectors`."""
        raise NotImplementedError

    def kept(self, keep: Bool[Array, "B U"], *, log: bool = False) -> Float[Array, " B"]:
        """:meth:`value` with ``fill`` in place of the units that are not kept."""
        raise NotImplementedError

    def gather(self, scores: Float[Array, "B P"]) -> Float[Array, "B U"]:
        """The importance of each unit that can be taken away, the sum over its tokens; NaN where an
        example has fewer.
        """
        return jnp.where(self.has_unit, self._sums(scores)[:, : self.count], jnp.nan)

    def scatter(self, values: Float[Array, "B U"]) -> Float[Array, "B P"]:
        """Scores of tokens: each token of a unit has an equal share of the unit's."""
        sizes = self._sums(jnp.ones(self.units.shape, values.dtype))
        shares = jnp.pad(values, ((0, 0), (0, 1))) / jnp.maximum(sizes, 1)
        return jnp.where(self.units < 0, 0, jnp.take_along_axis(shares, self._place, axis=1))

    @property
    def unit_count(self) -> Any:
        """How many units each example has."""
        return jnp.max(self.units, axis=1) + 1

    @property
    def has_unit(self) -> Bool[Array, "B U"]:
        """False where an example has fewer units than others."""
        return jnp.arange(self.count)[None] < self.unit_count[:, None]

    def there(self, keep: Bool[Array, "B U"]) -> Bool[Array, "B P"]:
        """Which tokens stay when units are kept."""
        every = jnp.pad(keep, ((0, 0), (0, 1)), constant_values=True)
        return jnp.take_along_axis(every, self._place, axis=1)

    @property
    def _place(self) -> Any:
        """``units``, with ``count`` for what is never taken away."""
        return jnp.where(self.units < 0, self.count, self.units)

    def _sums(self, scores: Float[Array, "B P"]) -> Float[Array, "B units"]:
        """Sums over the tokens of each unit, and over all others."""
        zeros = jnp.zeros((self.count + 1,), scores.dtype)
        return jax.vmap(lambda s, p: zeros.at[p].add(s))(scores, self._place)

    def scores(
        self, methods: Iterable[tuple[str, Explanation]]
    ) -> tuple[dict[str, Float[Array, "B P"]], dict[str, str]]:
        """What the methods say, and why the others do not apply."""
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
        """The question with one answer an example."""
        return self

    def of_rows(self, rows: Any) -> "Question":
        """The same question of these examples, any number of times each."""
        per_example = ("inputs", "keywords", "at", "classes", "units", "real")
        taken = {name: jax.tree.map(lambda x: x[rows], getattr(self, name)) for name in per_example}
        return dataclasses.replace(self, **taken)
