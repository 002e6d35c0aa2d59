"""Trainings that claims share: runs of a config, and small models on made data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from reproductions.claim import Setting
from reproductions.store import ROOT

M = TypeVar("M", bound=nnx.Module)


def trained(setting: Setting, config: str, label: str, **settings: Any) -> Any:
    """Train a config of configs/ or continue it, and return the opened run.

    Args:
        setting: gives seed and folder; a finished run is opened as it is.
        config: path under configs/, such as "claims/ladder.yaml".
        label: name of the run directory under the setting's folder.
        settings: dotted keys of the config with their values; "." is written "__".
    """
    import attnzoo
    from attnzoo.training.loop import train

    home = setting.folder / label
    values = {key.replace("__", "."): value for key, value in settings.items()}
    values |= {"training.seed": setting.seed, "directory": str(home)}
    overrides = [f"{key}={value}" for key, value in values.items()]
    train(load(ExperimentConfig, ROOT / "configs" / config, overrides), resume=home.exists())
    return attnzoo.open(home)


def kept(path: Path | None, model: M, learn: Callable[[], None]) -> M:
    """Return the model with the weights that a file keeps; if there is none, train and write it.

    None as path trains and keeps nothing.
    """
    if path is not None and path.exists():
        tree = jax.tree.structure(nnx.state(model, nnx.Param))
        with np.load(path) as stored:
            nnx.update(model, jax.tree.unflatten(tree, [jnp.asarray(a) for a in stored.values()]))
        return model
    learn()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"{path.name}.{os.getpid()}")
        with made.open("wb") as file:
            np.savez(file, *jax.tree.leaves(nnx.state(model, nnx.Param)))
        made.rename(path)
    return model


def fit(
    model: M,
    loss: Callable[[M, Any], Float[Array, ""]],
    batch: Callable[..., Any],
    *,
    steps: int,
    seed: int,
    learning_rate: float = 1e-3,
    warm_up: int = 100,
    weight_decay: float = 0.0,
    optimizer: optax.GradientTransformation | None = None,
    data: tuple[Array, ...] = (),
    one_program: bool = True,
) -> Float[Array, " steps"]:
    """Train a model on data made by a function of a key, in a compiled loop; return the losses.

    Args:
        model: changed in place.
        loss: of a model and a batch; dropout belongs in the model's own streams.
        batch: makes one batch from a key, in JAX.
        steps, learning_rate, warm_up: of AdamW with a linear warm-up, a cosine to a tenth, and
            gradients clipped at norm 1.
        seed: of the batches.
        optimizer: instead of that.
        data: further arguments of ``batch``: arrays too large to be constants of the program.
        one_program: False calls a program for each step. XLA has no fast gradient of a convolution
            within a loop on the CPU (measured: 84 ms instead of 3.5).
    """
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warm_up, max(steps, warm_up + 1), learning_rate / 10
    )
    rule = optimizer or optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay)
    )
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    state = rule.init(parameters)

    def step(carry: Any, key: Array, data: tuple[Array, ...]) -> tuple[Any, Array]:
        parameters, rest, state = carry

        def value(parameters: Any) -> tuple[Array, Any]:
            merged = nnx.merge(graph, parameters, rest, copy=True)  # norms write into it
            found = loss(merged, batch(key, *data))
            return found, nnx.state(merged, nnx.Not(nnx.Param))

        (found, rest), gradients = jax.value_and_grad(value, has_aux=True)(parameters)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and its count
            updates, state = rule.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, updates), rest, state), found

    carry, keys = (parameters, rest, state), jax.random.split(jax.random.key(seed), steps)
    if one_program:
        run = jax.jit(
            lambda carry, keys, data: jax.lax.scan(lambda c, k: step(c, k, data), carry, keys)
        )
        carry, losses = run(carry, keys, data)
    else:
        one, found = jax.jit(step), []
        for key in keys:
            carry, last = one(carry, key, data)
            found.append(last)
        losses = jnp.stack(found)
    parameters, rest, _ = carry
    nnx.update(model, parameters, rest)
    return jnp.asarray(losses)
