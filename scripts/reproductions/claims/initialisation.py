"""Gradients at initialisation, by place of the norms and by scale of dot products."""

import functools
import math
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.projection import LayerNorm, Projection
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.gpt2 import GPT2Config
from attnzoo.layers.block import build_block
from attnzoo.layers.stack import Stack
from attnzoo.ops.dot_product import dot_product_attention
from reproductions.claim import (
    Claim,
    Measured,
    Results,
    Setting,
    above,
    ahead,
    below,
    certain,
    close,
    headline,
)

VOCABULARY, LENGTH = 200, 16
ORDERS: dict[Literal["post", "pre"], str] = {
    "post": "norms after the sums",
    "pre": "norms before the branches",
}
DEPTHS = (2, 4, 8, 16)
WIDTHS = (4, 16, 64, 256, 1024)
SCALES = {"divided by √d": -0.5, "not divided": 0.0}
VARIANCE = "it follows from the variance of sums of d independent numbers"
"""Power of the width that multiplies the dot products."""


class Reader(nnx.Module):
    """Causal blocks over random states, with a norm at their end if blocks have none, and logits.

    Weights start Glorot-uniform, as the paper's section 3.2 has it but for a constant.
    """

    def __init__(self, order: Literal["pre", "post"], depth: int, dim: int, *, rngs: nnx.Rngs):
        config = GPT2Config(attention=MultiHeadConfig(num_heads=4), dim=dim, dropout=0.0)
        site = Site.of_itself(dim, is_causal=True)
        blocks = [
            build_block(
                config, config.attention, site, LayerNorm, order=order, hidden=4 * dim, rngs=rngs
            )
            for _ in range(depth)
        ]  # fmt: skip
        self.stack = Stack(blocks, scan=True)
        self.norm = LayerNorm(dim, rngs=rngs) if order == "pre" else None
        self.output = Projection(dim, VOCABULARY, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        x, _ = self.stack(x)
        return self.output(x if self.norm is None else self.norm(x))


@nnx.jit
def gradient(
    model: Reader, x: Float[Array, "B T D"], target: Int[Array, "B T"]
) -> Float[Array, ""]:
    """Return the norm of the gradient of the last layer's last matrix."""

    def loss(model: Reader) -> Float[Array, ""]:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), target).mean()

    return jnp.linalg.norm(nnx.grad(loss)(model).stack.blocks.feed_forward.down.kernel[-1])


def by_depth(setting: Setting) -> Mapping[str, Measured]:
    """Measure the gradient of the last layer in models of several depths."""
    found: dict[str, Measured] = {}
    powers: dict[str, Measured] = {}
    dim, rows = setting.pick((128, 16), (8, 2))
    first, second = jax.random.split(jax.random.key(setting.seed))
    x = jax.random.normal(first, (rows, LENGTH, dim))
    target = jax.random.randint(second, (rows, LENGTH), 0, VOCABULARY)
    for order, name in ORDERS.items():
        last = []
        for depth in DEPTHS:
            model = Reader(order, depth, dim, rngs=nnx.Rngs(setting.seed))
            last.append(float(gradient(model, x, target)))
            found[f"{name}/{depth}"] = last[-1]
        slope = np.polyfit(np.log(DEPTHS), np.log(last), 1)[0]
        powers[f"power of the depth, {name}"] = float(slope)
    return found | powers


def _depth_came(results: Results) -> str:
    powers = [results.mean(f"power of the depth, {name}") for name in ORDERS.values()]
    return (
        f"From 2 to 16 layers the gradient of the last layer goes with the power {powers[0]:.2f} "
        f"of the depth with norms after the sums, and {powers[1]:.2f} with norms before the "
        "branches; the theorem says 0 and -0.5."
    )


