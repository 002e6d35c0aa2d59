"""Registry of explanations: functions from a question to scores of its patches or tokens."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnzoo.explain import faithfulness
from attnzoo.explain.attn_lrp import attn_lrp
from attnzoo.explain.cdam import cdam, integrated_cdam, smooth_cdam
from attnzoo.explain.flow import LARGEST, attention_flow
from attnzoo.explain.gradcam import attention_gradcam, gradcam
from attnzoo.explain.gradients import gradient_times_input, integrated_gradients, smooth_grad
from attnzoo.explain.question import Explanation, Question
from attnzoo.explain.relevance import encoder_decoder_relevance, relevance
from attnzoo.explain.rollout import fuse, gradient_rollout, rollout, with_residual

Scores = Float[Array, "B P"]
TWO_STACKS = "follows one stack of self-attention; the model has an encoder and a decoder"


def _attention_mean(question: Question) -> Scores:
    weights, head = question.weights[question.shown], question.head
    return question.read(fuse(weights) if head is None else weights[:, head])


def _rollout_discarded(question: Question) -> Scores:
    spared = {"prefix": question.prefix, "real": question.real}
    return question.read(rollout(question.self_attention, fusion="max", discard=0.9, **spared))


def _flow(question: Question) -> Scores:
    maps = jnp.stack([with_residual(fuse(w)) for w in question.self_attention])
    L, B, T, _ = maps.shape
    if (L + 1) * T > LARGEST:
        raise NotImplementedError(f"{L} layers of {T} tokens; flow takes {LARGEST} in all")

    def run(*arrays: Any) -> Any:
        maps, reading = (np.asarray(array) for array in arrays)
        rows = [np.flatnonzero(one > 0).tolist() for one in reading]
        flows = [
            reading[b, rows[b]] @ attention_flow(list(maps[:, b]), rows=rows[b]) for b in range(B)
        ]
        return np.stack(flows).astype(np.float32)

    shape = jax.ShapeDtypeStruct((B, T), jnp.float32)
    return question.of_tokens(jax.pure_callback(run, shape, maps, question.reading))


def _gradient_rollout(question: Question) -> Scores:
    if len(question.pairs) > 1:
        raise NotImplementedError(TWO_STACKS)
    return question.read(gradient_rollout(*question.pairs[0]))


def _relevance(question: Question) -> Scores:
    if len(question.pairs) == 3:
        return question.read(encoder_decoder_relevance(*question.pairs).source)
    R = relevance(*question.pairs[0])
    # The identity part is no explanation; averaged over tokens, it would add a share to all.
    return question.read(R - jnp.eye(R.shape[-1], dtype=R.dtype)[None])


def _attention_gradcam(question: Question) -> Scores:
    reading, name, found = question.reading_token, question.shown, question.gradients
    weights, gradients = (
        jnp.einsum("bt,bnts->bns", reading, maps[name])[:, :, None]
        for maps in (found.weights, found.gradients)
    )
    scores = attention_gradcam(weights, gradients, skip=question.prefix, real=question.real)
    return question.of_tokens(scores)


def _of_model(method: Callable[..., Any], **attributes: str) -> Explanation:
    """Make an explanation of a function of model, target, inputs, and attributes of a question."""

    def run(question: Question) -> Scores:
        settings = {name: getattr(question, own) for name, own in attributes.items()}
        return question.of_tokens(
            method(
                question.model, question.answer, *question.inputs, **settings, **question.keywords
            )
        )

    return run


def _of_vectors(method: Callable[..., Any], **attributes: str) -> Explanation:
    """Make an explanation of a function of ``f``, its input, and attributes of a question."""

    def run(question: Question) -> Scores:
        settings = {name: getattr(question, own) for name, own in attributes.items()}
        return question.by_unit(method(question.of_vectors, question.vectors, **settings))

    return run


def _smooth_grad_size(*arguments: Any, **settings: Any) -> Any:
    return jnp.abs(smooth_grad(*arguments, **settings))


def _leave_one_out(question: Question) -> Scores:
    shape = (question.units.shape[0], question.count)
    alone = faithfulness.leave_one_out(lambda keep: question.kept(keep, log=True), shape)
    return question.scatter(alone)


EXPLANATIONS: dict[str, Explanation] = {
    "attention_mean": _attention_mean,
    "attention_max": lambda question: question.read(fuse(question.weights[question.shown], "max")),
    "rollout": lambda question: question.read(rollout(question.self_attention)),
    "rollout_discarded": _rollout_discarded,
    "flow": _flow,
    "gradient_rollout": _gradient_rollout,
    "relevance": _relevance,
    "attention_gradcam": _attention_gradcam,
    "gradcam": _of_model(gradcam, skip="prefix", real="real", layer="last"),
    "cdam": _of_model(cdam, layer="last"),
    "smooth_cdam": _of_model(
        smooth_cdam, key="key", num_samples="num_samples", real="real", layer="last"
    ),
    "integrated_cdam": _of_model(integrated_cdam, steps="num_samples", layer="last"),
    "attn_lrp": _of_model(attn_lrp, stack="stack"),
    "gradient_x_input": _of_vectors(gradient_times_input),
    "integrated_gradients": _of_vectors(integrated_gradients, steps="num_samples"),
    "smooth_grad": _of_vectors(_smooth_grad_size, key="key", num_samples="num_samples"),
    "leave_one_out": _leave_one_out,
}
"""Explanations by name, with scores ``B P`` of patches or tokens; higher is more important.

Signed scores keep their sign; ``smooth_grad`` gives the size of the gradient. ``leave_one_out``
uses log-probabilities.
"""

ON_REQUEST = {"flow": "slow, so it is computed only where methods names it"}
"""Explanations that ``methods=None`` leaves out, with the reason."""


def named(methods: Sequence[str | Explanation]) -> list[tuple[str, Explanation]]:
    """Return explanations with their names: of the registry, callables, or "package.module:Name".

    A class is called without arguments to make the explanation.

    Raises:
      ValueError: unknown name.
    """
    found = []
    for method in methods:
        if not isinstance(method, str):
            found.append((getattr(method, "__name__", type(method).__name__), method))
        elif method in EXPLANATIONS:
            found.append((method, EXPLANATIONS[method]))
        elif ":" in method:
            found.append((method, _imported(method)))
        else:
            raise ValueError(
                f"methods names {method!r}; there are {', '.join(EXPLANATIONS)}, and your own as "
                "package.module:Name"
            )
    return found


def _imported(path: str) -> Explanation:
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"methods names {path!r}, which cannot be imported: {error}") from error
    return found() if isinstance(found, type) else found
