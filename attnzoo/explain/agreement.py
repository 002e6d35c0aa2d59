"""Agreement between explanations, confidence intervals, and dependence on parameters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

Importance = Float[Array, "B P"]
Valid = Bool[Array, "B P"] | None


class Interval(NamedTuple):
    """Mean over examples, with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    values: Any, *, seed: int = 0, num_samples: int = 2000, confidence: float = 0.95
) -> Interval:
    """Return the mean and its percentile bootstrap interval over examples (Efron 1979).

    Examples with NaN are left out; with none left all three are NaN.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return Interval(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(len(known), size=(num_samples, len(known)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(known[drawn].mean(axis=1), [tail, 1 - tail])
    return Interval(float(known.mean()), float(low), float(high))


def spearman(a: Importance, b: Importance, valid: Valid = None) -> Float[Array, " B"]:
    """Return the rank correlation, with ties averaged; NaN where one of the two is constant.

    Entries where ``valid`` is False, such as padding, do not count.
    """
    real, pairs = _pairs(a, valid)
    count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1).astype(jnp.float32)

    def centred(values: Importance) -> Importance:
        ranks = jnp.where(real, _average_ranks(values, pairs), 0)
        return jnp.where(real, ranks - jnp.sum(ranks, axis=1, keepdims=True) / count, 0)

    x, y = centred(a), centred(b)
    norm = jnp.sqrt(jnp.sum(x**2, axis=1) * jnp.sum(y**2, axis=1))
    return jnp.where(norm > 0, jnp.sum(x * y, axis=1) / jnp.where(norm > 0, norm, 1), jnp.nan)


def kendall(a: Importance, b: Importance, valid: Valid = None) -> Float[Array, " B"]:
    """Return Kendall's tau-b, concordant less discordant pairs; NaN where one is constant.

    Entries where ``valid`` is False, such as padding, do not count.
    """
    _, pairs = _pairs(a, valid)
    x, y = (jnp.where(pairs, jnp.sign(v[:, :, None] - v[:, None, :]), 0) for v in (a, b))
    norm = jnp.sqrt(jnp.sum(x**2, axis=(1, 2)) * jnp.sum(y**2, axis=(1, 2)))
    same = jnp.sum(x * y, axis=(1, 2))
    return jnp.where(norm > 0, same / jnp.where(norm > 0, norm, 1), jnp.nan)


def parameter_randomisation(
    model: nnx.Module,
    explain: Callable[[nnx.Module], Importance],
    groups: Sequence[str],
    key: Key[Array, ""],
) -> dict[str, Float[Array, " B"]]:
    """Return the correlation of ``explain`` with itself as parameters are randomised cumulatively.

    Spearman's correlation after each group (Adebayo et al., NeurIPS 2018, arXiv 1810.03292, section
    3). The entries of each array are shuffled, which keeps their distribution. An explanation whose
    correlation stays near 1 does not depend on what the model has learned.

    Args:
      groups: prefixes of dotted parameter names, in the order of randomisation: ["head",
        "encoder.blocks.3", ...].

    Raises:
      ValueError: no parameter has this prefix.
    """
    before = explain(model)
    copy = nnx.clone(model)
    found: dict[str, Float[Array, " B"]] = {}
    for group in groups:
        touched = False
        for path, parameter in nnx.to_flat_state(nnx.state(copy, nnx.Param)):
            name = ".".join(str(step) for step in path)
            if not f"{name}.".startswith(f"{group}."):
                continue
            touched, (key, mine) = True, tuple(jax.random.split(key))
            value = parameter[...]
            shuffled = jax.random.permutation(mine, value.ravel()).reshape(value.shape)
            nnx.update(copy, nnx.from_flat_state([(path, nnx.Param(shuffled))]))
        if not touched:
            raise ValueError(f"groups names {group!r}, but no parameter's name begins with it")
        found[group] = spearman(before, explain(copy))
    return found


def _pairs(a: Importance, valid: Valid) -> tuple[Bool[Array, "B P"], Bool[Array, "B P P"]]:
    real = jnp.ones(a.shape, bool) if valid is None else valid
    return real, real[:, :, None] & real[:, None, :]


def _average_ranks(values: Importance, pairs: Bool[Array, "B P P"]) -> Float[Array, "B P"]:
    below = jnp.sum(pairs & (values[:, None, :] < values[:, :, None]), axis=2)
    alike = jnp.sum(pairs & (values[:, None, :] == values[:, :, None]), axis=2)
    return below.astype(jnp.float32) + (alike.astype(jnp.float32) - 1) / 2
