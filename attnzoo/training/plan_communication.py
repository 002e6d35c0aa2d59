"""What devices say to each other in a step: read from a compiled program, or by formula.

Bytes are those that one device sends, as algorithms over a ring send them: of an array of n bytes
on g devices an all-reduce sends 2 n (g - 1) / g, an all-gather, a reduce-scatter and an all-to-all
n (g - 1) / g, a permutation n.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np

from attnzoo.training.placement import Placement, path_of
from attnzoo.training.plan_subject import Subject

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_WIDTHS = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16}

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_COLLECTIVE = re.compile(
    rf"= (?P<shape>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)$"
)
_CALLED = re.compile(
    r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)"
    r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LIMIT = re.compile(r" s32\[\](?:\{[^}]*\})? constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Message:
    """Communication of one kind in a step."""

    kind: str
    sent: float
    """Bytes that a device sends, over the whole step."""
    count: int
    across: bool
    """Over the network, because some of the group are on another host."""


def read_program(text: str, devices: int, per_host: int) -> tuple[list[Message], int]:
    """The messages of a compiled program, loops multiplied out, alike ones together; and how many
    loops that have some tell no length (their bodies are counted once).
    """
    bodies: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = found["name"]
            bodies[current] = []
            entry = current if found["entry"] else entry
        elif current:
            bodies[current].append(line)
    found: dict[tuple[str, bool], tuple[float, int]] = {}
    unknown = 0

    # A TPU does one message in steps, in several fusions and loops beside what these compute: it
    # happens as often as the step that happens least, its start.
    stepwise: dict[Any, tuple[int, str, bool, float]] = {}

    def add(times: int, kind: str, across: bool, sent: float) -> None:
        total, count = found.get((kind, across), (0.0, 0))
        found[kind, across] = total + times * sent, count + times

    def visit(name: str, times: int, fused: bool) -> int:
        nonlocal unknown
        here = 0
        for line in bodies.get(name, ()):
            if match := _COLLECTIVE.search(line):
                # A TPU's name for a reduce-scatter is an all-reduce with a slice of it.
                scatters = name.startswith("all-reduce-scatter")
                kind = "reduce-scatter" if scatters else match["kind"]
                size, span = _group(match["rest"], devices)
                result = _bytes(match["shape"], bool(match["start"]))
                sent = _sent(kind, result / size if scatters else result, size)
                channel = re.search(r"channel_id=(\d+)", line)
                message = times, kind, span > per_host, sent
                if size > 1 and fused and channel:
                    step = channel[1], kind, sent
                    stepwise[step] = min(stepwise.get(step, message), message)
                elif size > 1:
                    add(*message)
                    here += 1
                continue
            loop = " while(" in line
            trips = _trips(line, bodies) if loop else 1
            below = 0
            for one, several in _CALLED.findall(line):
                for called in [one] if one else re.findall(r"[\w.\-]+", several):
                    below += visit(called, times * (trips or 1), fused or " fusion(" in line)
            unknown += bool(below and not trips)
            here += below
        return here

    visit(entry, 1, False)
    for message in stepwise.values():
        add(*message)
    return _listed(found), unknown


def _trips(line: str, bodies: dict[str, list[str]]) -> int | None:
    """How often a loop is gone through: as its line says, or as its condition compares."""
    if found := _TRIPS.search(line):
        return int(found[1])
    condition = _CONDITION.search(line)
    lines = bodies.get(condition[1], []) if condition else []
    limits = [found[1] for found in map(_LIMIT.search, lines) if found]
    compared = [line for line in lines if " compare(" in line and "direction=LT" in line]
    return int(limits[0]) if len(limits) == len(compared) == 1 else None


def _bytes(shape: str, started: bool) -> int:
    sizes = [
        _width(kind) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in re.findall(r"\b(pred|bf16|c?[suf]\d+\w*|c\d+)\[([\d,]*)\]", shape)
    ]
    if started and len(sizes) > 1:
        # What is under way is named with its operands: the results are the second half.
        return sum(sizes[len(sizes) // 2 :]) if len(sizes) % 2 == 0 else max(sizes)
    return sum(sizes)


def _width(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return _WIDTHS.get(kind) or (max(int(bits[0]) // 8, 1) if bits else 1)


def _group(rest: str, devices: int) -> tuple[int, int]:
    """How many devices a message is among, and from the first to the last how many places."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}?(?:,|$)", rest):
        ends = np.array([int(n) for n in re.findall(r"\d+", pairs[1])]).reshape(-1, 2)
        return 2, int(np.abs(ends[:, 0] - ends[:, 1]).max(initial=0)) + 1
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, source = ([int(n) for n in iota[i].split(",")] for i in (1, 2))
        ids = np.arange(math.prod(source)).reshape(source)
        if iota[3]:
            ids = ids.transpose([int(n) for n in iota[3].split(",")])
        first = ids.reshape(shape)[0].reshape(-1)
    elif mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        first = _along(mesh[1], mesh[2])
    elif listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        first = np.array([int(n) for n in listed[1].split(",")])
    else:
        first = np.arange(devices)
    return len(first), int(first.max() - first.min()) + 1


