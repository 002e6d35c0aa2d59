"""Properties of lengths: empty, one, and longer than a tile or chunk of an implementation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.testing.decoding import decode_many
from attnzoo.testing.explaining import TOLERANCE as UNEXPLAINED
from attnzoo.testing.explaining import explain
from attnzoo.testing.subject import (
    Broken,
    DoesNotApply,
    Inputs,
    Outputs,
    Subject,
    arguments,
    expect,
)

FAR = 256
"""Extra positions of long sequences; they cross the borders of tiles of 64, 128 and 256."""


def short_sequences(subject: Subject) -> None:
    """One query alone, or only the first one or two keys, give the same rows as among others."""
    inputs, sizes = subject.inputs("random"), subject.sizes
    wanted = subject.run(inputs)
    # With fewer queries than keys the attention's own causal rule may align either end.
    square = subject.visible is not None
    if sizes.T > 1 and not square:
        one = _cut(inputs, 1, 1, sizes.S)
        found = _run_unless_refused(subject, one)
        if found is not None:
            expect("context", found.context, wanted.context[:1, :1], subject.tolerance, one, found)
    for S in range(1, min(sizes.S, 3)):
        first = _first_keys_alone(inputs, S)
        if first is None:
            return
        few = _cut(first, 1, sizes.T, S)
        found = None if square else _run_unless_refused(subject, few)
        if found is None:
            few = _cut(first, 1, S, S)
            found = subject.run(few)
        rows = subject.run(first).context[:1, : few.query.shape[1]]
        expect("context", found.context, rows, subject.tolerance, few, found)


def empty_sequences(subject: Subject) -> None:
    """No query, or no row of a batch, gives empty results of the right shape."""
    inputs, sizes = subject.inputs("random"), subject.sizes
    like = subject.abstract(inputs)
    # An attention with its own causal rule reads its own sequence: no query, no key.
    square = subject.visible is not None
    for B, T in ((sizes.B, 0), (0, sizes.T)):
        none = _cut(inputs, B, T, T if square else sizes.S)
        try:
            found = [x.shape for x in subject.abstract(none)[:2]]
        except _refuses(subject):
            continue
        # Axes of the context after B T, and of the weights except B and T.
        wanted = [(B, T, *like[0].shape[2:])]
        wanted += [(B, x.shape[1], T, none.keys.shape[1]) for x in like[1:2]]
        if found != wanted:
            raise Broken(
                f"shapes are {found} of a query of shape {none.query.shape}; wanted {wanted}", none
            )


def long_sequences(subject: Subject) -> None:
    """Properties at few keys hold with 256 more: masks, sums, gradients, order, the same rows.

    The short sequence is put at the start, across position 128 and at the end of the long one, all
    else masked. Positions other than the start are tested only if a shift by one position makes no
    difference to the attention. ``decode`` behind 130 positions gives the causal call's row.
    """
    inputs = subject.inputs("random")
    far = _Far(subject, inputs)
    relations = _Relations(subject, inputs)
    if inputs.mask is not None:
        wanted = subject.run(inputs)
        places = [(0, 0)]
        places += [(125, 125), (FAR, FAR)] if relations.shifts() else []
        places += [(FAR, 0)] if relations.queries_shift() else []
        for place in places:
            far.expect_embedded(inputs, wanted, place)
    far.expect_rows(relations)
    for moved in ("query", "keys"):
        if relations.order_free(moved):
            far.expect_order_free(moved)
    decode_many(subject, FAR // 2 + 2, 10 * subject.tolerance)


class _Relations:
    """Relations that hold at the given sizes, and so must hold at larger ones."""

    def __init__(self, subject: Subject, inputs: Inputs):
        self.subject, self.inputs = subject, inputs
        self.found = subject.run(inputs)
        permitted = subject.permitted(inputs)
        weights = self.found.weights
        self.masks = subject.has_weights and not np.any(np.where(permitted, 0.0, weights))
        some = permitted.any(-1)
        self.normal = (
            subject.has_weights
            and bool(np.all(weights >= 0))
            and bool(np.all(np.abs(weights.sum(-1) - some) <= subject.weight_tolerance))
        )
        to_query, to_keys, to_values = subject.jacobian(inputs)
        at, rows = np.arange(subject.sizes.B), permitted.any(1)
        own = [x[at, :, at] for x in (to_query, to_keys, to_values)]
        self.reached = bool(np.all(own[2][rows] > 0))
        self.hidden = not (np.any(own[1][~rows]) or np.any(own[2][~rows]))
        self.ordered = not np.any(np.triu(own[0], 1))

    def order_free(self, moved: str) -> bool:
        """Return whether queries, or keys with their values, may come in any order."""
        other, order = _reversed(self.inputs, moved)
        wanted = self.found.context[:, order] if moved == "query" else self.found.context
        return _near(self.subject.run(other).context, wanted)

    def shifts(self) -> bool:
        """Return whether one more masked query and key at the start change nothing."""
        return self._shifted(slice(1, None))

    def queries_shift(self) -> bool:
        """Return whether one more query at the start and one more key at the end change nothing."""
        return self._shifted(slice(None, -1))

    def _shifted(self, keys: slice) -> bool:
        sizes, everything = self.subject.sizes, self.subject.inputs("all")
        if sizes.T == 1 or sizes.S == 1:
            return False
        assert everything.mask is not None
        mask = np.zeros_like(everything.mask)
        mask[..., (slice(None) if mask.shape[2] == 1 else slice(1, None)), keys] = True
        rest = slice(1, None) if mask.shape[2] > 1 else slice(None)
        cut = Inputs(
            everything.query[:, 1:],
            everything.keys[:, keys],
            everything.values[:, keys],
            mask[:, :, rest, keys],
        )
        found = self.subject.run(everything.replace(mask=mask)).context[:, 1:]
        return _near(found, self.subject.run(cut).context)


class _Far:
    """The attention on one long sequence, with gradients of four rows, in one program."""

    def __init__(self, subject: Subject, inputs: Inputs):
        sizes = subject.sizes
        larger = dataclasses.replace(sizes, B=1, T=sizes.T + FAR, S=sizes.S + FAR)
        self.small, self.of_small = subject, inputs
        self.subject = dataclasses.replace(subject, sizes=larger)
        self.inputs = self.subject.inputs("random")
        self.rows = np.asarray([100, 128, FAR - 1, larger.T - 1])
        features = subject.run(inputs).context.shape[2:]
        random = np.random.default_rng(subject.seed)
        self.cotangents = random.standard_normal((4, *features)).astype(np.float32)
        try:
            self.found, self.gradients = self._run(self.inputs)
        except (ValueError, NotImplementedError) as error:
            if subject.parameters(subject.dtype):
                raise DoesNotApply(f"not of {larger.S} keys: {error}") from error
            raise

    def _run(self, inputs: Inputs) -> tuple[Outputs, tuple[np.ndarray, ...]]:
        subject = self.subject

        def far(
            parameters: Any, query: Any, keys: Any, values: Any, mask: Any, rows: Any, given: Any
        ) -> Any:
            def read(query: Any, keys: Any, values: Any) -> Any:
                result = subject.call(parameters, query, keys, values, mask)
                return result[0], tuple(result[:2])

            context, back, result = jax.vjp(read, query, keys, values, has_aux=True)
            of_row = lambda row, given: back(jnp.zeros_like(context).at[0, row].set(given))  # noqa: E731
            return result, jax.vmap(of_row)(rows, given)

        with subject.precision():
            given = jnp.asarray(self.cotangents, subject.dtype)
            result, gradients = subject.jitted("far", far)(
                subject.parameters(subject.dtype),
                *arguments(inputs, subject.dtype),
                self.rows,
                given,
            )
            context, *weights = (np.asarray(x).astype(np.float64) for x in result)
            gradients = tuple(np.asarray(x).astype(np.float64)[:, 0] for x in gradients)
        weights = weights[0] if weights else np.zeros((0, 0, 0, 0))
        return Outputs(context, weights, tuple(str(x.dtype) for x in result)), gradients

    def expect_embedded(self, inputs: Inputs, wanted: Outputs, place: tuple[int, int]) -> None:
        """Expect the short sequence's results when it lies in the long one, all else masked."""
        at, key = place
        queries = slice(at, at + self.small.sizes.T)
        keys = slice(key, key + self.small.sizes.S)
        query, k, v = (x.copy() for x in (self.inputs.query, self.inputs.keys, self.inputs.values))
        query[:, queries], k[:, keys], v[:, keys] = (
            x[:1] for x in (inputs.query, inputs.keys, inputs.values)
        )
        assert self.inputs.mask is not None
        assert inputs.mask is not None
        mask = np.zeros_like(self.inputs.mask)
        mask[:, :, queries if mask.shape[2] > 1 else slice(None), keys] = inputs.mask[:1]
        found, _ = self._run(Inputs(query, k, v, mask))
        self._expect(f"context from {at} on", found.context[:, queries], wanted.context[:1])
        if self.subject.has_weights:
            weights = found.weights[:, :, queries, keys]
            self._expect(f"weights from {at}, {key} on", weights, wanted.weights[:1], True)

    def expect_rows(self, relations: _Relations) -> None:
        """Expect correct masks, sums and gradients of a random mask, and weights that were used."""
        permitted = self.subject.permitted(self.inputs)
        weights = self.found.weights
        self._zero("not finite: context", np.where(np.isfinite(self.found.context), 0.0, 1.0))
        if relations.masks:
            self._zero("weights", np.where(permitted, 0.0, weights))
        if relations.normal:
            sums = weights.sum(-1)
            # All keys of a window may be masked.
            read = permitted.any(-1) if relations.reached else permitted.any(-1) & (sums != 0)
            self._expect("row sums", sums, read.astype(float), True)
        to_query, to_keys, to_values = (_largest(x) for x in self.gradients)
        visible = np.any(permitted, axis=1)[0, self.rows]
        if relations.hidden:
            self._zero("gradient to keys that are hidden", np.where(visible, 0.0, to_keys))
            self._zero("gradient to values that are hidden", np.where(visible, 0.0, to_values))
        if relations.ordered:
            later = np.arange(to_query.shape[1]) > self.rows[:, None]
            self._zero("gradient to later queries", np.where(later, to_query, 0.0))
        # Weights that do not sum to 1 may be those of a decaying memory and reach 0.
        if relations.normal and relations.reached and np.any(visible & (to_values == 0)):
            row, key = np.argwhere(visible & (to_values == 0))[0]
            raise Broken(
                f"context[0, {self.rows[row]}] has gradient 0 to values[0, {key}], which it may "
                f"attend to, of {self.subject.sizes.S} keys"
            )
        if self.subject.has_weights and weights.size:
            self._expect_used(weights)

    def _expect_used(self, weights: np.ndarray) -> None:
        explanation = explain(self.small, self.of_small)
        if explanation.residual > UNEXPLAINED:
            return  # a residual at few keys is reported by the property of that name
        read = np.moveaxis(weights[0][:, self.rows], 0, -1)  # R S N
        found = self.gradients[2].reshape(*read.shape[:2], -1)  # R S Fv
        if explanation.shared == "everywhere":
            maps = explanation.maps.reshape(read.shape[-1], self.cotangents[0].size, -1)
            given = self.cotangents.reshape(len(self.rows), -1)
            wanted = np.einsum("rsn,nov,ro->rsv", read, maps, given)
        elif explanation.shared == "by all keys":
            wanted = read @ (np.linalg.pinv(read, rcond=1e-5) @ found)
        else:
            return
        size = np.max(np.abs(found), initial=1e-30)
        what = f"gradient of rows {self.rows.tolist()} to the values by the weights, relative"
        expect(what, found / size, wanted / size, UNEXPLAINED, self.of_small)

    def expect_order_free(self, moved: str) -> None:
        """Expect reversed results for reversed queries, the same for reversed keys and values."""
        other, order = _reversed(self.inputs, moved)
        wanted = self.found.context[:, order] if moved == "query" else self.found.context
        self._expect(f"context with {moved} in reverse", self._run(other)[0].context, wanted)

    def _expect(
        self, what: str, got: np.ndarray, wanted: np.ndarray, of_weights: bool = False
    ) -> None:
        # Relative to the largest: an unnormalised sum over 256 keys is a large number.
        size = max(1.0, float(np.max(np.abs(wanted), initial=0.0)))
        what = f"T={self.subject.sizes.T} S={self.subject.sizes.S}: {what}"
        # A rotary angle of 256 is accurate to 3e-5 in float32, ten times worse than one of 7.
        tolerance = self.subject.weight_tolerance if of_weights else self.subject.tolerance
        expect(what, got / size, wanted / size, 10 * tolerance, self.of_small)

    def _zero(self, what: str, got: np.ndarray) -> None:
        what = f"T={self.subject.sizes.T} S={self.subject.sizes.S}: {what}"
        expect(what, got, 0.0, 0.0, self.of_small)