@functools.partial(jax.jit, static_argnames="scale")
def derivatives(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    cotangent: Float[Array, "B T N H"],
    scale: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the sum over keys of the weights' derivatives by their scores, and a loss's gradient.

    The derivative of a weight w by its own score is w (1 - w). The gradient is the root of the mean
    square over all scores, for a given gradient of the output.
    """
    weights = dot_product_attention(q, k, v, scale=scale, return_weights=True)[1]

    def read(bias: Float[Array, "B N T T"]) -> Float[Array, "B T N H"]:
        return dot_product_attention(
            q, k, v, scale=scale, score_mod=lambda x, b, n, i, j: x + bias[b, n, i, j]
        )  # fmt: skip

    found = jax.vjp(read, jnp.zeros(weights.shape))[1](cotangent)[0]
    return (weights * (1 - weights)).sum(-1).mean(), jnp.sqrt((found**2).mean())


def saturation(setting: Setting) -> Mapping[str, Measured]:
    """Measure attention to random keys of several widths, with and without the scale."""
    found: dict[str, Measured] = {}
    whole: dict[str, Measured] = {}
    rows, length = setting.pick((16, 64), (2, 8))
    for name, power in SCALES.items():
        for width in WIDTHS:
            keys = jax.random.split(jax.random.key(setting.seed), 4)
            q, k, v, out = (jax.random.normal(key, (rows, length, 1, width)) for key in keys)
            own, gradient = derivatives(q, k, v, out / math.sqrt(width), width**power)
            found[f"{name}/{width}"] = float(own)
            whole[f"gradient of a score, {name}, d = {width}"] = float(gradient)
    return found | whole


def _scale_came(results: Results) -> str:
    widths = WIDTHS[0], WIDTHS[-1]
    one, two = ([results.mean(f"{name}/{width}") for width in widths] for name in SCALES)
    first, second = (
        [results.mean(f"gradient of a score, {name}, d = {width}") for width in widths]
        for name in SCALES
    )
    return (
        f"From d = {widths[0]} to {widths[1]} the derivatives of the softmax go from {one[0]:.2f} "
        f"to {one[1]:.2f} with the scale and from {two[0]:.2f} to {two[1]:.2f} without; the whole "
        f"gradient that reaches the scores goes from {first[0]:.3f} to {first[1]:.3f} and from "
        f"{second[0]:.3f} to {second[1]:.3f}, for the few scores that still count have large ones."
    )


CLAIMS = (
    Claim(
        name="pre-norm-gradients",
        title="Norms before the branches calm the last layer's gradient",
        source="Xiong et al. 2020, arXiv 2002.04745, theorem 1 and figure 3",
        claimed="At initialisation the gradient of the last feed-forward layer does not depend on "
        "the depth L where layer norms follow the residual sums, and shrinks as 1/√L where they "
        "stand before the branches.",
        setup="causal blocks of width 128 with 4 heads and Glorot-uniform weights, without "
        "training; 8 rows of 16 random states, random targets out of 200; norm of the gradient of "
        "the last block's second feed-forward matrix. The paper measures encoder-decoders on "
        "IWSLT14.",
        criterion=(
            above("power of the depth, norms after the sums", -0.1),
            headline(below("power of the depth, norms before the branches", -0.35)),
            headline(ahead("norms after the sums/16", "norms before the branches/16")),
        ),
        measure=by_depth,
        came=_depth_came,
        meaning="A deep model with norms after the sums begins with large steps in its last "
        "layers, which is why it wants a warm-up and the other kind can do without.",
        otherwise="The orders of the theorem are those of its assumptions; blocks with other first "
        "weights or targets can behave differently.",
        minutes=0.4,
        seeds=5,
        axes=("layers", "gradient of the last layer"),
        in_tests=True,
    ),
    Claim(
        name="scaled-dot-products",
        title="Without 1/√d the softmax saturates",
        source="Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1 and footnote 4",
        claimed="Dot products of d independent components have variance d, so that for large d "
        "they push the softmax to where its gradients are extremely small; dividing by √d prevents "
        "this.",
        setup="queries, keys and values of independent standard normal numbers, 64 keys, no "
        "training; the derivative of each weight w by its own score, w (1 - w), summed over the "
        "keys, and the gradient of a score for a random gradient of the output. The paper states "
        "it as a suspicion, without numbers.",
        criterion=(
            certain(close("divided by √d/4", "divided by √d/1024", 0.05), VARIANCE),
            headline(certain(ahead("divided by √d/64", "not divided/64", 0.3), VARIANCE)),
            headline(certain(below("not divided/1024", 0.15), VARIANCE)),
        ),
        measure=saturation,
        came=_scale_came,
        meaning="The scale keeps the weights as soft at every width; without it the softmax hardly "
        "answers to most of its scores, though the gradient that is left, of the few between which "
        "it still wavers, need not be smaller.",
        otherwise="The softmax of unscaled products is not as saturated as the paper suspects.",
        minutes=0.1,
        seeds=5,
        axes=("width d of a head", "sum of w (1 - w)"),
        in_tests=True,
    ),
)
