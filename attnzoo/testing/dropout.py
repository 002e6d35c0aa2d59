"""Properties of dropout: seeded by a key, unbiased, and consistent with the returned weights."""

import copy
import dataclasses
import inspect
from typing import Any

import jax
import numpy as np

from attnzoo.testing.explaining import explain
from attnzoo.testing.subject import Broken, DoesNotApply, Inputs, Subject, arguments, expect

RATE = 0.25
"""Dropout rate that is set on an attention whose rate is 0."""
DRAWS = 384
"""Number of keys whose mean is compared with the result without dropout."""
DEVIATIONS = 6.0
"""Permitted deviation of a mean in standard deviations; 1 in 5e8 means lies beyond."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Results of many keys, the last one being the first again; ``calm`` is without a key."""

    calm: np.ndarray
    contexts: np.ndarray
    weights: np.ndarray
    gradients: list[np.ndarray]


def dropout(subject: Subject) -> None:
    """A ``dropout_key`` drops weights and keeps their mean; without a key nothing is dropped.

    The same key gives the same result, another key another one. Padding has no effect, and
    gradients are finite.
    """
    inputs = subject.inputs("random")
    drawn, undropped = _draw(subject, inputs), subject.run(inputs)
    expect("context without a key", drawn.calm, undropped.context, subject.tolerance, inputs)
    contexts, weights = drawn.contexts[:-1], drawn.weights[:-1]
    expect("context of the same key", drawn.contexts[-1], contexts[0], 0.0, inputs)
    if not np.any(contexts != contexts[:1]):
        raise Broken(f"{DRAWS} keys all give the same context: nothing is drawn from them", inputs)
    if subject.has_weights:
        forbidden = ~np.broadcast_to(subject.permitted(inputs), weights.shape[1:])
        expect("dropped weights", np.where(forbidden, weights, 0.0), 0.0, 0.0, inputs)
        _expect_mean("weights", weights, undropped.weights, inputs)
        if explain(subject, inputs).shared != "by all keys":  # the context is linear in the weights
            _expect_mean("context", contexts, undropped.context, inputs)
    if inputs.mask is None:
        return
    clean = subject.inputs("padding")
    assert clean.mask is not None
    padding = ~clean.mask[:, 0, 0]
    keys, values = clean.keys.copy(), clean.values.copy()
    keys[padding] = values[padding] = np.nan
    spoilt = clean.replace(keys=keys, values=values)
    found, wanted = _draw(subject, spoilt), _draw(subject, clean)
    expect("dropped context", found.contexts, wanted.contexts, subject.tolerance, spoilt)
    for name, gradient in zip(subject.sizes.names, found.gradients):
        bad = np.where(np.isfinite(gradient), 0.0, gradient)
        expect(f"gradient to {name} under dropout", bad, 0.0, 0.0, spoilt)


def weights_after_dropout(subject: Subject) -> None:
    """Under dropout, the returned weights are the weights used, or all weights before dropout.

    Dropout acts on weights, not on elements of the result.
    """
    inputs = subject.inputs("random")
    drawn, undropped = _draw(subject, inputs), subject.run(inputs)
    found = explain(subject, inputs)
    if found.shared != "everywhere":
        raise DoesNotApply("the context is not linear in the values")
    B, S = inputs.keys.shape[:2]
    values = inputs.values.reshape(B, S, -1)
    maps = found.maps.reshape(found.maps.shape[0], -1, values.shape[-1])  # N O V
    if np.abs(drawn.weights - undropped.weights).max(initial=0.0) <= subject.weight_tolerance:
        _expect_whole_weights(subject, inputs, maps)
        return
    read = np.einsum("rbnts,nov,bsv->rbto", drawn.weights - undropped.weights, maps, values)
    wanted = undropped.context[None] + read.reshape(drawn.contexts.shape)
    expect("context under dropout", drawn.contexts, wanted, 1e-3, inputs)