def _along(mesh: str, axes: str) -> np.ndarray:
    """The devices of the first group along some axes of a mesh, or along parts of axes: 'a':(2)4 is
    the part of size 4 behind one of size 2.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    parts = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes)
    }
    ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    for axis, name in enumerate(sizes):
        before, size = parts.get(name, (1, 1))
        after = sizes[name] // (before * size)
        # The first of what lies before and after, and all of the part itself.
        ids = np.take(ids, np.arange(size) * after, axis=axis)
    return ids.reshape(-1)


def _sent(kind: str, result: int | float, size: int) -> float:
    """Of the bytes of a result."""
    share = (size - 1) / size
    factor = {
        "all-reduce": 2 * share,
        "all-gather": share,
        "reduce-scatter": size - 1,
        "all-to-all": share,
        "collective-permute": 1.0,
    }
    return float(factor[kind] * result)


def _listed(found: dict[tuple[str, bool], tuple[float, int]]) -> list[Message]:
    return [Message(kind, sent, count, across) for (kind, across), (sent, count) in found.items()]


def by_formula(
    subject: Subject, placement: Placement, state: Any, shardings: Any, per_host: int
) -> list[Message]:
    """What the axes of the mesh must exchange, if nothing is exchanged twice.

    `fsdp` gathers parameters twice a part of the batch and scatters gradients; `data` and
    `sequence` sum gradients; `tensor` sums states after attention and after the feed-forward layer,
    both ways; `sequence` sends keys and values round a ring, both ways. Parameters and gradients
    travel in the compute dtype (XLA sums gradients of copies on a GPU in float32).
    """
    sizes, config = placement.sizes, subject.task.config
    parts = config.training.accumulate
    width = 2 if config.training.compute_dtype == "bfloat16" else 4
    found: dict[tuple[str, bool], tuple[float, int]] = {}

    def add(kind: str, axes: tuple[str, ...], payload: int | float, times: int = 1) -> None:
        size = math.prod(sizes[axis] for axis in axes)
        if size > 1 and payload:
            key = kind, _span(sizes, axes) > per_host
            total, count = found.get(key, (0.0, 0))
            sent = float(payload * times)
            if kind != "collective-permute":
                sent *= (size - 1) / size * (2 if kind == "all-reduce" else 1)
            found[key] = total + sent, count + times

    places = jax.tree.leaves(shardings["params"])
    here = subject.positions / (sizes["data"] * sizes["fsdp"] * sizes["sequence"])
    for (where, leaf), place in zip(
        jax.tree_util.tree_leaves_with_path(state["params"]), places, strict=True
    ):
        local = math.prod(place.shard_shape(leaf.shape))
        axes = [axis for axis in place.spec if axis is not None]
        gathered = local * (sizes["fsdp"] if "fsdp" in axes else 1)
        if "fsdp" in axes:
            add("all-gather", ("fsdp",), gathered * width, 2 * parts)
            add("reduce-scatter", ("fsdp",), gathered * width, parts)
            add("all-reduce", ("data", "sequence"), local * width)
        else:
            add("all-reduce", ("data", "fsdp", "sequence"), local * width)
        name, layers = path_of(where), math.prod(leaf.shape[:-2])
        if "tensor" in axes and re.search(r"(out|down)/kernel$", name):
            add("all-reduce", ("tensor",), here * leaf.shape[-1] * width, 2 * layers)
        if sizes["sequence"] > 1 and re.search(r"(key|value)/kernel$", name):
            payload = here * leaf.shape[-1] / sizes["tensor"] * width
            add("collective-permute", ("sequence",), payload, 3 * layers * (sizes["sequence"] - 1))
    return _listed(found)


def _span(sizes: dict[str, int], axes: tuple[str, ...]) -> int:
    """From the first to the last device of a group, how many places; the last axis is nearest."""
    span, stride = 1, 1
    for axis, size in reversed(sizes.items()):
        if axis in axes:
            span += (size - 1) * stride
        stride *= size
    return span
