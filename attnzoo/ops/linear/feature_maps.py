"""Feature maps phi of linear attention: the kernel is phi(q) . phi(k)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

FeatureMap = Callable[[Float[Array, "*shape H"]], Float[Array, "*shape F"]]


def identity(x: Float[Array, "*shape H"]) -> Float[Array, "*shape H"]:
    """Return the input: no feature map, as in the additive fast weights of Schmidhuber 1991."""
    return x


def elu_plus_one(x: Float[Array, "*shape H"]) -> Float[Array, "*shape H"]:
    """Return elu(x) + 1, positive (Katharopoulos et al. 2020, arXiv 2006.16236, equation 7)."""
    return jax.nn.elu(x) + 1


def dpfp(x: Float[Array, "*shape H"], nu: int = 1) -> Float[Array, "*shape F"]:
    """Return 2 H nu features: products of rectified neighbours (Schlag et al. 2021, §5.3).

    With r = [relu(x), relu(-x)], they are the products of r with r rolled by 1, ..., nu.
    """
    if not 1 <= nu < 2 * x.shape[-1]:
        raise ValueError(f"dpfp: nu={nu}; wanted 1 <= nu < 2 H = {2 * x.shape[-1]}")
    rectified = jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)], axis=-1)
    rolled = [jnp.roll(rectified, shift, axis=-1) for shift in range(1, nu + 1)]
    return jnp.concatenate([rectified * other for other in rolled], axis=-1)


class RandomFeatures:
    """Feature map of positive random features; see :func:`random_features`."""

    def __init__(self, projection: Float[Array, "M H"]):
        self.projection = projection

    def logarithms(self, x: Float[Array, "*shape H"]) -> Float[Array, "*shape M"]:
        """Return the logarithms of the features, finite where the features underflow."""
        projected = jnp.einsum("...h,mh->...m", x, self.projection.astype(x.dtype))
        norm = jnp.sum(x**2, axis=-1, keepdims=True) / 2
        return projected - norm - math.log(self.projection.shape[0]) / 2

    def __call__(self, x: Float[Array, "*shape H"]) -> Float[Array, "*shape M"]:
        return jnp.exp(self.logarithms(x))


def random_features(projection: Float[Array, "M H"]) -> RandomFeatures:
    """Return positive random features: phi(q) . phi(k) estimates e^{q . k} without bias.

    FAVOR+ of Performer (Choromanski et al. 2021, arXiv 2009.14794, lemma 1). To estimate softmax
    attention, scale q and k by H^(-1/4) each. :func:`orthogonal_projection` draws ``projection``.

    In float32 the features of a vector of norm above about 14 underflow. ``linear_attention`` with
    ``normalise`` computes with their logarithms instead, and is not affected.
    """
    return RandomFeatures(projection)


def orthogonal_projection(key: Key[Array, ""], num_features: int, H: int) -> Float[Array, "M H"]:
    """Draw Gaussian rows, orthogonal within each block of H rows, of chi-distributed length."""
    blocks = -(-num_features // H)
    directions, lengths = jax.random.split(key)
    q, r = jnp.linalg.qr(jax.random.normal(directions, (blocks, H, H)))
    # Householder's signs are not random: without this the directions are not uniform.
    q = q * jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None, :]
    rows = jnp.swapaxes(q, 1, 2).reshape(blocks * H, H)[:num_features]
    norms = jnp.linalg.norm(jax.random.normal(lengths, (num_features, H)), axis=-1, keepdims=True)
    return rows * norms


def sum_normalise(x: Float[Array, "*shape F"]) -> Float[Array, "*shape F"]:
    """Divide features by their sum; all-zero features stay zero."""
    total = jnp.sum(x, axis=-1, keepdims=True)
    return x / jnp.where(total == 0, jnp.ones_like(total), total)


def l2_normalise(x: Float[Array, "*shape H"]) -> Float[Array, "*shape H"]:
    """Scale vectors to length 1; the zero vector stays zero, with a finite gradient."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square == 0, jnp.ones_like(square), square))
