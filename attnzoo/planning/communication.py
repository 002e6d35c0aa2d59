"""Messages between devices in a step: read from a compiled program, or by formula.

Bytes are those that one device sends, as algorithms over a ring send them: of an array of n bytes
on g devices an all-reduce sends 2 n (g - 1) / g, an all-gather, a reduce-scatter and an all-to-all
n (g - 1) / g, a permutation n.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from attnzoo.planning.subject import Subject
from attnzoo.training.placement import Placement, path_of

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_COLLECTIVE = re.compile(rf"= (?P<shape>.*?) (?P<kind>{_KINDS})(?P<start>-start)?\((?P<rest>.*)$")
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
    """Whether it goes over the network, because some of the group are on another host."""


def read_program(text: str, devices: int, per_host: int) -> tuple[list[Message], int]:
    """Return the messages of a compiled program, and the number of loops of unknown length.

    Loops are multiplied out and messages that are alike added up. The body of a loop that has
    messages and tells no length is counted once.
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
    messages: list[Message] = []
    # A TPU does one message in steps, in several fusions and loops beside what these compute: it
    # happens as often as the step that happens least, its start.
    stepwise: dict[Any, Message] = {}

    def visit(name: str, times: int, fused: bool) -> tuple[int, int]:
        """Messages below a computation, fused ones left out, and loops of unknown length."""
        here = unknown = 0
        for line in bodies.get(name, ()):
            if match := _COLLECTIVE.search(line):
                # A TPU's name for a reduce-scatter is an all-reduce with a slice of it.
                scatters = name.startswith("all-reduce-scatter")
                kind = "reduce-scatter" if scatters else match["kind"]
                size, span = _group(match["rest"], devices)
                whole = _bytes(match["shape"], bool(match["start"]))
                if match["kind"] == "reduce-scatter" and not scatters:
                    whole *= size
                message = Message(kind, times * _sent(kind, whole, size), times, span > per_host)
                channel = re.search(r"channel_id=(\d+)", line)
                if size > 1 and fused and channel:
                    step = channel[1], kind, whole, size
                    stepwise[step] = min(
                        stepwise.get(step, message), message, key=lambda message: message.count
                    )
                elif size > 1:
                    messages.append(message)
                    here += 1
                continue
            trips = _trips(line, bodies) if " while(" in line else 1
            below = 0
            for one, several in _CALLED.findall(line):
                for called in [one] if one else re.findall(r"[\w.\-]+", several):
                    found = visit(called, times * (trips or 1), fused or " fusion(" in line)
                    below, unknown = below + found[0], unknown + found[1]
            unknown += bool(below and not trips)
            here += below
        return here, unknown

    _, unknown = visit(entry, 1, False)
    return _added_up([*messages, *stepwise.values()]), unknown


def _added_up(messages: Iterable[Message]) -> list[Message]:
    found: dict[Any, Message] = {}
    for x in messages:
        old = found.get((x.kind, x.across), Message(x.kind, 0.0, 0, x.across))
        found[x.kind, x.across] = dataclasses.replace(
            old, sent=old.sent + x.sent, count=old.count + x.count
        )
    return list(found.values())


def _sent(kind: str, whole: int | float, size: int) -> float:
    """Bytes that a device sends of an array that is ``whole`` bytes large where it is not cut."""
    if kind == "collective-permute":
        return float(whole)
    return whole * ((size - 1) / size) * (2 if kind == "all-reduce" else 1)


def _trips(line: str, bodies: dict[str, list[str]]) -> int | None:
    """Rounds of a loop: as its line says, or as its condition compares."""
    if found := _TRIPS.search(line):
        return int(found[1])
    condition = _CONDITION.search(line)
    lines = bodies.get(condition[1], []) if condition else []
    limits = [found[1] for found in map(_LIMIT.search, lines) if found]
    compared = [line for line in lines if " compare(" in line and "direction=LT" in line]
    return int(limits[0]) if len(limits) == len(compared) == 1 else None


