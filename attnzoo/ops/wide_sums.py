"""Gradients of 16-bit arrays that are read many times: summed in float32, rounded once.

A table that a thousand positions read has a gradient of a thousand terms. A sum in bfloat16, which
has 8 bits, stops growing once a term is below half a unit in its last place. jax sums gradients in
the dtype of the array that is read. Here the array is read in float32 and the result is rounded
back: the values are the same, and the gradient is summed in float32.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, Float, Int

MOVES = frozenset(
    "broadcast_in_dim concatenate copy dynamic_slice expand_dims gather pad reshape rev select_n "
    "slice squeeze transpose".split()
)
"""Primitives that only move values: exact in any dtype, but sums in the backward pass."""


@jax.custom_jvp
def take_rows(table: Float[Array, "V D"], ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """Return rows of a table; an id outside of the table reads the nearest row."""
    return jnp.take(table, ids, axis=0, mode="clip")


@take_rows.defjvp
def _take_rows_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Only the tangent is read in float32, so that the forward pass does not copy the table.
    (table, ids), (d_table, _) = primals, tangents
    rows = take_rows(table, ids)
    return rows, jnp.take(_wide(d_table), ids, axis=0, mode="clip").astype(rows.dtype)


def broadcast_parameter(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Broadcast a parameter, such as a bias for all positions; its gradient sums in float32."""
    return jnp.broadcast_to(_wide(x), shape).astype(x.dtype)


def wide(function: Callable[..., Any], *avals: Any) -> Callable[..., Any]:
    """Return the function with gradients of captured 16-bit arrays summed in float32.

    The sums include the steps of a loop around the function. It is traced for arguments like
    ``avals``; a function without 16-bit floats is returned as it is.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*avals)
    if not _has_narrow(closed):
        return function
    structure = jax.tree.structure(shapes)
    program = jaxpr_as_fun(_widened(closed, avals))
    return lambda *args: structure.unflatten(program(*jax.tree.leaves(args)))


def trace(function: Callable[..., Any], *avals: Any) -> ClosedJaxpr:
    """Trace a function as ``jax.make_jaxpr`` does, with captured 16-bit floats in float32."""
    closed = jax.make_jaxpr(function)(*avals)
    return _widened(closed, avals) if _has_narrow(closed) else closed


def _widened(closed: ClosedJaxpr, avals: Any) -> ClosedJaxpr:
    consts = [_wide(const) for const in closed.consts]

    def function(*args: Any) -> list[Array]:
        found = _evaluate(closed.jaxpr, consts, jax.tree.leaves(args))
        return [_as(x, var) for x, var in zip(found, closed.jaxpr.outvars)]

    return jax.make_jaxpr(function)(*avals)


def _has_narrow(closed: ClosedJaxpr) -> bool:
    made = (var.aval for equation in closed.jaxpr.eqns for var in equation.outvars)
    return any(map(_is_narrow, (*closed.consts, *made)))


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Return the outputs of a jaxpr; 16-bit values that are only moved are held in float32."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args)))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        primitive, params = equation.primitive, equation.params
        given = [read(atom) for atom in equation.invars]
        if primitive.name in ("jit", "pjit", "closed_call"):
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            found = _evaluate(inner.jaxpr, inner.consts, given)
        elif primitive.name in ("checkpoint", "remat", "remat2"):
            again = functools.partial(_evaluate, params["jaxpr"], ())
            kept = {name: params[name] for name in ("prevent_cse", "policy")}
            found = jax.checkpoint(again, **kept)(given)
        elif primitive.name == "convert_element_type":
            found = [jnp.asarray(given[0]).astype(params["new_dtype"])]
        else:
            moves = primitive.name in MOVES
            given = [_wide(x) if moves else _as(x, v) for x, v in zip(given, equation.invars)]
            found = primitive.bind(*given, **primitive.get_bind_params(params))
            found = found if primitive.multiple_results else [found]
        values.update(zip(equation.outvars, found))
    return [read(atom) for atom in jaxpr.outvars]


def _as(x: Any, var: Any) -> Any:
    """Cast a floating value to the dtype of its variable."""
    return jnp.asarray(x).astype(var.aval.dtype) if _is_floating(x) else x


def _wide(x: Any) -> Any:
    return jnp.asarray(x).astype(jnp.float32) if _is_narrow(x) else x


def _is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and bool(jnp.issubdtype(x.dtype, jnp.floating))


def _is_narrow(x: Any) -> bool:
    return _is_floating(x) and jnp.finfo(x.dtype).bits < 32
