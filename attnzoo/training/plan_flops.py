"""What a step computes and keeps, counted in its jaxpr: nothing is compiled, nothing allocated.

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
from attnzoo.training.plan_subject import Subject
from attnzoo.training.step import make_train_step


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
        """What the model needs: what utilisation (MFU) is measured by."""
        return self.forward + self.backward

    @property
    def total(self) -> int:
        """What the devices do."""
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
    """Of a whole step, optimizer included; what the backward pass computes again apart. In how many
    parts the batch is cut makes no difference.
    """
    counter = _Counter()
    with implemented_by("reference"):
        forward = counter.of(jax.make_jaxpr(_loss(subject, graph))(*_operands(state, subject)))
        total = counter.of(_step(subject, graph, state, transform))
        unknown = counter.unknown
        needed = total
        config = subject.task.config
        if getattr(config.model, "remat", "none") != "none":
            bare = dataclasses.replace(
                config, model=dataclasses.replace(config.model, remat="none")
            )
            simple = subject.with_config(bare)
            plain, _, _ = nnx.split(nnx.eval_shape(simple.task.build_model), nnx.Param, ...)
            needed = counter.of(_step(simple, plain, state, transform))
    return Flops(forward, needed - forward, max(total - needed, 0), unknown)


def count_kept(subject: Subject, graph: nnx.GraphDef, state: Any) -> Kept:
    """What the gradient keeps of one forward pass; parameters as they are stored do not count."""
    objective = _loss(subject, graph)

    def pulled(params: Any, *rest: Any) -> Any:
        return jax.vjp(lambda params: objective(params, *rest), params)[1]

    program = jax.make_jaxpr(pulled)(*_operands(state, subject)).jaxpr
    names = sorted(subject.batch)  # as jax orders the leaves of a dict
    params = set(map(id, program.invars[: len(jax.tree.leaves(state["params"]))]))
    batch = set(map(id, program.invars[-len(names) :]))
    used: set[int] = set()
    for equation in program.eqns:
        inputs = set(map(id, equation.invars))
        used |= inputs
        for reached in (params, batch):
            if inputs & reached:
                reached.update(map(id, equation.outvars))
    given = set(map(id, program.invars))
    width = getattr(subject.task.config.model, "dim", None)
    sizes = {True: 0, False: 0}
    for out in {id(out): out for out in program.outvars}.values():
        # What is made of parameters alone, cast to another dtype say, lies as they do.
        own = id(out) in params and id(out) not in batch
        if id(out) in given or own or isinstance(out, jax.extend.core.Literal):
            continue
        shape = out.aval.shape
        sizes[bool(shape) and shape[-1] == width] += math.prod(shape) * out.aval.dtype.itemsize
    read = tuple(name for name, x in zip(names, program.invars[-len(names) :]) if id(x) in used)
    return Kept(sizes[False], sizes[True], _largest(program), read)


def _operands(state: Any, subject: Subject) -> tuple[Any, Any, Any]:
    return state["params"], state["rest"], subject.batch


def _loss(subject: Subject, graph: nnx.GraphDef) -> Any:
    dtype = jnp.dtype(subject.task.config.training.compute_dtype)

    def cast(x: Any) -> Any:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def loss(params: Any, rest: Any, batch: Any) -> Any:
        model = nnx.merge(graph, jax.tree.map(cast, params), rest)
        rngs = nnx.Rngs(dropout=jax.random.key(0))
        return subject.task.loss(model, batch, rngs=rngs)[0].astype(jnp.float32)

    return loss


def _step(subject: Subject, graph: nnx.GraphDef, state: Any, transform: Any) -> Any:
    settings = subject.task.config.training
    step = make_train_step(
        graph,
        transform,
        subject.task.loss,
        seed=settings.seed,
        compute_dtype=settings.compute_dtype,
        ema=settings.ema,
    )
    return jax.make_jaxpr(step)(state, subject.batch)


def _inner(equation: Any) -> list[Any]:
    """The programs within an equation."""
    found = []
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found


def _largest(jaxpr: Any) -> int:
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [_largest(inner) for inner in _inner(equation)]
        sizes += [
            math.prod(out.aval.shape) * out.aval.dtype.itemsize
            for out in equation.outvars
            if hasattr(out.aval, "shape") and hasattr(out.aval.dtype, "itemsize")
        ]
    return max(sizes)


class _Counter:
    """Operations of a program; ``unknown`` counts loops that tell no length."""

    def __init__(self) -> None:
        self.unknown = 0

    def of(self, program: Any) -> int:
        """Of the outermost program, anew."""
        self.unknown = 0
        return self._of(program.jaxpr)

    def _of(self, jaxpr: Any) -> int:
        return sum(map(self._one, jaxpr.eqns))

    def _one(self, equation: Any) -> int:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            return _product(equation)
        if name == "conv_general_dilated":
            return _convolution(equation)
        if name == "scan":
            return params["length"] * self._of(params["jaxpr"].jaxpr)
        if name == "cond":
            return max(self._of(branch.jaxpr) for branch in params["branches"])
        if name == "while":
            self.unknown += 1
            return self._of(params["body_jaxpr"].jaxpr)
        if name == "shard_map":
            return params["mesh"].size * self._of(params["jaxpr"])
        if name == "custom_vjp_call":
            # Forward and backward rules are functions here: only the call itself is a program.
            return self._of(params["call_jaxpr"].jaxpr)
        return sum(map(self._of, _inner(equation)))


def _product(equation: Any) -> int:
    left, right = (x.aval.shape for x in equation.invars[:2])
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    summed = math.prod(left[axis] for axis in contracted)
    shared = math.prod(left[axis] for axis in batch)
    # Output entries times the length of the sum.
    return 2 * math.prod(left) * math.prod(right) // (summed * shared) if summed * shared else 0


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    out = math.prod(equation.outvars[0].aval.shape)
    return 2 * out * math.prod(kernel) // features
