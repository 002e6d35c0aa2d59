"""Layer-wise relevance through attention: Achtibat et al., ICML 2024 (arXiv 2402.05602), AttnLRP.

The rules share the answer out backwards, operation by operation. Without their stabiliser each is
the input times a gradient, with some factors held (their section 3): a linear layer and a sum by
the epsilon rule, whose bias keeps its share; a product half to each factor; the softmax by its
Taylor expansion, whose constant keeps its share; f(x) of one number, and a norm's 1/deviation,
whole to x. So one backward pass of a model whose norms, activations and products are exchanged
gives all of it.

What sums to the answer: the tokens' relevances and what biases and softmaxes keep. Without biases,
and without attention, the tokens' alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import LayerNorm, RMSNorm, compute_dtype, like
from attnzoo.explain.places import paused, places, stacks, unrolled
from attnzoo.explain.target import Target, chosen
from attnzoo.layers.feed_forward import ACTIVATIONS, FeedForward
from attnzoo.module import Module

BEFORE_TANH = ("pre_head", "pooler")
NO_RULE = ("transform",)


def attn_lrp(
    model: nnx.Module, target: Target, *inputs: Any, stack: str | None = None, **keywords: Any
) -> Float[Array, "B T"]:
    """The relevance of each token that enters the first block: of a ViT the class token, patches
    with their positions; of a text model embedded words.

    The target is a logit: relevance is shared out from its value, not from a probability.

    Args:
      stack: of a model with two, "encoder" or "decoder": whose tokens.

    Raises:
      ValueError: no such stack, or several and none named.
      NotImplementedError: attention other than ``MultiHeadAttention``, or BERT's head of masked
        words, for which there are no rules here.
    """
    names = ["/".join(path) for path, _ in stacks(model)]
    if not names:
        raise NotImplementedError(f"{type(model).__name__} has no blocks of the zoo")
    if stack is None and len(names) == 1:
        (stack,) = names
    if stack not in names:
        raise ValueError(f"stack={stack!r}; {type(model).__name__} has {', '.join(names)}")

    def run(enter: Callable[[Array], Array]) -> Any:
        copy: Any = unrolled(model)
        _exchange(copy)
        held = {"/".join(path): one for path, one in stacks(copy)}[stack]
        held.blocks[0] = _Entered(held.blocks[0], enter)
        return copy(*inputs, **keywords)

    x, answer = paused(run)
    gradient = jax.grad(lambda x: jnp.sum(chosen(answer(x), target)))(x)
    return jnp.sum(x * gradient, axis=-1)


class _Entered(Module):
    """A block whose input passes through a function."""

    def __init__(self, block: nnx.Module, enter: Callable[[Array], Array]):
        self.block: Any = block
        self.enter = enter

    def __call__(self, x: Float[Array, "B T D"], **keywords: Any) -> Any:
        return self.block(self.enter(x), **keywords)


class _HeldNorm(Module):
    """A norm whose deviation is a constant (their proposition 3.4)."""

    def __init__(self, norm: LayerNorm | RMSNorm):
        self.norm = norm

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        wide = x.astype(compute_dtype(x))
        if isinstance(self.norm, LayerNorm):
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        spread = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.norm.eps)
        y = (wide * jax.lax.stop_gradient(spread)).astype(x.dtype)
        y = y * jnp.broadcast_to(like(self.norm.scale, x), x.shape)
        if isinstance(self.norm, RMSNorm):
            return y
        return y + jnp.broadcast_to(like(self.norm.bias, x), x.shape)


class _SharedFeedForward(Module):
    """A feed-forward layer whose activation is a factor f(x) / x, and whose gate has a half."""

    def __init__(self, layer: FeedForward):
        self.layer = layer

    def __call__(self, x: Float[Array, "*batch D"], **_: Any) -> Float[Array, "*batch D"]:
        layer, f = self.layer, ACTIVATIONS[self.layer.activation]
        if layer.gate is None:
            return layer.down(_factor(f, layer.up(x)))
        gate, up = _factor(f, layer.gate(x)), layer.up(x)
        return layer.down(_share(gate, 0.5) * _share(up, 0.5))


class _BeforeTanh(Module):
    """A linear layer behind which its owner takes the tanh: its gradient makes a factor of that."""

    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        y = self.layer(x)
        slope = 1 - jnp.tanh(y) ** 2
        # Beyond 8 the tanh has no slope left in float32, and nothing comes back to be mended.
        part = jnp.where(y != 0, jnp.tanh(y) / jnp.where(y != 0, y, 1), 1)
        part = part / jnp.maximum(slope, 1e-7)
        return _share(y, jax.lax.stop_gradient(part))


def _exchange(model: nnx.Module) -> None:
    """Every operation with a rule of its own, in a model that is about to be thrown away."""
    for place in places(model):
        if not isinstance(place.module, MultiHeadAttention):
            raise NotImplementedError(
                f"{place.names[0]} is a {type(place.module).__name__}: there are rules for "
                "MultiHeadAttention; wanted attention.kind=multi_head"
            )
        place.module._read = _halved(place.module._read)
    for path, node in list(nnx.iter_graph(model)):
        if isinstance(node, LayerNorm | RMSNorm):
            _put(model, path, _HeldNorm(node))
        elif isinstance(node, FeedForward):
            _put(model, path, _SharedFeedForward(node))
        elif path and path[-1] in BEFORE_TANH:
            _put(model, path, _BeforeTanh(node))
        elif path and path[-1] in NO_RULE:
            raise NotImplementedError(
                f"{'.'.join(map(str, path))} of {type(model).__name__} has no rule here: the head "
                "of masked words; wanted a head of classes"
            )


def _put(model: Any, path: Sequence[Any], module: nnx.Module) -> None:
    """In place of the module at ``path``."""
    for step in path[:-1]:
        model = model[step] if isinstance(step, int) else getattr(model, step)
    setattr(model, str(path[-1]), module)


def _halved(read: Callable[..., Any]) -> Callable[..., Any]:
    """Weights and values have a half each, and of that of the weights queries and keys a half."""

    def shared(q: Array, k: Array, v: Array, *others: Any) -> Any:
        return read(_share(q, 0.25), _share(k, 0.25), _share(v, 0.5), *others)

    return shared


def _share(x: Array, part: float | Array) -> Array:
    """X, which gets ``part`` of its gradient."""
    return part * x + jax.lax.stop_gradient(x - part * x)


def _factor(f: Callable[[Array], Array], x: Array) -> Array:
    """f(x) as x times a constant; 0 at 0, as of all activations here."""
    whole = x != 0
    return x * jax.lax.stop_gradient(jnp.where(whole, f(x) / jnp.where(whole, x, 1), 0))