def _bytes(shape: str, started: bool) -> int:
    """Bytes of the arrays in the text of a shape."""
    arrays = re.findall(r"\b(pred|bf16|c?[suf]\d+\w*|c\d+)\[([\d,]*)\]", shape)
    sizes = []
    for kind, dims in arrays:
        bits = re.search(r"\d+", kind)
        width = max(int(bits[0]) // 8, 1) if bits else 1
        sizes.append(width * math.prod(_numbers(dims)))
    if started and len(sizes) > 1:
        # What is under way is named with its operands: the results are the second half.
        return sum(sizes[len(sizes) // 2 :]) if len(sizes) % 2 == 0 else max(sizes)
    return sum(sizes)


def _numbers(text: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", text)))


def _group(rest: str, devices: int) -> tuple[int, int]:
    """Devices of a group, and places from its first to its last device."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}?(?:,|$)", rest):
        ends = np.array(_numbers(pairs[1])).reshape(-1, 2)
        return 2, int(np.abs(ends[:, 0] - ends[:, 1]).max(initial=0)) + 1
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        source = _numbers(iota[2])
        ids = np.arange(math.prod(source)).reshape(source)
        if iota[3]:
            ids = ids.transpose(_numbers(iota[3]))
        first = ids.reshape(_numbers(iota[1]))[0].reshape(-1)
    elif mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        first = _along(mesh[1], mesh[2])
    elif listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        first = np.array(_numbers(listed[1]))
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
        # The first of what lies before and after, and all of the part itself.
        ids = np.take(ids, np.arange(size) * (sizes[name] // (before * size)), axis=axis)
    return ids.reshape(-1)


def by_formula(
    subject: Subject, placement: Placement, state: Any, shardings: Any, per_host: int
) -> list[Message]:
    """Return what the axes of the mesh must exchange, if nothing is exchanged twice.

    `fsdp` gathers parameters twice a part of the batch and scatters gradients; `data` and
    `sequence` sum gradients; `tensor` sums states after attention and after the feed-forward layer,
    both ways; `sequence` sends keys and values round a ring, both ways. Parameters and gradients
    travel in the compute dtype (XLA sums gradients of copies on a GPU in float32).
    """
    sizes, parts = placement.sizes, subject.settings.accumulate
    leaves = jax.tree_util.tree_leaves_with_path(state["params"])
    here = subject.positions / (sizes["data"] * sizes["fsdp"] * sizes["sequence"])

    def exchanges() -> Iterator[tuple[str, tuple[str, ...], int | float, int]]:
        """Kind, axes, numbers of the whole array, times."""
        for (where, leaf), place in zip(leaves, jax.tree.leaves(shardings["params"]), strict=True):
            local = math.prod(place.shard_shape(leaf.shape))
            name, layers = path_of(where), math.prod(leaf.shape[:-2])
            if "fsdp" in place.spec:
                yield "all-gather", ("fsdp",), local * sizes["fsdp"], 2 * parts
                yield "reduce-scatter", ("fsdp",), local * sizes["fsdp"], parts
                yield "all-reduce", ("data", "sequence"), local, 1
            else:
                yield "all-reduce", ("data", "fsdp", "sequence"), local, 1
            if "tensor" in place.spec and re.search(r"(out|down)/kernel$", name):
                yield "all-reduce", ("tensor",), here * leaf.shape[-1], 2 * layers
            if re.search(r"(key|value)/kernel$", name):
                numbers = here * leaf.shape[-1] / sizes["tensor"]
                hops = 3 * layers * (sizes["sequence"] - 1)
                yield "collective-permute", ("sequence",), numbers, hops

    def messages() -> Iterator[Message]:
        for kind, axes, numbers, times in exchanges():
            size, span, stride = math.prod(sizes[axis] for axis in axes), 1, 1
            for axis, count in reversed(sizes.items()):  # the last axis is nearest
                span += (count - 1) * stride * (axis in axes)
                stride *= count
            if size > 1 and numbers:
                sent = _sent(kind, numbers * subject.width * times, size)
                yield Message(kind, sent, times, span > per_host)

    return _added_up(messages())
