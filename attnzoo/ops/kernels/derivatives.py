"""Errors for derivatives that a custom gradient lacks, and a choice of kernel by derivative.

Without :func:`no_forward_mode` and :func:`no_second_reverse`, jax says that it cannot apply jvp to
a custom_vjp function, or that it cannot differentiate a loop, and names neither the attention nor
the way out. :func:`by_need` uses one kernel without a gradient and another one with a gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Tree = TypeVar("Tree")

_WAY_OUT = 'implementation="reference" has every derivative'


def no_forward_mode(tree: Tree) -> Tree:
    """Return the arrays; jax.jvp, jax.linearize or jax.jacfwd through them raises an error.

    The error is NotImplementedError. Forward over reverse mode, as in jax.hessian, works: it
    differentiates the kernel's own loops.
    """
    return jax.tree.map(_into.bind, tree)


def no_second_reverse(tree: Tree) -> Tree:
    """Return the arrays; a gradient that flows back through them raises NotImplementedError."""
    return jax.tree.map(_out_of.bind, tree)


def by_need(alone: Callable[..., Any], differentiated: Callable[..., Any], *args: Any) -> Any:
    """Compute ``alone(*args)``, or ``differentiated(*args)`` if it is differentiated.

    Both return a tuple of arrays, equal up to rounding. Arrays that they close over get gradients,
    too.
    """
    args = no_forward_mode(args)
    # A custom gradient covers only arguments, so captured arrays become arguments.
    first, second = (jax.make_jaxpr(function)(*args) for function in (alone, differentiated))
    return _by_need(_Both(first.jaxpr, second.jaxpr), args, first.consts, second.consts)


class _Both:
    """Two programs, without their arrays."""

    def __init__(self, alone: Any, differentiated: Any):
        self.alone, self.differentiated = alone, differentiated


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_need(both: _Both, args: Any, alone: Any, differentiated: Any) -> tuple[Any, ...]:
    return tuple(jaxpr_as_fun(ClosedJaxpr(both.alone, alone))(*args))


def _by_need_forward(both: _Both, args: Any, alone: Any, differentiated: Any) -> Any:
    def run(args: Any, captured: Any) -> tuple[Any, ...]:
        return tuple(jaxpr_as_fun(ClosedJaxpr(both.differentiated, captured))(*args))

    return jax.vjp(run, args, differentiated)


def _by_need_backward(both: _Both, pull: Any, cotangents: Any) -> Any:
    args, captured = pull(cotangents)
    return args, None, captured


_by_need.defvjp(_by_need_forward, _by_need_backward)


def _refuse_forward(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        f"attention in tiles has no forward-mode derivative (jax.jvp, jax.jacfwd); {_WAY_OUT}"
    )


def _refuse_second(*_: Any) -> Any:
    raise NotImplementedError(
        "attention in tiles has no gradient of its gradient in reverse mode; jax.jvp of jax.grad "
        f"(forward over reverse) works, and {_WAY_OUT}"
    )


def _identity(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(_same)
    mlir.register_lowering(primitive, lambda _, x: [x])
    batching.primitive_batchers[primitive] = lambda xs, axes: (primitive.bind(*xs), axes[0])
    return primitive


def _same(x: ShapedArray) -> ShapedArray:
    return x


_into = _identity("into_tiles")
_out_of = _identity("out_of_tiles")
# Reverse mode only transposes operations on tangents; forward mode computes them.
_tangent = _identity("tangent_into_tiles")
_tangent.def_impl(_refuse_forward)
mlir.register_lowering(_tangent, _refuse_forward)
ad.deflinear2(_tangent, lambda cotangent, _: [cotangent])
ad.deflinear2(_out_of, lambda *_: _refuse_second())


def _jvp(primals: Any, tangents: Any) -> Any:
    (tangent,) = tangents
    # The primal continues without the primitive, so that an outer derivative of a gradient works.
    return primals[0], tangent if type(tangent) is ad.Zero else _tangent.bind(tangent)


ad.primitive_jvps[_into] = _jvp
