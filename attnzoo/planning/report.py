"""A plan as a table, and as JSON values."""

import dataclasses
from typing import Any

from attnzoo.planning.plan import Plan

GPU_DEFAULT = 0.75
"""Share of a GPU's memory that jax takes unless XLA_CLIENT_MEM_FRACTION says otherwise."""


def as_values(plan: Plan) -> dict[str, Any]:
    """Return a plan in bytes, seconds and operations, as JSON values."""
    return {
        "name": plan.config.name,
        "device": plan.device.name,
        "devices": plan.devices,
        "mesh": plan.sizes,
        "compiled": plan.compiled is not None,
        "not_compiled": plan.not_compiled,
        "parameters": plan.parameters,
        "memory_per_device": {
            **dataclasses.asdict(plan.memory),
            "arguments": plan.memory.arguments,
            "total": plan.memory.total,
            "room": plan.room,
            "of_device": plan.device.memory,
            "estimated_temporary": plan.estimate.temporary,
        },
        "fits": plan.fits,
        "flops": {**dataclasses.asdict(plan.flops), "total": plan.flops.total},
        "messages": [dataclasses.asdict(message) for message in plan.messages],
        "traffic_per_device": plan.traffic,
        "xla": None if plan.compiled is None else plan.compiled._asdict(),
        "efficiency": plan.efficiency,
        "seconds": plan.seconds,
        "step_seconds": plan.step_seconds,
        "limited_by": plan.limit,
        f"{plan.unit}_per_second": plan.units / plan.step_seconds,
        "mfu": plan.mfu,
        "notes": plan.notes,
        "data": None if plan.storage is None else dataclasses.asdict(plan.storage),
    }


def as_table(plan: Plan) -> str:
    """Return a plan as lines for a terminal."""
    parts = (_head(plan), _memory(plan), _data(plan), _work(plan), _time(plan))
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _row(name: str, value: str, note: str = "") -> str:
    return f"  {name:<38}{value:>12}" + (f"  {note}" if note else "")


def _head(plan: Plan) -> list[str]:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.sizes.items() if size > 1)
    settings = plan.config.training
    parts = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    how = f"by formulas alone: {plan.not_compiled}"
    if plan.compiled is not None:
        how = f"compiled for it in {plan.compiled.compile_seconds:.0f} s by XLA"
    first = (
        f"{plan.config.name}: {plan.parameters:,} parameters, {plan.config.model.kind}, "
        f"{settings.compute_dtype}, {settings.batch_size} rows{parts}, "
        f"{plan.units:,} {plan.unit} a step"
    )
    return [
        first,
        f"{plan.devices} x {plan.device.name}" + (f": {mesh}" if mesh else ""),
        how,
        *(f"  {note}" for note in plan.notes),
    ]


def _memory(plan: Plan) -> list[str]:
    memory, compiled = plan.memory, plan.compiled
    share = memory.total / plan.device.memory
    lines = [
        "memory of a device",
        _row("parameters, float32", size(memory.parameters), "exact"),
        _row("optimizer state", size(memory.optimizer), "exact"),
        _row("running averages, counters", size(memory.other), "exact"),
        _row("batch", size(memory.batch), "exact"),
        _row(
            "gradients, activations, temporaries",
            size(memory.temporary),
            "estimate" if compiled is None else "XLA",
        ),
        _row("  of these gradients", size(memory.gradients), "estimate"),
        _row("together", size(memory.total), f"{share:.0%} of {size(plan.device.memory)}"),
    ]
    if compiled is not None:
        both = f"{memory.arguments:>12,} / {compiled.arguments:,}"
        lines.append(_row("arguments: ours / XLA", both))
    if plan.device.platform == "cuda" and plan.fits and share > GPU_DEFAULT:
        lines.append("  jax takes 75 % of a GPU: set XLA_CLIENT_MEM_FRACTION=0.95")
    return lines


def _data(plan: Plan) -> list[str]:
    storage = plan.storage
    if storage is None:
        return []
    twice = "twice that while they are made" if storage.disk and storage.tokens else ""
    count = f"{storage.tokens:,} tokens in {storage.rows:,} rows"
    if not storage.tokens:
        count = f"{storage.rows:,} pictures"
    return [
        f"data of a host: {count} ({storage.source})",
        _row(
            "token stores on disk" if storage.tokens else "copies on disk",
            size(storage.disk),
            twice,
        ),
        _row("memory besides their pages", size(storage.memory)),
    ]


def _work(plan: Plan) -> list[str]:
    flops, compiled = plan.flops, plan.compiled
    lines = [
        "a step of all devices",
        _row("FLOPs forward", f"{flops.forward:.3e}"),
        _row("FLOPs backward", f"{flops.backward:.3e}"),
        _row("FLOPs computed again (remat)", f"{flops.recomputed:.3e}"),
    ]
    if compiled is not None and compiled.flops_per_device:
        said = f"{compiled.flops_per_device * plan.devices:.3e}"
        lines.append(_row("FLOPs by XLA", said, "bodies of loops once, everything counted"))
    lines += ["", "a step of one device", _row("memory traffic", size(plan.traffic), "formula")]
    source = "formula" if compiled is None else "compiled"
    for message in sorted(plan.messages, key=lambda message: -message.sent):
        note = f"{source}, {message.count} times" + ", over the network" * message.across
        lines.append(_row(f"{message.kind} sends", size(message.sent), note))
    if plan.unknown_loops:
        lines.append(f"  {plan.unknown_loops} loops of unknown length send more")
    return lines


def _time(plan: Plan) -> list[str]:
    seconds = plan.seconds
    why = f"limited by {plan.limit}; {seconds_of(sum(seconds.values()))} if nothing overlaps"
    return [
        f"time of a step, at {plan.efficiency:.0%} of the peaks ({plan.device.source})",
        *(_row(name, seconds_of(value)) for name, value in seconds.items()),
        _row("predicted: the slowest of these", seconds_of(plan.step_seconds), why),
        _row(f"{plan.unit} a second", f"{plan.units / plan.step_seconds:,.0f}"),
        _row("utilisation (MFU)", f"{plan.mfu:.0%}"),
    ]


def refusal(plan: Plan) -> str:
    """Return the reason why a plan does not fit, in one line."""
    name, device, memory = plan.config.name, plan.device, plan.memory
    if plan.refused:
        return f"{name} does not fit {device.name}: {plan.not_compiled}"
    known = f" ({size(memory.arguments)} for certain, estimated the rest)"
    return (
        f"{name} does not fit: {size(memory.total)}{'' if plan.compiled else known} on each of "
        f"{plan.devices} {device.name}, which has {size(plan.room)} to fill of "
        f"{size(device.memory)}"
    )


def size(count: int | float) -> str:
    """Return a number of bytes with three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def seconds_of(value: float) -> str:
    """Return seconds with three digits, as thousandths below one."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
