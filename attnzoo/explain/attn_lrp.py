"""Layer-wise relevance propagation through attention, AttnLRP (Achtibat et al. 2024).

ICML 2024 (arXiv 2402.05602). The rules distribute the answer backwards, operation by operation.
Without its stabiliser, each rule is the input times a gradient with some factors held constant
(section 3 of the paper):

- a linear layer and a sum: the epsilon rule; the bias keeps its share;
- a product: half to each factor;
- the softmax: its Taylor expansion, whose constant keeps its share;
- f(x) of one number, and a norm's 1/deviation: all to x.

One backward pass of a model with replaced norms, activations and products therefore gives all
relevances. The relevances of the tokens, the biases and the softmaxes sum to the answer; without
biases and attention, those of the tokens alone do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import LayerNorm, RMSNorm, cast_like, compute_dtype
from attnzoo.explain.attention_modules import attention_modules, split_run, stacks, unrolled
from attnzoo.explain.target import Target, chosen
from attnzoo.layers.feed_forward import ACTIVATIONS, FeedForward
from attnzoo.module import Module

BEFORE_TANH = ("pre_head", "pooler")
NO_RULE = ("transform",)


def attn_lrp(
    model: nnx.Module, target: Target, *inputs: Any, stack: str | None = None, **keywords: Any
) -> Float[Array, "B T"]:
    """Return the relevance of each token at the input of the first block.

    For a ViT these are the class token and the patches with their positions, for a text model the
    embedded tokens. The target is a logit: its value is distributed, not a probability.

    Args:
      stack: the stack whose tokens are explained, "encoder" or "decoder", in a model with both.

    Raises:
      ValueError: no such stack, or several and none named.
      NotImplementedError: attention other than ``MultiHeadAttention``, or BERT's masked-token head,
        for which there are no rules here.
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

    x, answer = split_run(run)
    gradient = jax.grad(lambda x: jnp.sum(chosen(answer(x), target)))(x)
    return jnp.sum(x * gradient, axis=-1)


class _Entered(Module):
    """Block whose input passes through a function."""

    def __init__(self, block: nnx.Module, enter: Callable[[Array], Array]):
        self.block: Any = block
        self.enter = enter

    def __call__(self, x: Float[Array, "B T D"], **keywords: Any) -> Any:
        return self.block(self.enter(x), **keywords)


class _HeldNorm(Module):
    """Norm whose standard deviation is held constant (proposition 3.4 of the paper)."""

    def __init__(self, norm: LayerNorm | RMSNorm):
        self.norm = norm

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        wide = x.astype(compute_dtype(x))
        if isinstance(self.norm, LayerNorm):
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        spread = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.norm.eps)
        y = (wide * jax.lax.stop_gradient(spread)).astype(x.dtype)
        gain = cast_like(self.norm.scale, x)
        gain = gain + self.norm.shift if isinstance(self.norm, RMSNorm) else gain
        y = y * jnp.broadcast_to(gain, x.shape)
        if isinstance(self.norm, RMSNorm):
            return y
        return y + jnp.broadcast_to(cast_like(self.norm.bias, x), x.shape)


class _SharedFeedForward(Module):
    """Feed-forward layer whose activation is a constant factor f(x) / x; a gate gets half."""

    def __init__(self, layer: FeedForward):
        self.layer = layer

    def __call__(self, x: Float[Array, "*batch D"], **_: Any) -> Float[Array, "*batch D"]:
        layer, f = self.layer, ACTIVATIONS[self.layer.activation]
        if layer.gate is None:
            return layer.down(_factor(f, layer.up(x)))
        gate, up = _factor(f, layer.gate(x)), layer.up(x)
        return layer.down(_share(gate, 0.5) * _share(up, 0.5))


class _BeforeTanh(Module):
    """Linear layer whose gradient turns a following tanh into a constant factor."""

    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        y = self.layer(x)
        slope = 1 - jnp.tanh(y) ** 2
        # Beyond 8 the tanh has gradient 0 in float32, so there is nothing to correct.
        part = jnp.where(y != 0, jnp.tanh(y) / jnp.where(y != 0, y, 1), 1)
        part = part / jnp.maximum(slope, 1e-7)
        return _share(y, jax.lax.stop_gradient(part))


def _exchange(model: Any) -> None:
    """Replace, in a temporary copy of a model, every operation that has a rule of its own."""
    config = getattr(model, "config", None)
    if getattr(config, "logit_softcap", None) is not None:
        raise NotImplementedError("logit_softcap: there is no rule for a soft cap of the logits")
    if getattr(config, "experts", None) is not None:
        raise NotImplementedError("experts: there is no rule for the choice of a router")
    # The gradient of relu is its rule.
    before_tanh = getattr(config, "pooler_activation", "tanh") == "tanh"
    for place in attention_modules(model):
        if not isinstance(place.module, MultiHeadAttention):
            raise NotImplementedError(
                f"{place.names[0]} is a {type(place.module).__name__}: there are rules for "
                "MultiHeadAttention; wanted attention.kind=multi_head"
            )
        if place.module.softcap is not None:
            raise NotImplementedError(
                f"{place.names[0]}.softcap: there is no rule for a soft cap of the scores"
            )
        place.module._read = _halved(place.module._read)
    for path, node in list(nnx.iter_graph(model)):
        if isinstance(node, LayerNorm | RMSNorm):
            _put(model, path, _HeldNorm(node))
        elif isinstance(node, FeedForward):
            _put(model, path, _SharedFeedForward(node))
        elif path and path[-1] in BEFORE_TANH and before_tanh:
            _put(model, path, _BeforeTanh(node))
        elif path and path[-1] in NO_RULE:
            raise NotImplementedError(
                f"{'.'.join(map(str, path))} of {type(model).__name__} has no rule here: the head "
                "of masked words; wanted a head of classes"
            )


def _put(model: Any, path: Sequence[Any], module: nnx.Module) -> None:
    """Replace the module at ``path``."""
    for step in path[:-1]:
        model = model[step] if isinstance(step, int) else getattr(model, step)
    setattr(model, str(path[-1]), module)


def _halved(read: Callable[..., Any]) -> Callable[..., Any]:
    """Give half of the relevance to the values, and a quarter each to queries and keys."""

    def shared(q: Array, k: Array, v: Array, *others: Any) -> Any:
        return read(_share(q, 0.25), _share(k, 0.25), _share(v, 0.5), *others)

    return shared


def _share(x: Array, part: float | Array) -> Array:
    """Return x, with its gradient multiplied by ``part``."""
    return part * x + jax.lax.stop_gradient(x - part * x)


def _factor(f: Callable[[Array], Array], x: Array) -> Array:
    """Return f(x) as x times a constant; 0 at 0, like all activations here."""
    whole = x != 0
    return x * jax.lax.stop_gradient(jnp.where(whole, f(x) / jnp.where(whole, x, 1), 0))
