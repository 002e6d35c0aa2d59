"""Answers of classifiers: the softmax of all classes, sigmoids of several, or numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ONE_CLASS, SOME_CLASSES, NUMBERS = PROBLEM_TYPES = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)
"""Kinds of answers of a classifier, as ``problem_type`` of transformers names them."""


def class_scores(logits: Float[Array, "... V"], problem_type: str) -> Float[Array, "... V"]:
    """Return the softmax of logits, their sigmoids for several classes, themselves for numbers."""
    logits = logits.astype(jnp.float32)
    if problem_type == NUMBERS:
        return logits
    return jax.nn.softmax(logits) if problem_type == ONE_CLASS else jax.nn.sigmoid(logits)


def class_answer(
    names: Sequence[str], scores: Float[np.ndarray, "V"], problem_type: str
) -> tuple[str, dict[str, Any]]:
    """Return the answer of a classifier in one line, and as JSON.

    Of several classes these are the ones above 1/2, the most probable first. A name that several
    classes have is followed by the number of the class: "cat (0)".
    """
    counts = Counter(names)
    numbered = [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names)]
    if len(set(numbered)) < len(names):  # one is named "cat (0)" itself
        numbered = [f"{name} ({i})" for i, name in enumerate(names)]
    if problem_type == NUMBERS:
        values = {name: float(one) for name, one in zip(numbered, scores, strict=True)}
        return " ".join(f"{one:.6g}" for one in values.values()), {"values": values}
    known = {name: round(float(one), 4) for name, one in zip(numbered, scores, strict=True)}
    ranked = [numbered[i] for i in np.argsort(-scores, kind="stable")]
    if problem_type == ONE_CLASS:
        return ranked[0], {"class": ranked[0], "probabilities": known}
    chosen = ranked[: int((scores > 0.5).sum())]
    return ", ".join(chosen), {"classes": chosen, "probabilities": known}
