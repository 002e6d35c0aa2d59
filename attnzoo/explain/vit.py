"""Every explanation of a ViT's answer side by side, as scores of its patches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from attnzoo.explain.attn_lrp import attn_lrp
from attnzoo.explain.capture import WeightGradients, capture_attention, weight_gradients
from attnzoo.explain.cdam import cdam, integrated_cdam, smooth_cdam
from attnzoo.explain.flow import LARGEST, attention_flow
from attnzoo.explain.gradcam import attention_gradcam, gradcam
from attnzoo.explain.gradients import (
    by_patch,
    gradient_times_input,
    integrated_gradients,
    smooth_grad,
)
from attnzoo.explain.relevance import relevance
from attnzoo.explain.rollout import fuse, gradient_rollout, rollout, with_residual
from attnzoo.explain.target import chosen
from attnzoo.models.vit import ViT

Scores = Float[Array, "B P"]


def explain_vit(
    model: ViT,
    images: Float[Array, "B h w C"],
    classes: Int[Array, " B"],
    key: Key[Array, ""],
    *,
    draws: int = 20,
) -> dict[str, Scores]:
    """Scores of the patches by each method, left to right, then down; more is more important.

    Maps of all tokens by all are read at the class token, or at the mean of the patches where the
    model has none. Signed scores stay signed, but those of ``smooth_grad`` are of the gradient's
    size. ``flow`` has a function of its own, :func:`flow_of`: it is slow.

    Raises:
      ValueError: a class out of range, or a gradient that is 0 everywhere; neither under jit.
    """
    found = weight_gradients(model, classes, images)
    keys = jax.random.split(key)
    scores = {
        **_of_weights(model, found),
        "gradcam": gradcam(model, classes, images, skip=model.config.prefix),
        "cdam": cdam(model, classes, images),
        "smooth_cdam": smooth_cdam(model, classes, images, key=keys[0], draws=draws),
        "attn_lrp": attn_lrp(model, classes, images),
        "integrated_cdam": integrated_cdam(model, classes, images, steps=draws),
    }
    patches = {name: tokens[:, model.config.prefix :] for name, tokens in scores.items()}

    def f(images: Float[Array, "B h w C"]) -> Float[Array, " B"]:
        return chosen(model(images), classes)

    smooth = smooth_grad(f, images, key=keys[1], draws=draws)
    pixels = {
        "gradient_x_input": gradient_times_input(f, images),
        "integrated_gradients": integrated_gradients(f, images, steps=draws),
        "smooth_grad": jnp.abs(smooth),
    }
    return patches | {name: by_patch(x, model.config.patch) for name, x in pixels.items()}


def flow_of(model: ViT, images: Float[Array, "B h w C"]) -> Float[np.ndarray, "B P"]:
    """Attention flow to each patch, of models small enough."""
    _, weights = capture_attention(model, images)
    maps = [np.asarray(with_residual(fuse(w))) for w in weights.values()]
    tokens = maps[0].shape[-1]
    if (len(maps) + 1) * tokens > LARGEST:
        raise ValueError(f"{len(maps)} layers of {tokens} tokens; flow takes {LARGEST} in all")
    rows = [0] if _has_class_token(model) else range(model.config.prefix, tokens)
    flows = [attention_flow([m[b] for m in maps], rows=rows) for b in range(len(maps[0]))]
    return np.stack(flows).mean(axis=1)[:, model.config.prefix :]


def _of_weights(model: ViT, found: WeightGradients) -> dict[str, Float[Array, "B T"]]:
    """What is made of weights and their gradients: scores of all tokens."""
    weights, gradients = list(found.weights.values()), list(found.gradients.values())

    def read(tokens_by_tokens: Float[Array, "B T T"]) -> Float[Array, "B T"]:
        if _has_class_token(model):
            return tokens_by_tokens[:, 0]
        return jnp.mean(tokens_by_tokens[:, model.config.prefix :], axis=1)

    maps: dict[str, Any] = {
        "attention_mean": fuse(weights[-1]),
        "attention_max": fuse(weights[-1], "max"),
        "rollout": rollout(weights),
        "rollout_discarded": rollout(
            weights, fusion="max", discard=0.9, prefix=model.config.prefix
        ),
        "gradient_rollout": gradient_rollout(weights, gradients),
        # What each token already was says nothing; read at a mean it would be a share of everyone.
        "relevance": relevance(weights, gradients) - jnp.eye(weights[0].shape[-1])[None],
    }
    scores = {name: read(m) for name, m in maps.items()}
    if _has_class_token(model):
        scores["attention_gradcam"] = attention_gradcam(
            weights[-1], gradients[-1], skip=model.config.prefix
        )
    return scores


def _has_class_token(model: ViT) -> bool:
    return model.config.pooling in ("class", "class_mean")
