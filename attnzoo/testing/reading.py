"""Properties of weights and outputs: the keys and values that a query reads."""

import inspect

import jax
import numpy as np

from attnzoo.testing.subject import (
    Broken,
    DoesNotApply,
    FunctionSizes,
    Inputs,
    Subject,
    arguments,
    expect,
)


def shapes(subject: Subject) -> None:
    """Context ``B T ..`` in the input's dtype, weights ``B N T S`` in float32."""
    inputs, sizes = subject.inputs("random"), subject.sizes
    found = subject.run(inputs)
    if found.context.shape[:2] != (sizes.B, sizes.T) or found.context.ndim != inputs.query.ndim:
        raise Broken(
            f"context has shape {found.context.shape}; wanted B={sizes.B} T={sizes.T} and "
            f"{inputs.query.ndim} axes",
            inputs,
        )
    heads = found.weights.shape[1:2]
    if isinstance(sizes, FunctionSizes):
        heads = (sizes.N,)
    if subject.has_weights and found.weights.shape != (sizes.B, *heads, sizes.T, sizes.S):
        raise Broken(
            f"weights have shape {found.weights.shape}; wanted B N T S with B={sizes.B} "
            f"T={sizes.T} S={sizes.S}",
            inputs,
        )
    wanted = (subject.dtype, "float32")[: len(found.dtypes)]
    if subject.dtype == "float32" and found.dtypes != wanted:
        raise Broken(f"dtypes of (context, weights) are {found.dtypes}; wanted {wanted}", inputs)


def deterministic(subject: Subject) -> None:
    """A repeated call gives the same bits, even after eager or compiled calls with other inputs.

    The calls in between have other numbers and another mask of the same shapes; they must agree
    with their compiled versions.
    """
    inputs, other = subject.inputs("random"), subject.inputs("padding", draw=1)
    # Compiled first, so that state left behind by tracing affects the eager calls.
    compiled, first = subject.run(other), subject.run(inputs, eager=True)
    between = subject.run(other, eager=True)
    second = subject.run(inputs, eager=True)
    expect("context of a second call", second.context, first.context, 0.0, inputs, second)
    expect("weights of a second call", second.weights, first.weights, 0.0, inputs, second)
    tolerance, what = subject.tolerance, "after a call with other inputs"
    expect(f"context {what}", between.context, compiled.context, tolerance, other, between)
    tolerance = subject.weight_tolerance
    expect(f"weights {what}", between.weights, compiled.weights, tolerance, other, between)


def same_without_weights(subject: Subject) -> None:
    """Asking for the weights does not change the context."""
    inputs = subject.inputs("random")
    context, wanted = subject.run_without_weights(inputs), subject.run(inputs).context
    expect("context", context, wanted, subject.tolerance, inputs)


def masked_weights_are_zero(subject: Subject) -> None:
    """Weights where a query may not attend are exactly 0."""
    for inputs in _masked(subject):
        found = subject.run(inputs)
        forbidden = ~np.broadcast_to(subject.permitted(inputs), found.weights.shape)
        expect("weights", np.where(forbidden, found.weights, 0.0), 0.0, 0.0, inputs, found)


def rows_sum_to_one(subject: Subject) -> None:
    """The weights of a query that may attend somewhere sum to 1."""
    for inputs in _masked(subject):
        found = subject.run(inputs)
        some = np.any(subject.permitted(inputs), axis=-1)
        expect("row sums", found.weights.sum(-1), some, subject.weight_tolerance, inputs, found)


def not_negative(subject: Subject) -> None:
    """No weight is negative."""
    inputs = subject.inputs("random")
    found = subject.run(inputs)
    expect("weights", np.minimum(found.weights, 0.0), 0.0, 0.0, inputs, found)


def weights_follow_input(subject: Subject) -> None:
    """Other queries and keys give other weights, so that other properties do not hold trivially."""
    inputs, other = subject.inputs("random"), subject.inputs("random", draw=1)
    if subject.sizes.S == 1:
        return
    first = subject.run(inputs)
    second = subject.run(inputs.replace(query=other.query, keys=other.keys))
    if np.max(np.abs(first.weights - second.weights)) < 1e-4:
        raise Broken(
            "other queries and keys give the same weights, so most properties would hold of "
            "anything: give the parameters values that are not zero",
            inputs,
            first,
        )


