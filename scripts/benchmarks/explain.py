"""`benchmark explain`: what reading a ViT's attention costs beside its plain forward pass.

A ViT-B/16 with random weights. The plain pass, the capture of one layer, that of all layers,
rollout and the gradients of a logit by all weights take turns on one pinned core; what is told are
medians of CPU time, and of the ratios to the plain pass of the same round.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

LIMITS = {"one layer": 1.10, "rollout of all layers": 2.0}


def add_parser(workloads: Any, positive: Callable[[str], int]) -> None:
    """The subcommand's line."""
    parser = workloads.add_parser(
        "explain",
        help="attention of a ViT-B read, against the plain forward pass",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batch", type=positive, default=1, help="images")
    parser.add_argument("--size", type=positive, default=224, help="pixels of a side")
    parser.add_argument("--layers", type=positive, default=12, help="blocks")
    parser.add_argument("--rounds", type=positive, default=7, help="timed calls of each")


def measure(arguments: argparse.Namespace, cores: list[int]) -> int:
    """Print the table; exit code 1 if something costs more than ``LIMITS`` allow."""
    import os

    os.sched_setaffinity(0, cores)
    import dataclasses

    import jax
    from flax import nnx

    from attnzoo import explain
    from attnzoo.config.vit import ViTConfig
    from attnzoo.models.vit import ViT

    config = ViTConfig.base(image_size=arguments.size)
    config = dataclasses.replace(config, layers=arguments.layers)
    model = ViT(config, 1000, rngs=nnx.Rngs(0))
    assert model.head is not None
    model.head.kernel[...] = jax.random.normal(jax.random.key(1), model.head.kernel.shape)
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    images = jax.random.normal(jax.random.key(2), shape)
    last = f"encoder/{arguments.layers - 1}/self"
    # Not nnx.jit, which gives all parameters back with every call.
    graph, state = nnx.split(model)
    forward = jax.jit(lambda state, images: nnx.merge(graph, state)(images))

    rolled = jax.jit(lambda maps: explain.rollout(list(maps.values())))

    def rollout() -> Any:
        return rolled(explain.capture_attention(model, images)[1])

    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: forward(state, images),
        "one layer": lambda: explain.capture_attention(model, images, layers=[last]),
        "all layers": lambda: explain.capture_attention(model, images),
        "rollout of all layers": rollout,
        "gradients by all weights": lambda: explain.weight_gradients(model, 7, images),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(arguments.rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            jax.block_until_ready(call())
            # The first round compiles.
            if round_:
                taken[name].append(time.process_time() - start)
    print(f"ViT-B/16, {arguments.batch} x {arguments.size} px, {arguments.layers} layers, float32")
    print(f"CPU time of {arguments.rounds} rounds: median (lowest to highest), and times the plain")
    slow = False
    for name, seconds in taken.items():
        pairs = zip(seconds, taken["forward"], strict=True)
        ratio = statistics.median(mine / plain for mine, plain in pairs)
        limit = LIMITS.get(name)
        slow = slow or (limit is not None and ratio > limit)
        wanted = "" if limit is None else f"  (allowed {limit:.2f})"
        print(
            f"  {name:<26}{1e3 * statistics.median(seconds):7.0f} ms "
            f"({1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f})  x {ratio:.3f}{wanted}"
        )
    return int(slow)
