"""`benchmark profile`: where the time of a training step of GPT-2 goes.

The step, and steps with a part left out, take turns on one core; a part is what leaving it out
saves. Each product of the step is also timed alone, as are attention and the update; so what is
left over for element-wise work, copies and loops is the rest. Medians of CPU time.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

ROWS, LENGTH, LAYERS, WIDTH, HEADS, VOCABULARY = 8, 256, 6, 384, 6, 8192


def add_parser(workloads: Any, positive: Callable[[str], int]) -> None:
    """The command line."""
    parser = workloads.add_parser(
        "profile",
        help="where the time of a training step of GPT-2 goes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=positive, default=7, help="timed calls of each part")


def measure(arguments: argparse.Namespace, cores: list[int]) -> int:
    """Time the parts in turns, print the table."""
    if cores:
        os.sched_setaffinity(0, cores)  # before jax counts the cores
    calls = _parts()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for count in range(arguments.rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if count:  # the first call compiles
                times[name].append(1e3 * (time.process_time() - start))
    print(
        f"GPT-2 of {LAYERS} layers, width {WIDTH}, vocabulary {VOCABULARY}, {ROWS} x {LENGTH} "
        f"tokens, float32, one core, {arguments.rounds} rounds, CPU ms\n"
    )
    print("| part | ms | lowest | highest |")
    print("|---|---|---|---|")
    for name, one in times.items():
        print(f"| {name} | {statistics.median(one):.0f} | {min(one):.0f} | {max(one):.0f} |")
    return 0


def _parts() -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx

    from attnzoo.config.training import AdamWConfig, ConstantConfig, TrainingConfig
    from attnzoo.ops import flex_attention, masks
    from attnzoo.training.optimizer import build_optimizer
    from benchmarks.training import LEARNING_RATE, WORKLOADS

    workload = WORKLOADS["gpt2"]
    graph, params, rest = nnx.split(workload.build(), nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    random = np.random.default_rng(1)
    batch = jax.device_put(workload.batch(random))
    training = TrainingConfig(
        optimizer=AdamWConfig(),
        schedule=ConstantConfig(),
        learning_rate=LEARNING_RATE,
        clip_norm=None,
        steps=1,
    )
    transform, _ = build_optimizer(training, total_steps=1, steps_per_epoch=1)
    optimizer = transform.init(params)

    def loss(params: Any) -> Any:
        return workload.loss(nnx.merge(graph, params, rest), batch, rngs=None)[0]

    def without_vocabulary(params: Any) -> Any:
        model: Any = nnx.merge(graph, params, rest)
        x, _ = model.decoder(model._embed(batch["tokens"], None, None))
        return jnp.mean(model.norm(x) ** 2)

    def update(gradient: Any, optimizer: Any, params: Any) -> Any:
        updates, optimizer = transform.update(gradient, optimizer, params)
        return optax.apply_updates(params, updates), optimizer

    def step(params: Any, optimizer: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params)
        return value, update(gradient, optimizer, params)

    def products(x: Any, w: Any, d: Any) -> Any:
        # Forward, gradient of the input, gradient of the matrix.
        return x @ w, d @ w.T, x.T @ d

    def drawn(*shape: int) -> Any:
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    def timed(function: Callable[..., Any], *given: Any, times: int = 1) -> Callable[[], Any]:
        compiled = jax.jit(function)
        return lambda: [jax.block_until_ready(compiled(*given)) for _ in range(times)]

    tokens = ROWS * LENGTH

    def of_product(a: int, b: int, times: int) -> Callable[[], Any]:
        arrays = drawn(tokens, a), drawn(a, b), drawn(tokens, b)
        return timed(products, *arrays, times=times)

    def attention(q: Any, k: Any, v: Any, d: Any) -> Any:
        attend = lambda q, k, v: flex_attention(q, k, v, mask_mod=masks.causal())  # noqa: E731
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(d)

    heads = [drawn(ROWS, LENGTH, HEADS, WIDTH // HEADS) for _ in range(4)]
    return {
        "step": timed(step, params, optimizer),
        "loss and gradients": timed(jax.value_and_grad(loss), params),
        "loss alone": timed(loss, params),
        "gradients without vocabulary": timed(jax.grad(without_vocabulary), params),
        "update alone": timed(update, params, optimizer, params),
        "products of the vocabulary alone": of_product(WIDTH, VOCABULARY, 1),
        "products of width x width alone": of_product(WIDTH, WIDTH, 4 * LAYERS),
        "products of the feed-forward layers alone": of_product(WIDTH, 4 * WIDTH, 2 * LAYERS),
        "attention alone": timed(attention, *heads, times=LAYERS),
    }