def _reversed(inputs: Inputs, moved: str) -> tuple[Inputs, np.ndarray]:
    of_keys, mask = moved == "keys", inputs.mask
    order = np.arange((inputs.keys if of_keys else inputs.query).shape[1])[::-1]
    if mask is not None:
        axis = 3 if of_keys else 2
        mask = mask if mask.shape[axis] == 1 else mask.take(order, axis)
    names = ("keys", "values") if of_keys else ("query",)
    arrays = {name: getattr(inputs, name)[:, order] for name in names}
    return inputs.replace(**arrays, mask=mask), order


def _near(got: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.all(np.abs(got - wanted) <= 1e-4 * np.maximum(1.0, np.abs(wanted))))


def _largest(gradient: np.ndarray) -> np.ndarray:
    return np.max(np.abs(gradient), axis=tuple(range(2, gradient.ndim)))


def _cut(inputs: Inputs, B: int, T: int, S: int) -> Inputs:
    mask = inputs.mask
    if mask is not None:
        mask = mask[:B, :, : T if mask.shape[2] > 1 else 1, :S]
    return Inputs(inputs.query[:B, :T], inputs.keys[:B, :S], inputs.values[:B, :S], mask)


def _first_keys_alone(inputs: Inputs, S: int) -> Inputs | None:
    if inputs.mask is None:
        return None
    mask = np.zeros_like(inputs.mask)
    mask[..., :S] = True
    return inputs.replace(mask=mask)


def _refuses(subject: Subject) -> type[Exception] | tuple[type[Exception], ...]:
    """Return the exceptions that an attention with as many keys as queries may raise."""
    same = subject.sizes.T == subject.sizes.S
    return (ValueError, NotImplementedError) if same else ()


def _run_unless_refused(subject: Subject, inputs: Inputs) -> Outputs | None:
    try:
        return subject.run(inputs)
    except _refuses(subject):
        return None
