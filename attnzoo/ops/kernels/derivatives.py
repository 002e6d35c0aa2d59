"""Which derivatives a kernel with a gradient of its own has, and an error that says what to do
about the others.

Without these two functions jax says that it cannot apply jvp to a custom_vjp function, or that it
cannot differentiate a loop, and names neither the attention nor the way out.
"""

from typing import Any, TypeVar

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Tree = TypeVar("Tree")

_WAY_OUT = 'implementation="reference" has every derivative'


def no_forward_mode(tree: Tree) -> Tree:
    """The arrays themselves; jax.jvp, jax.linearize or jax.jacfwd through them is refused.

    Forward over reverse mode, as in jax.hessian, passes: it differentiates the kernel's own loops.
    """
    return jax.tree.map(_into.bind, tree)


def no_second_reverse(tree: Tree) -> Tree:
    """The arrays themselves; a gradient that flows back through them is refused."""
    return jax.tree.map(_out_of.bind, tree)


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
# Reverse mode transposes what happens to tangents and never computes it; forward mode does.
_tangent = _identity("tangent_into_tiles")
_tangent.def_impl(_refuse_forward)
mlir.register_lowering(_tangent, _refuse_forward)
ad.deflinear2(_tangent, lambda cotangent, _: [cotangent])
ad.deflinear2(_out_of, lambda *_: _refuse_second())


def _jvp(primals: Any, tangents: Any) -> Any:
    (tangent,) = tangents
    # The primal goes on without the primitive: an outer derivative of a gradient may pass.
    return primals[0], tangent if type(tangent) is ad.Zero else _tangent.bind(tangent)


ad.primitive_jvps[_into] = _jvp