def fully_masked_rows(subject: Subject) -> None:
    """A row without a permitted key: zero weights, output and gradients; no harm to other rows.

    Rows before it and in the rest of the batch are unchanged. Later rows may depend on it (in a
    mechanism with a memory of former queries) but are finite.
    """
    inputs = subject.inputs("random")
    assert inputs.mask is not None
    mask = inputs.mask.copy()
    rows = slice(None) if mask.shape[2] == 1 else subject.sizes.T // 2
    mask[0, :, rows] = False
    emptied = inputs.replace(mask=mask)
    found, before = subject.run(emptied), subject.run(inputs)
    empty = np.zeros((subject.sizes.B, subject.sizes.T), bool)
    empty[0, rows] = True
    at = empty.reshape(empty.shape + (1,) * (found.context.ndim - 2))
    expect("context", np.where(at, found.context, 0.0), 0.0, 0.0, emptied, found)
    if subject.has_weights:
        row = empty[:, None, :, None]
        expect("weights", np.where(row, found.weights, 0.0), 0.0, 0.0, emptied, found)
    later = np.logical_or.accumulate(empty, axis=1).reshape(at.shape)
    others = np.where(later, before.context, found.context)
    expect("context of other rows", others, before.context, subject.tolerance, emptied, found)
    bad = np.where(np.isfinite(found.context), 0.0, found.context)
    expect("context", bad, 0.0, 0.0, emptied, found)
    for name, derivative in zip(subject.sizes.names, subject.jacobian(emptied)):
        of_empty = np.where(empty[:, :, None, None], derivative, 0.0)
        expect(f"gradient of an empty row to {name}", of_empty, 0.0, 0.0, emptied)
        finite = np.where(np.isfinite(derivative), 0.0, derivative)
        expect(f"gradient to {name}", finite, 0.0, 0.0, emptied)


def masks_broadcast(subject: Subject) -> None:
    """A mask with axes of size 1 equals the broadcast mask, and no mask equals all True.

    Masks are ``B 1 T S``, ``1 1 T S``, ``B 1 1 S`` and ``1 1 1 S``; only the last two for an
    attention whose masks only mark real keys.
    """
    inputs = subject.inputs("random")
    assert inputs.mask is not None
    rows, padding, everything = inputs.mask[:, :1], subject.inputs("padding").mask, None
    assert padding is not None
    padding = padding[:, :1, :1]
    masks = {"B 1 1 S": padding, "1 1 1 S": padding[:1], "none": everything}
    if subject.has_row_masks:
        masks |= {"B 1 T S": rows, "1 1 T S": rows[:1]}
    for (name, mask), found in zip(masks.items(), subject.run_masks(inputs, list(masks.values()))):
        full = np.broadcast_to(True if mask is None else mask, inputs.mask.shape)
        given, wanted = inputs.replace(mask=mask), subject.run(inputs.replace(mask=full))
        what = f"mask {name}: " if mask is not None else "without mask: "
        expect(f"{what}context", found.context, wanted.context, subject.tolerance, given, found)
        tolerance = subject.weight_tolerance
        expect(f"{what}weights", found.weights, wanted.weights, tolerance, given, found)


def float_mask_is_refused(subject: Subject) -> None:
    """A float mask, which may be meant as a bias, raises an error."""
    inputs = subject.inputs("random")
    assert inputs.mask is not None
    *arrays, mask = arguments(inputs, "float32")
    try:
        subject.call([], *arrays, jax.device_put(np.asarray(mask, np.float32)))
    except Exception:  # any error: a shape checker may raise before the attention does
        return
    raise Broken("mask of dtype float32 was taken without an error; wanted a ValueError", inputs)


