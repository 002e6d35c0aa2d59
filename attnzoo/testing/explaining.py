"""Properties of the returned weights: they agree with the gradient to the values."""

import dataclasses
from typing import Literal

import numpy as np

from attnzoo.testing.subject import Broken, Inputs, Subject

# Weights and derivative are float32, each accurate to about 1e-6 of the largest.
TOLERANCE = 1e-4

Shared = Literal["everywhere", "by all queries", "by all keys"]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The context's derivative to the values as weights times maps, one for each head.

    ``maps`` are ``N F`` if all queries and keys share them, F pairs of a feature of the context and
    one of a value; ``residual`` is the unexplained part, relative to the largest derivative.
    """

    shared: Shared
    maps: np.ndarray
    residual: float


def weights_explain_context(subject: Subject) -> None:
    """The context's derivative to the values is the weights times one map for each head.

    ``d context[b, t] / d values[b, s] = sum_n weights[b, n, t, s] A_n`` with projections ``A_n``
    found by least squares. Each key has its own ``A_n`` if the values pass a nonlinear layer before
    they are weighted, and each query if the result does.
    """
    inputs = subject.inputs("random")
    found = explain(subject, inputs)
    if found.residual > TOLERANCE:
        raise Broken(
            f"the weights leave {found.residual:.2g} of the context's derivative to the values "
            f"unexplained; wanted at most {TOLERANCE:g}: other weights were used",
            inputs,
            subject.run(inputs),
        )


def explain(subject: Subject, inputs: Inputs) -> Explanation:
    """Return the best explanation, with maps shared as widely as linearity permits."""
    # Other queries of the same keys give more equations for the same unknowns.
    draws = [inputs.replace(query=subject.inputs("random", draw).query) for draw in (1, 2)]
    draws = [inputs, *draws]
    weights = np.stack([subject.run(draw).weights for draw in draws])  # R B N T S
    derivative = np.stack([subject.value_derivative(draw) for draw in draws])  # R B T S F
    size = np.max(np.abs(derivative), initial=0.0)
    if not size > 0:
        raise Broken("no value moves the context", inputs)
    other = inputs.replace(values=subject.inputs("random", 1).values)
    moved = np.max(np.abs(subject.value_derivative(other) - derivative[0]))
    by_pair = np.moveaxis(weights, 2, -1)  # R B T S N
    if moved <= TOLERANCE * size:
        maps, residual = _solve(_rows(by_pair, 0), _rows(derivative, 0))
        return Explanation("everywhere", maps, residual / size)
    # R T axes of each key, S axes of each query
    by_key = [np.moveaxis(x, (1, 3), (0, 1)) for x in (by_pair, derivative)]
    of_keys = _solve(*(_rows(x, 2) for x in by_key))
    of_queries = _solve(by_pair, derivative)
    if of_keys[1] <= of_queries[1]:
        return Explanation("by all queries", of_keys[0], of_keys[1] / size)
    return Explanation("by all keys", of_queries[0], of_queries[1] / size)


def _solve(weights: np.ndarray, derivative: np.ndarray) -> tuple[np.ndarray, float]:
    """Return least-squares maps of ``weights @ maps = derivative``, and the largest residual."""
    maps = np.linalg.pinv(weights, rcond=1e-5) @ derivative
    return maps, float(np.max(np.abs(weights @ maps - derivative)))


def _rows(x: np.ndarray, kept: int) -> np.ndarray:
    """Merge all axes except the first ``kept`` and the last."""
    return x.reshape(*x.shape[:kept], -1, x.shape[-1])