def _expect_whole_weights(subject: Subject, inputs: Inputs, maps: np.ndarray) -> None:
    """Expect that one key's contribution of each head is dropped as a whole or not at all."""
    heads = maps.shape[0]
    if heads > 6:
        return  # there would be 2^N sums
    kept = np.zeros_like(inputs.values)
    kept[:, 0] = inputs.values[:, 0]
    one = inputs.replace(values=kept)
    drawn = _draw(subject, one)
    base = subject.run(inputs.replace(values=np.zeros_like(kept))).context
    parts = np.einsum(
        "bnt,nov,bv->nbto",
        subject.run(one).weights[..., 0],
        maps,
        kept[:, 0].reshape(len(kept), -1),
    )
    rate = getattr(subject.attention, "dropout", 0.0) or RATE
    subsets = np.asarray(np.meshgrid(*[[0.0, 1 / (1 - rate)]] * heads)).reshape(heads, -1)
    sums = np.einsum("nk,nbto->kbto", subsets, parts)
    contexts = (drawn.contexts - base[None]).reshape(len(drawn.contexts), 1, *sums.shape[1:])
    off = np.abs(contexts - sums[None]).max(-1).min(1)
    if off.max() > 1e-3 * max(1.0, np.abs(sums).max()):
        raise Broken("what is dropped are numbers of the result, not weights", one)


def _draw(subject: Subject, inputs: Inputs) -> Drawn:
    if "dropout" not in getattr(subject.attention, "supports", ("dropout",)):
        raise DoesNotApply("it declares that it has no weights to drop")
    rate = getattr(subject.attention, "dropout", None)
    if isinstance(rate, bool) or not isinstance(rate, float | int):
        raise DoesNotApply("it has no rate `dropout`")
    takes = inspect.signature(subject.attention).parameters.values()
    if not any(p.name == "dropout_key" or p.kind is p.VAR_KEYWORD for p in takes):
        raise DoesNotApply("it takes no dropout_key")

    def call(parameters: Any, given: Any, mask: Any, key: Any) -> Any:
        attention = _with_rate(subject, parameters, rate or RATE)
        keywords = {} if mask is None else {"mask": mask}
        keywords |= {} if key is None else {"dropout_key": key}
        if not subject.has_weights:
            return (attention(*given, **keywords),)
        return attention(*given, **keywords, return_weights=True)[:2]

    def draw(parameters: Any, given: Any, mask: Any, cotangent: Any, keys: Any) -> Any:
        def one(key: Any) -> Any:
            def loss(given: Any) -> Any:
                result = call(parameters, given, mask, key)
                return (result[0] * cotangent).sum(), result

            return jax.grad(loss, has_aux=True)(given)

        return call(parameters, given, mask, None)[0], jax.vmap(one)(keys)

    random = np.random.default_rng(subject.seed)
    shape = subject.run(inputs).context.shape
    with subject.precision():
        *given, mask = arguments(inputs, subject.dtype)
        cotangent = random.standard_normal(shape).astype(subject.dtype)
        keys = jax.random.split(jax.random.key(subject.seed), DRAWS)
        keys = keys[np.asarray([*range(DRAWS), 0])]
        try:
            calm, (gradients, result) = subject.jitted("dropout", draw)(
                subject.parameters(subject.dtype), given, mask, cotangent, keys
            )
        except NotImplementedError as error:
            raise DoesNotApply(str(error)) from error
        context, *weights = (np.asarray(x).astype(np.float64) for x in result)
        return Drawn(
            np.asarray(calm).astype(np.float64),
            context,
            weights[0] if weights else np.zeros((0, 0, 0, 0, 0)),
            [np.asarray(x).astype(np.float64) for x in gradients],
        )


def _with_rate(subject: Subject, parameters: Any, rate: float) -> Any:
    given = subject.attention
    attention: Any = subject.with_parameters(parameters)
    attention = copy.copy(given) if attention is given else attention
    if getattr(attention, "dropout", None) == rate:
        return attention
    try:
        attention.dropout = rate
    except AttributeError as error:
        raise DoesNotApply("its rate `dropout` is 0 and cannot be set") from error
    return attention


def _expect_mean(what: str, drawn: np.ndarray, wanted: np.ndarray, inputs: Inputs) -> None:
    """Compare the mean of each number and of their sum, which shows a small common factor."""
    for name, x, y in (
        ("", drawn, wanted),
        ("sum of ", drawn.reshape(len(drawn), -1).sum(1), np.asarray(wanted.sum())),
    ):
        error = DEVIATIONS * x.std(0) / len(x) ** 0.5 + 1e-4 * np.maximum(1.0, np.abs(y))
        off = np.asarray((x.mean(0) - y) / error)
        if np.max(np.abs(off)) > 1:
            at = np.unravel_index(np.argmax(np.abs(off)), off.shape)
            raise Broken(
                f"mean of {name}{what}{list(map(int, at))} over {len(x)} keys is "
                f"{x.mean(0)[at]:.5g}; without dropout it is {y[at]:.5g}, "
                f"{DEVIATIONS * abs(off[at]):.3g} standard deviations away",
                inputs,
            )