def padding_changes_nothing(subject: Subject) -> None:
    """Additional masked keys at the end do not change the context.

    As in a sequence that attends to itself, the last query is padding, too.
    """
    S, T = subject.sizes.S, subject.sizes.T
    if S == 1:
        return
    real = max(T - 1, 1)
    inputs = subject.inputs("all")
    assert inputs.mask is not None
    mask = inputs.mask.copy()
    mask[..., S - 1 :] = False
    padded = inputs.replace(mask=mask)
    if not subject.permitted(padded).any(-1).all():
        return  # at this size a row sees only padding
    cut = Inputs(
        inputs.query[:, :real],
        inputs.keys[:, :-1],
        inputs.values[:, :-1],
        inputs.mask[..., :real, :-1],
    )
    found, wanted = subject.run(padded), subject.run(cut)
    context = found.context[:, :real]
    expect("context", context, wanted.context, subject.tolerance, padded, found)


def nan_in_padding(subject: Subject) -> None:
    """NaN and inf in fully masked keys and values reach no output and no gradient."""
    clean = subject.inputs("padding")
    assert clean.mask is not None
    padding = ~clean.mask[:, 0, 0]
    wanted = subject.run(clean)
    for value in (np.nan, np.inf):
        keys, values = clean.keys.copy(), clean.values.copy()
        keys[padding] = values[padding] = value
        inputs = clean.replace(keys=keys, values=values)
        found = subject.run(inputs)
        expect("context", found.context, wanted.context, subject.tolerance, inputs, found)
        if subject.has_weights:
            expect(
                "weights", found.weights, wanted.weights, subject.weight_tolerance, inputs, found
            )
        for name, derivative in zip(subject.sizes.names, subject.jacobian(inputs)):
            bad = np.where(np.isfinite(derivative), 0.0, derivative)
            expect(f"gradient to {name}", bad, 0.0, 0.0, inputs)
            if name != subject.sizes.names[0]:
                leaked = np.where(padding, derivative, 0.0)
                expect(f"gradient to padded {name}", leaked, 0.0, 0.0, inputs)


def queries_exchangeable(subject: Subject) -> None:
    """Permuted queries (with their mask rows) give the same rows in the permuted order."""
    _only_without_own_rule(subject)
    inputs = subject.inputs("random")
    order = np.arange(subject.sizes.T)[::-1]
    mask = inputs.mask
    if mask is not None and mask.shape[2] > 1:
        mask = mask[:, :, order]
    moved = inputs.replace(query=inputs.query[:, order], mask=mask)
    found, before = subject.run(moved), subject.run(inputs)
    expect("context", found.context, before.context[:, order], subject.tolerance, moved, found)


def keys_exchangeable(subject: Subject) -> None:
    """Permuted keys and values (with their mask columns) give the same context."""
    _only_without_own_rule(subject)
    inputs = subject.inputs("random")
    moved, order = _keys_moved(inputs)
    mask = None if inputs.mask is None else inputs.mask[..., order]
    moved = moved.replace(mask=mask)
    found, before = subject.run(moved), subject.run(inputs)
    expect("context", found.context, before.context, subject.tolerance, moved, found)


def causal_mask_orders_keys(subject: Subject) -> None:
    """Permuted keys under an unchanged causal mask give another context."""
    inputs = subject.inputs("causal")
    if subject.sizes.S == 1 or subject.permitted(inputs).all():
        return
    moved, _ = _keys_moved(inputs)
    found, before = subject.run(moved), subject.run(inputs)
    if np.max(np.abs(found.context - before.context)) < 1e-3:
        raise Broken(
            "keys in another order under the same causal mask gave the same context: "
            "the mask is not looked at",
            inputs,
            found,
        )


def convex_hull(subject: Subject) -> None:
    """Each number of the context lies between the least and greatest permitted value."""
    inputs = subject.inputs("random")
    found = subject.run(inputs)
    values = _of_query_heads(subject, inputs.values)  # B S N Hv
    if found.context.shape[2:] != inputs.query.shape[2:-1] + inputs.values.shape[-1:]:
        raise Broken(
            f"context has shape {found.context.shape}, not the width of the values", inputs
        )
    context = found.context.reshape(*found.context.shape[:2], -1, values.shape[-1])
    permitted = subject.permitted(inputs)[..., None]  # B N T S 1
    by_head = np.moveaxis(values, 2, 1)[:, :, None]  # B N 1 S Hv
    some = np.moveaxis(np.any(permitted, axis=3), 1, 2)  # B T N 1
    least = np.where(some, np.moveaxis(np.where(permitted, by_head, np.inf).min(3), 1, 2), 0.0)
    most = np.where(some, np.moveaxis(np.where(permitted, by_head, -np.inf).max(3), 1, 2), 0.0)
    if context.shape[2] == 1:  # heads of a module that all read the same values are averaged
        least, most = least.mean(2, keepdims=True), most.mean(2, keepdims=True)
    inside = np.clip(context, least, most)
    expect("context", context, inside, subject.tolerance, inputs, found)


