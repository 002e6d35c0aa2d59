"""One training update (loss, gradient, optimizer) as one compiled function."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.errors import UserError
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.task import Batch, Task
from attnzoo.training.placement import Placement

State = dict[str, Any]  # params, rest, optimizer, step, perhaps ema: pure dicts, tuples of arrays

MOST_PARAMETERS = 10**13
"""Parameters of the largest model, ten times those of any that has been trained."""


def fresh_state(
    task: Task, transform: optax.GradientTransformation, placement: Placement
) -> tuple[nnx.GraphDef, State, Any]:
    """Return the structure of the task's model, the initial training state, and its shardings.

    On several devices each array is created sharded; no device ever holds a whole one.

    Raises:
      UserError: a model, batch or rule that does not fit the mesh.
    """
    settings = task.config.training
    build, graphs = _builder(task, transform)
    if placement.is_one and settings.offload == "none":
        state = jax.jit(build)()
        return graphs[0], state, None
    placement.check(nnx.eval_shape(task.build_model), settings.batch_size, settings.accumulate)
    graph, abstract = planned_state(task, transform)
    parameters = placement.of_parameters(abstract["params"])
    shardings = placement.of_state(abstract, parameters, offload=settings.offload)
    return graph, jax.jit(build, out_shardings=shardings)(), shardings


def planned_state(task: Task, transform: optax.GradientTransformation) -> tuple[nnx.GraphDef, Any]:
    """Return the model's structure and the state as shapes, without allocating arrays."""
    build, graphs = _builder(task, transform)
    abstract = jax.eval_shape(build)
    return graphs[0], abstract


def _builder(
    task: Task, transform: optax.GradientTransformation
) -> tuple[Callable[[], State], list[nnx.GraphDef]]:
    """Return a function that builds a new state, and a list to which it adds the graph."""
    graphs: list[nnx.GraphDef] = []

    def build() -> State:
        graph, params, rest = nnx.split(task.build_model(), nnx.Param, ...)
        graphs.append(graph)
        params = nnx.to_pure_dict(params)
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        if size > MOST_PARAMETERS:  # with which the compiler may abort the process
            raise UserError(f"model: {size:,} parameters; wanted at most {MOST_PARAMETERS:,}")
        state = {
            "params": params,
            "rest": nnx.to_pure_dict(rest),
            "optimizer": transform.init(params),
            "step": jnp.int32(0),
        }
        if task.config.training.ema is not None:
            state["ema"] = jax.tree.map(jnp.copy, params)
        return state

    return build, graphs


def make_train_step(
    graph: nnx.GraphDef,
    transform: optax.GradientTransformation,
    loss: Callable[..., tuple[Float[Array, ""], Sums]],
    *,
    seed: int,
    compute_dtype: str = "float32",
    accumulate: int = 1,
    ema: float | None = None,
    shardings: Any = None,
) -> Callable[[State, Batch], tuple[State, Sums]]:
    """Return one update as a jitted function of the state and a batch; the state is donated.

    ``loss(model, batch, rngs=...)`` returns the loss and sums to be logged, among them ``weight``,
    the divisor of the mean loss. Parameters and optimizer stay float32; the model computes in
    ``compute_dtype``. The batch is cut into ``accumulate`` parts, computed one after the other;
    their mean, weighted by ``weight``, is the loss of the whole batch. ``ema`` is the decay of the
    running average of the parameters, kept in ``state["ema"]``. ``shardings`` are those of the
    state's arrays, on several devices.
    """
    dtype = jnp.dtype(compute_dtype)

    def cast(x: Array) -> Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        out_shardings=None if shardings is None else (shardings, None),
    )
    def train_step(state: State, batch: Batch) -> tuple[State, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])

        def objective(params: Any, rest: Any, batch: Batch, key: Array) -> tuple[Array, Any]:
            model = nnx.merge(graph, jax.tree.map(cast, params), rest)
            value, sums = loss(model, batch, rngs=nnx.Rngs(dropout=key))
            value = value.astype(jnp.float32)
            # Running averages of batch norms are written while the loss is computed.
            rest = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
            return value, ({**sums, "loss": value}, rest)

        gradient_of = jax.grad(objective, has_aux=True)
        whole = state["params"], state["rest"], batch, key
        if accumulate == 1:
            gradient, (sums, rest) = gradient_of(*whole)
        else:
            gradient, (sums, rest) = _accumulated(gradient_of, *whole, accumulate)
        optimizer = state["optimizer"]
        if shardings is not None:  # copied from host memory if the optimizer is offloaded
            near = jax.tree.map(lambda s: s.with_memory_kind("device"), shardings["optimizer"])
            optimizer = jax.device_put(optimizer, near)
        updates, optimizer = transform.update(gradient, optimizer, state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {
            "params": params,
            "rest": rest,
            "optimizer": optimizer,
            "step": state["step"] + 1,
        }
        if ema is not None:
            # At first the average is over few steps and must forget the initial weights faster.
            done = state["step"].astype(jnp.float32)
            decay = jnp.minimum(ema, (1 + done) / (10 + done))
            new["ema"] = jax.tree.map(
                lambda old, now: decay * old + (1 - decay) * now, state["ema"], params
            )
        return new, {**sums, "gradient_norm": optax.tree.norm(gradient)}

    return train_step


def _accumulated(
    gradient_of: Callable[..., tuple[Any, tuple[Sums, Any]]],
    params: Any,
    rest: Any,
    batch: Batch,
    key: Array,
    parts: int,
) -> tuple[Any, tuple[Sums, Any]]:
    """Return gradient and sums of a batch computed part by part, weighted by ``weight``."""
    # Strided rows, not contiguous ones, so that all devices work on each part.
    cut = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch
    )
    keys = jax.random.split(key, parts)

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        total, rest = carry
        gradient, (sums, rest) = gradient_of(params, rest, *part)
        weight = sums["weight"]
        weighed = jax.tree.map(lambda g: g * weight.astype(g.dtype), gradient)
        sums = {**sums, "loss": sums["loss"] * weight, "parts": weight}
        return (jax.tree.map(jnp.add, total, (weighed, sums)), rest), None

    first = jax.tree.map(lambda x: x[0], cut)
    gradient, (sums, _) = jax.eval_shape(gradient_of, params, rest, first, keys[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (gradient, sums))
    zeros[1]["parts"] = jnp.float32(0)
    ((gradient, sums), rest), _ = jax.lax.scan(add, (zeros, rest), (cut, keys))
    total = jnp.maximum(sums.pop("parts"), 1.0)
    sums["loss"] = sums["loss"] / total
    return jax.tree.map(lambda g: g / total.astype(g.dtype), gradient), (sums, rest)
