"""Optimizers and learning rate schedules: optax transformations built from a config."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from attnzoo.config.training import MuonConfig, Optimizer, Schedule, TrainingConfig
from attnzoo.training.parameters import describe


def build_schedule(
    schedule: Schedule, learning_rate: float, *, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """Return the learning rate as a function of the number of previous updates (0, 1, ...)."""
    match schedule.kind:
        case "constant":
            return optax.constant_schedule(learning_rate)
        case "halving":
            # Epochs count from 1 in the paper: "after 5 epochs" halves at the start of the sixth.
            after, every = schedule.start_epoch, schedule.every

            def halving(count):
                epoch = jnp.asarray(count, jnp.int32) // steps_per_epoch
                halvings = jnp.maximum((epoch - after) // every + 1, 0)
                return learning_rate * jnp.exp2(-halvings.astype(jnp.float32))

            return halving
        case "inverse_sqrt":
            warmup = schedule.warmup

            def inverse_sqrt(count):
                step = jnp.asarray(count, jnp.float32) + 1.0
                return learning_rate * jnp.minimum(step / warmup, jnp.sqrt(warmup / step))

            return inverse_sqrt
        case "cosine":
            cosine = optax.warmup_cosine_decay_schedule(
                init_value=0.0 if schedule.warmup else learning_rate,
                peak_value=learning_rate,
                warmup_steps=schedule.warmup,
                decay_steps=max(total_steps, schedule.warmup + 1),
                end_value=schedule.final * learning_rate,
            )
            # A float, because optax divides counts, which strict promotion refuses for integers.
            return lambda count: cosine(jnp.asarray(count, jnp.float32))
        case "wsd":
            warmup, final = schedule.warmup, schedule.final
            decay = max(round(schedule.decay_share * total_steps), 1)

            def warmup_stable_decay(count):
                step = jnp.asarray(count, jnp.float32)
                rise = (step + 1.0) / max(warmup, 1) if warmup else jnp.ones_like(step)
                left = (total_steps - step) / decay
                fall = final + (1.0 - final) * jnp.clip(left, 0.0, 1.0)
                return learning_rate * jnp.minimum(jnp.minimum(rise, 1.0), fall)

            return warmup_stable_decay
        case kind:
            raise NotImplementedError(f"schedule.kind={kind!r}")


def decay_mask(params: Any) -> Any:
    """Return a tree of booleans, True where weight decay applies: everywhere except vectors."""

    def decays(where: Any, leaf: Any) -> bool:
        return describe(where, leaf.shape).role != "vector"

    return jax.tree_util.tree_map_with_path(decays, params)


def muon_axes(params: Any) -> Any:
    """Return the input and output axes of each matrix that Muon orthogonalises; None elsewhere.

    Stacked matrices, those of layers and of heads, are orthogonalised one by one. The window axes
    of a convolution are input axes, as in Jordan et al. 2024. As in their Muon, embeddings and
    output layers are left to Adam.
    """

    def axes(where: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        parameter, last = describe(where, leaf.shape), leaf.ndim - 1
        if parameter.role != "matrix":
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(parameter.stacked, last)), (last,))

    return jax.tree_util.tree_map_with_path(axes, params)


def build_optimizer(
    training: TrainingConfig, *, total_steps: int, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Build the update rule with gradient clipping and its schedule; return both."""
    schedule = build_schedule(
        training.schedule,
        training.learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
    )
    rule = _rule(training.optimizer, schedule, None if training.decay_all else decay_mask)
    if training.clip_norm is not None:
        rule = optax.chain(optax.clip_by_global_norm(training.clip_norm), rule)
    return _permissive(rule), schedule


def _permissive(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Apply a rule under standard dtype promotion.

    optax raises floats to powers of integer counts, which strict promotion refuses.
    """

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return rule.update(updates, state, params)

    return optax.GradientTransformation(rule.init, update)


def _rule(
    optimizer: Optimizer, schedule: optax.Schedule, decays: Callable[[Any], Any] | None
) -> optax.GradientTransformation:
    match optimizer.kind:
        case "adadelta":
            return optax.adadelta(schedule, rho=optimizer.rho, eps=optimizer.eps)
        case "sgd":
            return optax.sgd(schedule, momentum=optimizer.momentum or None)
        case "adam":
            return optax.adam(schedule, b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps)
        case "adamw":
            return optax.adamw(
                schedule,
                b1=optimizer.b1,
                b2=optimizer.b2,
                eps=optimizer.eps,
                weight_decay=optimizer.weight_decay,
                mask=decays,
            )
        case "lion":
            return optax.lion(
                schedule,
                b1=optimizer.b1,
                b2=optimizer.b2,
                weight_decay=optimizer.weight_decay,
                mask=decays,
            )
        case "muon":
            return _muon(optimizer, schedule, decays)
        case "adafactor":
            return _layer_by_layer(optax.adafactor(schedule))
        case kind:
            raise NotImplementedError(f"optimizer.kind={kind!r}")


def _layer_by_layer(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Apply a rule separately to each layer of a scan, for rules that average over a parameter."""
    layers = optax.GradientTransformation(jax.vmap(rule.init), jax.vmap(rule.update))

    def depth(where: Any, leaf: Any) -> int:
        return leaf.shape[0] if describe(where, leaf.shape).layers else 0

    def parts(params: Any) -> optax.GradientTransformation:
        depths = jax.tree_util.tree_map_with_path(depth, params)
        # Without a scan the state is that of the rule itself.
        if not any(jax.tree.leaves(depths)):
            return rule
        rules = {n: layers if n else rule for n in jax.tree.leaves(depths)}
        return optax.partition(rules, depths)

    def update(updates, state, params=None):
        return parts(updates).update(updates, state, params)

    return optax.GradientTransformation(lambda params: parts(params).init(params), update)


def _muon(
    optimizer: MuonConfig, schedule: optax.Schedule, decays: Callable[[Any], Any] | None
) -> optax.GradientTransformation:
    """Return Muon for matrices, AdamW for tables, vectors and the rest."""
    return optax.contrib.muon(
        schedule,
        beta=optimizer.beta,
        weight_decay=optimizer.weight_decay,
        weight_decay_mask=decays,
        adam_weight_decay=optimizer.weight_decay if decays is None else 0.0,
        adam_learning_rate=lambda count: schedule(count) * optimizer.adam_share,
        muon_weight_dimension_numbers=muon_axes,
    )
