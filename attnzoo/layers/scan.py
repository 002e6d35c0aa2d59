"""``lax.scan`` for recurrent layers that forms the gradients of constant factors after the loop.

A recurrent layer multiplies by the same matrix at every step. Autodiff of ``lax.scan`` adds
``x_t^T delta_t`` to the matrix's gradient step by step: thin products, and the whole gradient goes
through memory each time. Here the backward loop only stacks ``delta_t``, and the gradient is one
product over all steps. docs/performance.md has the measurements.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from attnzoo.attention.contract import Product

Body = Callable[[Product, Any, Any], tuple[Any, Any]]


def scan(
    body: Body, initial: PyTree, steps: PyTree, *, reverse: bool = False
) -> tuple[PyTree, PyTree]:
    """``lax.scan`` of ``body(product, carry, step) -> (carry, output)``.

    ``product("bi,io->bo", x, factor)`` is ``jnp.einsum`` whose gradient with respect to ``factor``
    is formed outside the loop; ``factor`` must come from outside of ``body`` (a weight, a memory).
    What ``body`` uses in other ways is differentiated as usual. Values and gradients are those of
    ``lax.scan`` up to the order of summation. Reverse mode only, as for any ``jax.custom_vjp``.
    """
    # Bare leaves inside: an integer has a float0 gradient, which no class of states is made for.
    leaves, carry_tree = jax.tree.flatten(initial)
    inputs, step_tree = jax.tree.flatten(steps)

    def bare(product: Product, carry: list[Array], step: list[Array]) -> tuple[list[Array], Any]:
        carry, output = body(product, carry_tree.unflatten(carry), step_tree.unflatten(step))
        return carry_tree.flatten_up_to(carry), output

    final, outputs = _scan(bare, leaves, inputs, reverse)
    return carry_tree.unflatten(final), outputs


def _scan(
    body: Body, initial: list[Array], steps: list[Array], reverse: bool
) -> tuple[list[Array], PyTree]:
    subscripts: list[str] = []
    factors: list[Array] = []

    def outline(carry: PyTree, step: PyTree) -> tuple[Array, ...]:
        """All products of one step; notes what they multiply."""
        results = []

        def product(formula: str, x: Array, factor: Array) -> Array:
            subscripts.append(formula)
            factors.append(factor)
            results.append(jnp.einsum(formula, x, factor))
            return results[-1]

        body(product, carry, step)
        return tuple(results)

    def perturbed(carry: PyTree, step: PyTree, zeros: tuple[Array, ...]) -> tuple[PyTree, PyTree]:
        """The body with a zero added to every product, whose gradient is the product's delta."""
        left: list[Array] = []

        def product(formula: str, x: Array, factor: Array) -> Array:
            left.append(x)
            y = jnp.einsum(formula, x, jax.lax.stop_gradient(factor))
            return y + zeros[len(left) - 1]

        carry, output = body(product, carry, step)
        return carry, (output, tuple(left))

    first = jax.tree.map(lambda x: x[0], steps)
    shapes = jax.eval_shape(outline, initial, first)
    zeros = tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)
    # Weights that the body sees become arguments: a function with its own gradient has no others.
    step_function, constants = jax.closure_convert(perturbed, initial, first, zeros)
    outlines = [jax.ShapeDtypeStruct(factor.shape, factor.dtype) for factor in factors]
    length = jax.tree.leaves(steps)[0].shape[0]

    def run(constants, initial, steps, zeros):
        def one(carry, both):
            return step_function(carry, *both, *constants)

        final, (outputs, left) = jax.lax.scan(one, initial, (steps, zeros), reverse=reverse)
        return (final, outputs), left

    @jax.custom_vjp
    def scanned(factors, constants, initial, steps):
        def one(carry, step):
            carry, (output, _) = step_function(carry, step, zeros, *constants)
            return carry, output

        return jax.lax.scan(one, initial, steps, reverse=reverse)

    def forward(factors, constants, initial, steps):
        stacked = tuple(jnp.zeros((length, *zero.shape), zero.dtype) for zero in zeros)
        result, pullback, left = jax.vjp(run, constants, initial, steps, stacked, has_aux=True)
        return result, (pullback, left)

    def backward(saved, cotangents):
        pullback, left = saved
        *others, deltas = pullback(cotangents)
        gradients = map(_factor_gradient, subscripts, left, outlines, deltas)
        return tuple(gradients), *others

    scanned.defvjp(forward, backward)
    return scanned(tuple(factors), constants, initial, steps)


def _factor_gradient(formula: str, x: Array, factor: jax.ShapeDtypeStruct, delta: Array) -> Array:
    """Sum over steps (the leading axis of x and delta) of a product's gradient for its factor."""

    def products(factor):
        return jax.vmap(lambda x: jnp.einsum(formula, x, factor))(x)

    return jax.linear_transpose(products, factor)(delta)[0]
