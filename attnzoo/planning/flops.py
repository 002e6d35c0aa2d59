"""Operations and kept arrays of a step, counted in its jaxpr: nothing is compiled or allocated.

Products of matrices and convolutions are counted, two operations for a multiplication and an
addition; attention as if it saw all keys (the convention of Chowdhery et al. 2022, appendix B).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import optax
from flax import nnx

from attnzoo.ops.choice import implemented_by
from attnzoo.planning.subject import Subject


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of one step on all devices together."""

    forward: int
    backward: int
    recomputed: int
    unknown_loops: int
    """Loops whose length is known only when they run; their bodies were counted once."""

    @property
    def model(self) -> int:
        """Operations that the model needs: utilisation (MFU) is measured by them."""
        return self.forward + self.backward

    @property
    def total(self) -> int:
        """Operations that the devices do."""
        return self.model + self.recomputed


@dataclasses.dataclass(frozen=True)
class Kept:
    """Bytes that the forward pass of a whole batch keeps for the backward pass."""

    spread: int
    """Hidden units, heads, logits: what tensor parallelism divides."""
    whole: int
    """States between blocks."""
    largest: int
    """The largest array that is computed."""
    read: tuple[str, ...]
    """Arrays of the batch that the loss reads; XLA is not given the others."""


def count_flops(
    subject: Subject, graph: nnx.GraphDef, state: Any, transform: optax.GradientTransformation
) -> Flops:
    """Count the operations of a step, optimizer included, and what the backward pass repeats.

    In how many parts the batch is cut makes no difference.
    """
    unknown: list[Any] = []

    def of_step(subject: Subject, graph: nnx.GraphDef) -> int:
        unknown.clear()
        step = subject.step(graph, transform)
        return _operations(jax.make_jaxpr(step)(state, subject.batch).jaxpr, unknown)

    with implemented_by("reference"):
        loss = jax.make_jaxpr(_loss(subject, graph))(*_operands(state, subject))
        forward = _operations(loss.jaxpr, unknown)
        total = needed = of_step(subject, graph)
        loops = len(unknown)
        config = subject.task.config
        if getattr(config.model, "remat", "none") != "none":
            model = dataclasses.replace(config.model, remat="none")
            plain = subject.with_config(dataclasses.replace(config, model=model))
            bare = nnx.eval_shape(plain.task.build_model)
            needed = of_step(plain, nnx.split(bare, nnx.Param, ...)[0])
    return Flops(forward, needed - forward, max(total - needed, 0), loops)


def count_kept(subject: Subject, graph: nnx.GraphDef, state: Any) -> Kept:
    """Count what the gradient keeps of one forward pass; parameters as stored do not count."""
    loss = _loss(subject, graph)

    def pulled(params: Any, *rest: Any) -> Any:
        return jax.vjp(lambda params: loss(params, *rest), params)[1]

    program = jax.make_jaxpr(pulled)(*_operands(state, subject)).jaxpr
    names = sorted(subject.batch)  # as jax orders the leaves of a dict
    given = [id(x) for x in program.invars]
    params = set(given[: len(jax.tree.leaves(state["params"]))])
    batch = set(given[-len(names) :])
    used: set[int] = set()
    for equation in program.eqns:
        inputs = set(map(id, equation.invars))
        used |= inputs
        for reached in (params, batch):
            if inputs & reached:
                reached.update(map(id, equation.outvars))
    width = getattr(subject.task.config.model, "dim", None)
    sizes = {True: 0, False: 0}
    for out in {id(out): out for out in program.outvars}.values():
        # What is made of parameters alone, cast to another dtype say, lies as they do.
        own = id(out) in params and id(out) not in batch
        if not (own or id(out) in given or isinstance(out, jax.extend.core.Literal)):
            sizes[out.aval.shape[-1:] == (width,)] += _bytes(out)
    read = tuple(name for name, x in zip(names, given[-len(names) :]) if x in used)
    return Kept(sizes[False], sizes[True], _largest(program), read)


def _operands(state: Any, subject: Subject) -> tuple[Any, Any, Any]:
    return state["params"], state["rest"], subject.batch


def _loss(subject: Subject, graph: nnx.GraphDef) -> Any:
    dtype = jnp.dtype(subject.settings.compute_dtype)

    def cast(x: Any) -> Any:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def loss(params: Any, rest: Any, batch: Any) -> Any:
        model = nnx.merge(graph, jax.tree.map(cast, params), rest)
        rngs = nnx.Rngs(dropout=jax.random.key(0))
        return subject.task.loss(model, batch, rngs=rngs)[0].astype(jnp.float32)

    return loss


def _inner(equation: Any) -> list[Any]:
    """The programs within an equation."""
    found = []
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found


def _bytes(x: Any) -> int:
    """Bytes of an array; none of a token, and of what else has no size."""
    itemsize = getattr(getattr(x.aval, "dtype", None), "itemsize", 0)
    return math.prod(x.aval.shape) * itemsize if itemsize else 0


def _largest(jaxpr: Any) -> int:
    sizes = [_bytes(out) for equation in jaxpr.eqns for out in equation.outvars]
    inner = [_largest(inner) for equation in jaxpr.eqns for inner in _inner(equation)]
    return max([0, *sizes, *inner])


def _operations(jaxpr: Any, unknown: list[Any]) -> int:
    """Operations of a program; loops that tell no length are added to ``unknown``."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [_operations(program, unknown) for program in _called(name, equation)]
        if name == "dot_general":
            total += _product(equation)
        elif name.startswith("ragged_dot"):  # each row has one matrix
            rows, kernels = (x.aval.shape for x in equation.invars[:2])
            total += 2 * math.prod(rows) * kernels[-1]
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[params["dimension_numbers"].rhs_spec[0]]
            out = math.prod(equation.outvars[0].aval.shape)
            total += 2 * out * math.prod(kernel) // features
        elif name == "cond":
            total += max(inner)
        elif name == "scan":
            total += params["length"] * sum(inner)
        elif name == "shard_map":
            total += params["mesh"].size * sum(inner)
        else:
            total += sum(inner)
        if name == "while":
            unknown.append(equation)
    return total


def _called(name: str, equation: Any) -> list[Any]:
    """The programs of an equation that are run."""
    # A loop's condition has no products; the rules of a custom gradient are functions.
    only = {"while": "body_jaxpr", "custom_vjp_call": "call_jaxpr"}.get(name)
    return _inner(equation) if only is None else [equation.params[only].jaxpr]


def _product(equation: Any) -> int:
    left, right = (x.aval.shape for x in equation.invars[:2])
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    # Output entries times the length of the sum.
    twice = math.prod(left[axis] for axis in (*contracted, *batch))
    return 2 * math.prod(left) * math.prod(right) // twice if twice else 0
