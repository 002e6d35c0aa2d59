"""Trainings that claims share: runs of a config, and small models on made data."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
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
    values |= {"training.seed": setting.seed, "run_directory": str(home)}
    overrides = [f"{key}={value}" for key, value in values.items()]
    train(load(ExperimentConfig, ROOT / "configs" / config, overrides), resume=home.exists())
    return attnzoo.open(home)


def fit(
    model: M,
    loss: Callable[[M, Any], Float[Array, ""]],
    batch: Callable[[Array], Any],
    *,
    steps: int,
    seed: int,
    learning_rate: float = 1e-3,
    warm_up: int = 100,
    weight_decay: float = 0.0,
    optimizer: optax.GradientTransformation | None = None,
) -> Float[Array, " steps"]:
    """Train a model on data made by a function of a key, as one compiled loop; return the losses.

    Args:
        model: changed in place.
        loss: of a model and a batch; dropout belongs in the model's own streams.
        batch: makes one batch from a key, in JAX.
        steps, learning_rate, warm_up: of AdamW with a linear warm-up, a cosine to a tenth, and
            gradients clipped at norm 1.
        seed: of the batches.
        optimizer: instead of that.
    """
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warm_up, max(steps, warm_up + 1), learning_rate / 10
    )
    rule = optimizer or optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay)
    )
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    state = rule.init(parameters)

    @jax.jit
    def run(parameters: Any, rest: Any, state: Any, keys: Array) -> tuple[Any, Any, Any, Array]:
        def step(carry: Any, key: Array) -> tuple[Any, Array]:
            parameters, rest, state = carry

            def value(parameters: Any) -> tuple[Array, Any]:
                merged = nnx.merge(graph, parameters, rest)
                found = loss(merged, batch(key))
                return found, nnx.state(merged, nnx.Not(nnx.Param))

            (found, rest), gradients = jax.value_and_grad(value, has_aux=True)(parameters)
            with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and its count
                updates, state = rule.update(gradients, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
            return (parameters, rest, state), found

        (parameters, rest, state), losses = jax.lax.scan(step, (parameters, rest, state), keys)
        return parameters, rest, state, losses

    parameters, rest, state, losses = run(
        parameters, rest, state, jax.random.split(jax.random.key(seed), steps)
    )
    nnx.update(model, parameters, rest)
    return jnp.asarray(losses)
