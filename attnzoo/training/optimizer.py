"""From a config to an optax gradient transformation."""

import optax

from attnzoo.config.training import Optimizer, Schedule, Training


def build_schedule(
    schedule: Schedule, learning_rate: float, *, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """Learning rate as a function of the number of updates done before this one (0, 1, ...)."""
    match schedule.kind:
        case "constant":
            return optax.constant_schedule(learning_rate)
        case "halving":
            # Epochs count from 1 in the paper: "after 5 epochs" halves at the start of the sixth.
            after, every = schedule.start_epoch, schedule.every

            def halving(count):
                epoch = count // steps_per_epoch
                halvings = (epoch - after) // every + 1
                return learning_rate * 0.5 ** (halvings * (epoch >= after))

            return halving
        case "inverse_sqrt":
            warmup = schedule.warmup

            def inverse_sqrt(count):
                step = count + 1.0
                rising = step / warmup
                falling = (warmup / step) ** 0.5
                return learning_rate * (rising * (step < warmup) + falling * (step >= warmup))

            return inverse_sqrt
        case "cosine":
            return optax.warmup_cosine_decay_schedule(
                init_value=0.0 if schedule.warmup else learning_rate,
                peak_value=learning_rate,
                warmup_steps=schedule.warmup,
                decay_steps=max(total_steps, schedule.warmup + 1),
                end_value=schedule.final * learning_rate,
            )
        case kind:
            raise NotImplementedError(f"schedule.kind={kind!r}")


def build_optimizer(
    training: Training, *, total_steps: int, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The update rule with its schedule, behind clipping by the global norm; and the schedule."""
    schedule = build_schedule(
        training.schedule,
        training.learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
    )
    rule = _rule(training.optimizer, schedule)
    if training.clip_norm is None:
        return rule, schedule
    return optax.chain(optax.clip_by_global_norm(training.clip_norm), rule), schedule


def _rule(optimizer: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
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
            )
        case "adafactor":
            return optax.adafactor(schedule)
        case kind:
            raise NotImplementedError(f"optimizer.kind={kind!r}")
