"""`benchmark context`: attention from a thousand tokens to a million, output and gradients.

Each way is compiled for each length, which tells the memory that a device needs, and timed while a
length is expected to take no longer than ``--limit`` seconds. Beyond, its time is what the last
measured one would become (with the square of the length where all pairs are looked at), marked as
planned; memory is XLA's own figure at every length.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from attnzoo.errors import UserError

WAYS = {
    "full": 2,
    "ring": 2,
    "window": 1,
    "ring window": 1,
    "retnet": 1,
    "gated delta": 1,
}
"""Way -> power of the length that its time grows with."""


class Point(NamedTuple):
    """One way at one length."""

    way: str
    length: int
    seconds: float
    planned: bool
    device_bytes: int
    """Arguments, results and temporaries on one device."""
    devices: int


def add_parser(workloads: Any, positive: Callable[[str], int]) -> None:
    """The options of this workload."""
    parser = workloads.add_parser(
        "context",
        help="attention from a thousand tokens to a million",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    lengths = [4**power for power in range(5, 11)]
    parser.add_argument("--lengths", type=positive, nargs="+", default=lengths)
    parser.add_argument("--ways", nargs="+", metavar="WAY", default=list(WAYS), help="of these")
    parser.add_argument("--heads", type=positive, default=1)
    parser.add_argument("--width", type=positive, default=64, help="of a head")
    parser.add_argument("--window", type=positive, default=1024, help="keys that a query sees")
    parser.add_argument("--devices", type=positive, default=8, help="of the ring, on this CPU")
    parser.add_argument("--limit", type=positive, default=120, help="seconds of one measurement")
    parser.add_argument("--figure", type=Path, help="write a picture there")
    parser.add_argument("--json", type=Path, help="write the numbers there")


def measure(arguments: argparse.Namespace) -> int:
    """Print a table row by row; exit code 0."""
    unknown = [way for way in arguments.ways if way not in WAYS]
    if unknown:
        raise UserError(f"--ways {unknown[0]}: wanted some of {', '.join(WAYS)}")
    import jax

    if any(way.startswith("ring") for way in arguments.ways):
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    print(
        f"{arguments.heads} head(s) of width {arguments.width}, float32, causal, output and "
        f"gradients of q, k, v; window {arguments.window}; {os.cpu_count()} cores, ring of "
        f"{arguments.devices} devices on them\n"
    )
    print("| way | tokens | seconds | us a token | MiB a device | bytes a token and device |")
    print("|---|---|---|---|---|---|")
    points: list[Point] = []
    for way in arguments.ways:
        last: Point | None = None
        for length in sorted(arguments.lengths):
            last = _point(way, length, last, arguments)
            points.append(last)
            mark = " (planned)" if last.planned else ""
            print(
                f"| {way} | {length:,} | {last.seconds:.3g}{mark} | "
                f"{1e6 * last.seconds / length:.3g} | {last.device_bytes / 2**20:.1f} | "
                f"{last.device_bytes * last.devices / length:.0f} |",
                flush=True,
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([point._asdict() for point in points], indent=1))
    if arguments.figure is not None:
        from attnzoo.plotting import save
        from benchmarks.figure import times_by_length

        titles = ("microseconds a token", "MiB a device")
        panels: dict[str, dict[str, dict[int, float]]] = {title: {} for title in titles}
        planned: dict[str, list[int]] = {}
        for point in points:
            costs = (1e6 * point.seconds / point.length, point.device_bytes / 2**20)
            for panel, cost in zip(panels.values(), costs, strict=True):
                panel.setdefault(point.way, {})[point.length] = cost
            if point.planned:
                planned.setdefault(point.way, []).append(point.length)
        picture = times_by_length(panels, ylabel="", planned={titles[0]: planned})
        save(picture, arguments.figure)
        print(f"\n{arguments.figure}", file=sys.stderr)
    return 0


def _point(way: str, length: int, last: Point | None, arguments: argparse.Namespace) -> Point:
    import jax
    import jax.numpy as jnp

    function, sharding = _way(way, arguments)
    devices = 1 if sharding is None else arguments.devices
    shape = (1, length, arguments.heads, arguments.width)
    abstract = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(function(q, k, v) ** 2)

    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*[abstract] * 3).compile()
    memory = program.memory_analysis()
    room = sum(getattr(memory, f"{kind}_size_in_bytes") for kind in ("argument", "output", "temp"))
    if last is not None:
        expected = last.seconds * (length / last.length) ** WAYS[way]
        if expected > arguments.limit:
            return Point(way, length, expected, True, room, devices)

    @jax.jit
    def inputs() -> list[Any]:
        keys = jax.random.split(jax.random.key(0), 3)
        return [jax.random.normal(key, shape) for key in keys]

    q, k, v = inputs()
    if sharding is not None:
        q, k, v = (jax.device_put(x, sharding) for x in (q, k, v))
    taken = []
    while not taken or (sum(taken) < 1 and len(taken) < 3):
        start = time.perf_counter()
        jax.block_until_ready(program(q, k, v))
        taken.append(time.perf_counter() - start)
    return Point(way, length, min(taken), False, room, devices)


def _way(way: str, arguments: argparse.Namespace) -> tuple[Callable[..., Any], Any]:
    """The function of q, k, v, and where they lie if they are spread."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from attnzoo import ops
    from attnzoo.ops import linear, masks

    window = masks.sliding_window(arguments.window)
    if way in ("full", "window"):
        mask = masks.causal() if way == "full" else window
        return lambda q, k, v: ops.flex_attention(
            q, k, v, mask_mod=mask, implementation="blockwise"
        ), None
    if way == "retnet":
        return lambda q, k, v: linear.retention(q, k, v, form="chunked"), None
    if way == "gated delta":

        def gated(q: Any, k: Any, v: Any) -> Any:
            half = jax.numpy.full(q.shape[:3], 0.5)
            keys = k / jax.numpy.linalg.norm(k, axis=-1, keepdims=True)
            return linear.gated_delta_net(q, keys, v, half, -0.1 * half, form="chunked")

        return gated, None
    mesh = jax.make_mesh((arguments.devices,), ("sequence",), axis_types=(AxisType.Auto,))
    place = NamedSharding(mesh, PartitionSpec(None, "sequence"))
    if way == "ring":
        return lambda q, k, v: ops.ring_attention(
            q, k, v, mesh=mesh, axis_name="sequence", order="zigzag", is_causal=True
        ), place
    return lambda q, k, v: ops.ring_attention(
        q, k, v, window, mesh=mesh, axis_name="sequence"
    ), place
