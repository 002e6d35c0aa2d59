"""Properties of the computation: gradients, dtypes, transformations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.testing.subject import TOLERANCE, Broken, Inputs, Subject, arguments, expect


def reaches_permitted_keys(subject: Subject) -> None:
    """Every permitted value affects the context: its gradient is not 0."""
    for pattern in ("random", "causal"):
        inputs = subject.inputs(pattern)
        to_values = _own_batch(subject.jacobian(inputs)[2], inputs)
        permitted = subject.permitted(inputs).any(1)
        missed = permitted & (to_values == 0)
        if missed.any():
            b, t, s = np.argwhere(missed)[0]
            raise Broken(
                f"context[{b}, {t}] has gradient 0 to values[{b}, {s}], which it may attend to "
                f"({pattern} mask; {missed.sum()} of {permitted.sum()} pairs)",
                inputs,
            )


def causality(subject: Subject) -> None:
    """Under a causal mask row t has gradient exactly 0 to later queries, keys and values.

    Gradients to keys up to t are tested by "every permitted key is reached".
    """
    inputs = subject.inputs("causal")
    forbidden = ~subject.permitted(inputs).any(1)
    to_query, to_keys, to_values = subject.jacobian(inputs)
    for name, derivative in (("keys", to_keys), ("values", to_values)):
        leak = np.where(forbidden, _own_batch(derivative, inputs), 0.0)
        expect(f"gradient of row t to {name} s > t at", leak, 0.0, 0.0, inputs)
    T = subject.sizes.T
    later = np.where(np.tri(T, dtype=bool), 0.0, _own_batch(to_query, inputs))
    expect("gradient of row t to a later query at", later, 0.0, 0.0, inputs)


def half_precision(subject: Subject) -> None:
    """float16 and bfloat16: context in that dtype, weights and softmax in float32, and close."""
    for dtype in ("bfloat16", "float16"):
        inputs = _rounded(subject.inputs("random"), dtype)
        found = subject.run(inputs, dtype)
        wanted_dtypes = (dtype, "float32")[: len(found.dtypes)]
        if found.dtypes != wanted_dtypes:
            raise Broken(
                f"dtypes of (context, weights) are {found.dtypes}; wanted {wanted_dtypes}", inputs
            )
        tolerance = TOLERANCE[dtype]
        exact = subject.run(inputs, "float32", parameters_from=dtype)
        if subject.has_weights:
            coarse = _rounds_to_itself(found.weights, dtype)
            if coarse and not _rounds_to_itself(exact.weights, dtype):
                raise Broken(
                    f"every weight is a {dtype} number: the softmax does not run in float32",
                    inputs,
                    found,
                )
            expect(f"{dtype} weights", found.weights, exact.weights, tolerance, inputs, found)
        expect(f"{dtype} context", found.context, exact.context, tolerance, inputs, found)
        large = _rounded(_scaled(inputs, 8.0), dtype)  # logits in the hundreds;
        _finite(f"{dtype} ", subject.run(large, dtype), large)  # exp(12) already overflows float16


def large_logits(subject: Subject) -> None:
    """Queries and keys 50 times as large: finite context, weights and gradients.

    With queries and keys 300 times as large, masked weights that were exactly 0 remain 0, if rows
    sum to one. This detects masks that add -10000.
    """
    inputs = _scaled(subject.inputs("random"), 50.0)
    _finite("", subject.run(inputs), inputs)
    for name, derivative in zip(subject.sizes.names, subject.jacobian(inputs)):
        bad = np.where(np.isfinite(derivative), 0.0, derivative)
        expect(f"gradient to {name}", bad, 0.0, 0.0, inputs)
    inputs = subject.inputs("causal")
    permitted, found = subject.permitted(inputs), subject.run(inputs)
    if not subject.has_weights or np.any(np.where(permitted, 0.0, found.weights)):
        return
    sums = found.weights.sum(-1) - permitted.any(-1)
    if np.max(np.abs(sums), initial=0.0) <= subject.weight_tolerance:
        large = _scaled(inputs, 300.0)
        found = subject.run(large)
        hidden = np.where(permitted, 0.0, found.weights)
        expect("weights of very large logits", hidden, 0.0, 0.0, large, found)


def jit(subject: Subject) -> None:
    """A compiled call gives the same numbers as an eager one."""
    inputs = subject.inputs("random")
    found, wanted = subject.run(inputs), subject.run(inputs, eager=True)
    expect("context under jit", found.context, wanted.context, subject.tolerance, inputs, found)
    expect(
        "weights under jit", found.weights, wanted.weights, subject.weight_tolerance, inputs, found
    )


def vmap(subject: Subject) -> None:
    """Batch rows one by one under ``jax.vmap`` give the same as the whole batch."""
    inputs = subject.inputs("random")

    def one(parameters: list[Any], *rows: Any) -> tuple[Any, ...]:
        batched = (None if row is None else row[None] for row in rows)
        return tuple(array[0] for array in subject.call(parameters, *batched))

    axes = (None, 0, 0, 0, None if inputs.mask is None else 0)
    with jax.enable_x64(subject.dtype == "float64"):
        function = subject.jitted("vmap", jax.vmap(one, in_axes=axes))
        parameters = subject.parameters(subject.dtype)
        found = function(parameters, *arguments(inputs, subject.dtype))
    wanted = subject.run(inputs)
    context, *weights = (np.asarray(array).astype(np.float64) for array in found)
    expect("context under vmap", context, wanted.context, subject.tolerance, inputs)
    if weights:
        tolerance = subject.weight_tolerance
        expect("weights under vmap", weights[0], wanted.weights, tolerance, inputs)


def gradients(subject: Subject) -> None:
    """Gradients to query, keys, values and parameters equal finite differences, in float64."""
    inputs = subject.inputs("random")
    if inputs.mask is not None:
        mask = inputs.mask.copy()
        mask[0, :, 0] = False  # gradients beside an empty row are tested, too
        inputs = inputs.replace(mask=mask)
    random = np.random.default_rng(subject.seed)
    step = 1e-5
    with jax.enable_x64(True):
        # All else uses numpy, because jax would compile every single operation.
        parameters = [np.asarray(array) for array in subject.parameters("float64")]
        point = (parameters, inputs.query, inputs.keys, inputs.values)
        mask = None if inputs.mask is None else jax.device_put(inputs.mask)
        shape = jax.eval_shape(subject.context, *point, mask).shape
        cotangent = random.standard_normal(shape)

        def loss(point: tuple[Any, ...], cotangent: Any, mask: Any) -> Any:
            return jnp.sum(subject.context(*point, mask) * cotangent)

        function = subject.jitted("loss and gradients", jax.value_and_grad(loss))
        _, found = function(point, cotangent, mask)
        for i, name in enumerate(("the parameters", *subject.sizes.names)):
            direction = jax.tree.map(lambda x: random.standard_normal(x.shape), point[i])
            # One argument moves at a time, so that the error names the wrong gradient.
            up, down = (
                float(
                    function(
                        (*point[:i], _moved(point[i], direction, by), *point[i + 1 :]),
                        cotangent,
                        mask,
                    )[0]
                )
                for by in (step, -step)
            )
            along = [
                float(np.vdot(g, d))
                for g, d in zip(jax.tree.leaves(found[i]), jax.tree.leaves(direction))
            ]
            what = f"directional derivative along {name}"
            # The difference quotient is accurate to about 1e-9.
            got, wanted = np.asarray([sum(along)]), [(up - down) / (2 * step)]
            expect(what, got, wanted, 1e-6, inputs)


def _moved(x: Any, direction: Any, by: float) -> Any:
    return jax.tree.map(lambda x, d: x + by * d, x, direction)


def _own_batch(derivative: np.ndarray, inputs: Inputs) -> np.ndarray:
    """Reduce ``B T B S`` to ``B T S``; raise Broken for a gradient between batch rows."""
    B = derivative.shape[0]
    same = np.eye(B, dtype=bool)[:, None, :, None]
    if np.where(same, 0.0, derivative).any():
        raise Broken("a row of the batch has a gradient to another row of it", inputs)
    return np.where(same, derivative, 0.0).sum(2)


def _scaled(inputs: Inputs, factor: float) -> Inputs:
    return inputs.replace(query=inputs.query * factor, keys=inputs.keys * factor)


def _finite(what: str, found: Any, inputs: Inputs) -> None:
    for name, array in (("context", found.context), ("weights", found.weights)):
        bad = np.where(np.isfinite(array), 0.0, array)
        expect(f"{what}{name} of large logits", bad, 0.0, 0.0, inputs, found)


def _round(x: np.ndarray, dtype: str) -> np.ndarray:
    return x.astype(np.float32).astype(jnp.dtype(dtype)).astype(np.float64)


def _rounded(inputs: Inputs, dtype: str) -> Inputs:
    arrays = {name: _round(getattr(inputs, name), dtype) for name in ("query", "keys", "values")}
    return inputs.replace(**arrays)


def _rounds_to_itself(x: np.ndarray, dtype: str) -> bool:
    return bool(np.array_equal(x, _round(x, dtype)))