def weights_times_values(subject: Subject) -> None:
    """The context is the weights times the values (the mean over heads for a module)."""
    inputs = subject.inputs("random")
    found = subject.run(inputs)
    values = _of_query_heads(subject, inputs.values)
    if found.context.shape[-1] != values.shape[-1]:
        raise Broken(
            f"context has shape {found.context.shape}, not the width of the values", inputs
        )
    if isinstance(subject.sizes, FunctionSizes):
        wanted = np.einsum("bnts,bsnh->btnh", found.weights, values)
    else:
        wanted = np.einsum("bnts,bsd->btd", found.weights, inputs.values) / found.weights.shape[1]
    expect("context", found.context, wanted, subject.weight_tolerance, inputs, found)


def values_default_to_keys(subject: Subject) -> None:
    """Without values, the keys are used as values."""
    inputs = subject.inputs("random")
    values = inspect.signature(subject.attention).parameters.get("values")
    if values is None or values.default is not None:
        raise DoesNotApply("values have to be given")
    if inputs.keys.shape != inputs.values.shape:
        raise DoesNotApply("keys and values differ in width")
    found = subject.run_without_values(inputs)
    wanted = subject.run(inputs.replace(values=inputs.keys))
    expect("context", found.context, wanted.context, subject.tolerance, inputs, found)
    expect("weights", found.weights, wanted.weights, subject.weight_tolerance, inputs, found)


def grouped_heads(subject: Subject) -> None:
    """Query head n reads key head n // (N / K): as with each key head repeated N / K times."""
    sizes = subject.sizes
    if not isinstance(sizes, FunctionSizes) or sizes.N == sizes.K:
        raise DoesNotApply("every query head has its own key head")
    inputs = subject.inputs("random")
    found = subject.run(inputs)
    keys, values = (np.repeat(x, sizes.N // sizes.K, axis=2) for x in (inputs.keys, inputs.values))
    wanted = subject.run(inputs.replace(keys=keys, values=values))
    expect("context", found.context, wanted.context, subject.tolerance, inputs, found)


def agrees_with_reference(subject: Subject) -> None:
    """Context and weights equal ``reference``, to 1e-10 in float64 and 1e-5 in float32."""
    if subject.reference is None:
        raise DoesNotApply("no reference= was given")
    for inputs in _masked(subject):
        wanted = subject.reference(inputs.query, inputs.keys, inputs.values, inputs.mask)
        context, weights = wanted if isinstance(wanted, tuple) else (wanted, None)
        for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-10)):
            found = subject.run(inputs, dtype)
            expect(f"{dtype} context", found.context, context, tolerance, inputs, found)
            if weights is not None and subject.has_weights:
                # Weights may be float32 by contract, whatever the dtype of the computation.
                tolerance = 1e-5 if "float32" in found.dtypes[1] else tolerance
                expect(f"{dtype} weights", found.weights, weights, tolerance, inputs, found)


def _masked(subject: Subject) -> list[Inputs]:
    return [subject.inputs("random"), subject.inputs("causal")]


def _only_without_own_rule(subject: Subject) -> None:
    if subject.visible is not None:
        raise DoesNotApply("by visible=, what a query sees depends on its place")


def _keys_moved(inputs: Inputs) -> tuple[Inputs, np.ndarray]:
    order = np.arange(inputs.keys.shape[1])[::-1]
    return inputs.replace(keys=inputs.keys[:, order], values=inputs.values[:, order]), order


def _of_query_heads(subject: Subject, values: np.ndarray) -> np.ndarray:
    if isinstance(subject.sizes, FunctionSizes):
        return np.repeat(values, subject.sizes.N // values.shape[2], axis=2)
    return values[:, :, None]
