"""Parts shared by attention modules: linear maps, norms, and splitting into heads."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.module import Module
from attnzoo.ops.guards import any_visible, finite_or_zero, has_non_finite, poison
from attnzoo.ops.sharded import product
from attnzoo.ops.softmax import compute_dtype
from attnzoo.ops.wide_sums import broadcast_parameter

Initializer = jax.nn.initializers.Initializer
glorot_uniform = jax.nn.initializers.glorot_uniform()


def glorot_per_head(rngs: nnx.Rngs, shape: tuple[int, int, int]) -> Float[Array, "N H F"]:
    """Initialise one matrix per head, each with the Glorot variance of a single matrix."""
    init = jax.nn.initializers.glorot_uniform(batch_axis=0)
    return init(rngs.params(), shape, jnp.float32)


def cast_like(parameter: nnx.Variable, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a parameter in the dtype of the input."""
    return parameter[...].astype(x.dtype)


class Projection(Module):
    """Linear map x W (+ b) in the dtype of x; W starts Glorot-uniform by default, b at 0."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        use_bias: bool = False,
        kernel_init: Initializer = glorot_uniform,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (in_dim, out_dim), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_dim,), jnp.float32)) if use_bias else None

    @property
    def in_dim(self) -> int:
        """Width D of the input."""
        return self.kernel.shape[0]

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        y = product(x, self.kernel.get_value().astype(x.dtype))
        return y if self.bias is None else y + broadcast_parameter(cast_like(self.bias, x), y.shape)


class RMSNorm(Module):
    """Root-mean-square norm x / sqrt(mean(x^2) + eps) * g over the last axis.

    Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4; mean in float32, g starts at 1. With
    ``shift`` the parameter is g - shift, and the product too is in float32 (Gemma: 1).
    """

    def __init__(self, dim: int, *, eps: float = 1e-6, shift: float = 0.0, rngs: nnx.Rngs):
        self.eps, self.shift = eps, shift
        self.scale = nnx.Param(jnp.full((dim,), 1.0 - shift, jnp.float32))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        wide = x.astype(compute_dtype(x))
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        if self.shift:
            gain = self.shift + cast_like(self.scale, wide)
            return (wide * broadcast_parameter(gain, x.shape)).astype(x.dtype)
        return wide.astype(x.dtype) * broadcast_parameter(cast_like(self.scale, x), x.shape)


class LayerNorm(Module):
    """Layer norm (x - mean) / sqrt(variance + eps) * g + b over the last axis.

    Ba, Kiros and Hinton 2016 (arXiv 1607.06450), equation 4; float32, g starts at 1, b at 0.
    """

    def __init__(self, dim: int, *, eps: float = 1e-6, rngs: nnx.Rngs):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        wide = standardise(x.astype(compute_dtype(x)), self.eps).astype(x.dtype)
        scale, bias = (
            broadcast_parameter(cast_like(p, x), x.shape) for p in (self.scale, self.bias)
        )
        return wide * scale + bias


def standardise(x: Float[Array, "*batch D"], eps: float = 1e-6) -> Float[Array, "*batch D"]:
    """Normalise to mean 0 and variance 1 along the last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + eps)


def split_heads(x: Float[Array, "B L F"], num_heads: int) -> Float[Array, "B L N H"]:
    """Split the last axis into heads of equal size."""
    return x.reshape(*x.shape[:2], num_heads, x.shape[2] // num_heads)


def join_heads(x: Float[Array, "B L N H"]) -> Float[Array, "B L F"]:
    """Concatenate the heads along the last axis."""
    return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def read_heads(
    weights: Float[Array, "B N T S"],
    values: Float[Array, "B S F"],
    visible: Bool[Array, "#B #N #T #S"] | None,
) -> Float[Array, "B T F"]:
    """Weigh each head's slice of the values, and concatenate the results in the values' dtype.

    NaN or inf in a value reaches only the rows that may attend to it.
    """
    v = split_heads(values, weights.shape[1])
    out = jnp.einsum("bnts,bsnh->btnh", weights, finite_or_zero(v).astype(weights.dtype))
    seen = any_visible(jnp.moveaxis(has_non_finite(v), 1, 2), visible)
    seen = jnp.broadcast_to(seen, weights.shape[:3])
    out = poison(out, jnp.moveaxis(seen, 1, 2)[..., None])
    return join_heads(out).astype(values.dtype)


def exact_quotient(name: str, total: int, count_name: str, count: int) -> int:
    """Return ``total / count``, or raise a ValueError that names both arguments."""
    if count < 1 or total % count:
        raise ValueError(f"{name}={total} is not divisible by {count_name}={count}")
    return total // count
