"""`benchmark input`: whether a training ever waits for its data.

For each config: the batches of its training (`plan.batch` and `task.inputs`) and its training step
on the same batches, in turn on one core; median CPU time of a step's share of either. Then a loop
over both, in milliseconds a step: batches made when a step wants them, and made ahead in a thread
as a training does. Exit code 1 where the input is not at least five times as fast as the step.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SMALL = ("demo", "shakespeare-gpt", "text-bert", "planted-vit", "shakespeare-t5")
WANTED = 5.0


def add_parser(workloads: Any, positive: Any) -> None:
    """The command line of `benchmark input`."""
    parser = workloads.add_parser(
        "input",
        help="the input pipeline against the training step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = [Path("configs") / f"{name}.yaml" for name in SMALL]
    parser.add_argument(
        "configs", nargs="*", type=Path, metavar="CONFIG", help=f"(default: {', '.join(SMALL)})",
        default=default,
    )  # fmt: skip
    parser.add_argument("--rounds", type=positive, default=5, help="of both (default: 5)")
    parser.add_argument("--steps", type=positive, default=20, help="of a round (default: 20)")


def measure(arguments: argparse.Namespace, cores: list[int]) -> int:
    """Print one line of each config."""
    if cores:
        os.sched_setaffinity(0, cores)
    columns = f"{'unit':<9}{'input / s':>12}{'step / s':>12}{'ratio':>8}{'input ms':>10}"
    print(f"{'':<20}{columns}{'at use':>9}{'ahead':>9}")
    slow = 0
    for config in arguments.configs:
        unit, count, given, step, at_use, ahead = _times(config, arguments.rounds, arguments.steps)
        ratio = step / given
        slow += ratio < WANTED
        print(
            f"{config.stem:<20}{unit:<9}{count / given:>12,.0f}{count / step:>12,.0f}"
            f"{ratio:>8.1f}{1e3 * given:>10.2f}{1e3 * at_use:>9.2f}{1e3 * ahead:>9.2f}",
            flush=True,
        )
    return 1 if slow else 0


def _times(path: Path, rounds: int, steps: int) -> tuple[str, float, float, float, float, float]:
    """Unit, how many a step has, and CPU seconds of a step's input, of the step, of both in a loop.

    The last two are of a loop with batches made at use, and made ahead.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from attnzoo.config.experiment import ExperimentConfig
    from attnzoo.config.loader import load
    from attnzoo.data.ahead import Ahead
    from attnzoo.tasks import task_class
    from attnzoo.training.loop import make_train_step
    from attnzoo.training.optimizer import build_optimizer

    config = load(ExperimentConfig, path)
    settings = config.training
    with tempfile.TemporaryDirectory() as home:
        task = task_class(config.task).create(config, Path(home), resume=False)
    plan = task.train
    assert plan is not None
    batch_of = plan.batch
    graph, params, rest = nnx.split(task.build_model(), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    transform, _ = build_optimizer(
        settings, total_steps=rounds * steps, steps_per_epoch=plan.steps_per_epoch
    )
    train_step = make_train_step(graph, transform, task.loss, seed=settings.seed)
    state = {
        "params": params,
        "rest": nnx.to_pure_dict(rest),
        "optimizer": transform.init(params),
        "step": jnp.int32(0),
    }
    given, stepped, counts = [], [], []
    looped: dict[int, list[float]] = {0: [], 2: []}
    for i in range(rounds + 1):
        batches, seconds = _timed(
            lambda: [task.inputs(batch_of(i * steps + j)) for j in range(steps)]  # noqa: B023
        )
        given.append(seconds / steps)

        def run(batches: Iterable[Any] = batches) -> list[Any]:
            nonlocal state
            sums = []
            for batch in batches:
                state, one = train_step(state, batch)
                sums.append(one["count"])
            return jax.block_until_ready(sums)

        # The first round has an epoch's shuffle and all shapes to compile: run, then left out.
        sums, seconds = _timed(run)
        stepped.append(seconds / steps)
        counts += [float(one) for one in sums]
        for depth, seconds_of in looped.items():

            def loop(depth: int = depth, first: int = i * steps) -> None:
                with Ahead(plan, first, first + steps, depth=depth) as batches:
                    run(task.inputs(batch) for batch in batches)

            seconds_of.append(_timed(loop)[1] / steps)
    return (
        task.unit,
        statistics.mean(counts),
        statistics.median(given[1:]),
        statistics.median(stepped[1:]),
        *(statistics.median(seconds[1:]) for seconds in looped.values()),
    )


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    result = run()
    return result, time.process_time() - began
