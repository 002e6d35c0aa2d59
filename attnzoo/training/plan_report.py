"""A plan as a table, and as JSON values."""

import dataclasses
from typing import Any

from attnzoo.training.plan_result import Plan

KINDS = ("parameters", "optimizer", "other", "batch", "temporary")
GPU_DEFAULT = 0.75
"""Share of a GPU's memory that jax takes unless XLA_CLIENT_MEM_FRACTION says otherwise."""


def as_values(plan: Plan) -> dict[str, Any]:
    """Everything in bytes, seconds and operations; JSON values only."""
    compiled = plan.compiled
    return {
        "name": plan.config.name,
        "device": plan.device.name,
        "devices": plan.devices,
        "mesh": plan.sizes,
        "compiled": compiled is not None,
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
        "xla": None
        if compiled is None
        else {
            "arguments": compiled.arguments,
            "outputs": compiled.outputs,
            "temporary": compiled.temporary,
            "flops_per_device": compiled.flops,
            "traffic_per_device": compiled.traffic,
            "compile_seconds": compiled.seconds,
        },
        "efficiency": plan.efficiency,
        "seconds": plan.seconds,
        "step_seconds": plan.step_seconds,
        "limited_by": plan.limit,
        f"{plan.unit}_per_second": plan.units / plan.step_seconds,
        "mfu": plan.mfu,
        "notes": plan.notes,
    }


def as_table(plan: Plan) -> str:
    """Lines for a terminal."""
    return "\n".join([*_head(plan), "", *_memory(plan), "", *_work(plan), "", *_time(plan)])


def _head(plan: Plan) -> list[str]:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.sizes.items() if size > 1)
    settings = plan.config.training
    batch = f"{settings.batch_size} rows" + (
        f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    )
    how = (
        f"compiled for it in {plan.compiled.seconds:.0f} s by XLA"
        if plan.compiled is not None
        else f"by formulas alone: {plan.not_compiled}"
    )
    first = (
        f"{plan.config.name}: {plan.parameters:,} parameters, {plan.config.model.kind}, "
        f"{settings.compute_dtype}, {batch}, {plan.units:,} {plan.unit} a step"
    )
    lines = [
        first,
        f"{plan.devices} x {plan.device.name}" + (f": {mesh}" if mesh else ""),
        how,
    ]
    return [*lines, *(f"  {note}" for note in plan.notes)]


def _memory(plan: Plan) -> list[str]:
    memory, compiled = plan.memory, plan.compiled
    names = {
        "parameters": "parameters, float32",
        "optimizer": "optimizer state",
        "other": "running averages, counters",
        "batch": "batch",
        "temporary": "gradients, activations, temporaries",
    }
    said = "XLA" if compiled is not None else "estimate"
    lines = ["memory of a device"]
    for kind in KINDS:
        source = said if kind == "temporary" else "exact"
        lines.append(f"  {names[kind]:<38}{size(getattr(memory, kind)):>12}  {source}")
        if kind == "temporary":
            lines.append(f"    {'of these gradients':<36}{size(memory.gradients):>12}  estimate")
    share = memory.total / plan.device.memory
    lines.append(
        f"  {'together':<38}{size(memory.total):>12}  {share:.0%} of {size(plan.device.memory)}"
    )
    if compiled is not None:
        lines.append(
            f"  {'arguments: ours / XLA':<38}{memory.arguments:>12,} / {compiled.arguments:,}"
        )
    if plan.device.platform == "cuda" and plan.fits and share > GPU_DEFAULT:
        lines.append("  jax takes 75 % of a GPU: set XLA_CLIENT_MEM_FRACTION=0.95")
    return lines


def _work(plan: Plan) -> list[str]:
    flops, compiled = plan.flops, plan.compiled
    lines = [
        "a step of all devices",
        f"  {'FLOPs forward':<38}{flops.forward:>12.3e}",
        f"  {'FLOPs backward':<38}{flops.backward:>12.3e}",
        f"  {'FLOPs computed again (remat)':<38}{flops.recomputed:>12.3e}",
    ]
    if compiled is not None and compiled.flops:
        lines.append(
            f"  {'FLOPs by XLA':<38}{compiled.flops * plan.devices:>12.3e}"
            "  bodies of loops once, everything counted"
        )
    lines += [
        "",
        "a step of one device",
        f"  {'memory traffic':<38}{size(plan.traffic):>12}  formula",
    ]
    source = "compiled" if compiled is not None else "formula"
    for message in sorted(plan.messages, key=lambda message: -message.sent):
        across = ", over the network" if message.across else ""
        lines.append(
            f"  {message.kind + ' sends':<38}{size(message.sent):>12}  {source}, "
            f"{message.count} times{across}"
        )
    if compiled is not None and compiled.unknown_loops:
        lines.append(f"  {compiled.unknown_loops} loops of unknown length send more")
    return lines


def _time(plan: Plan) -> list[str]:
    seconds = plan.seconds
    lines = [f"time of a step, at {plan.efficiency:.0%} of the peaks ({plan.device.source})"]
    lines += [f"  {name:<38}{seconds_of(value):>12}" for name, value in seconds.items()]
    rate = plan.units / plan.step_seconds
    why = f"limited by {plan.limit}; {seconds_of(sum(seconds.values()))} if nothing overlaps"
    return [
        *lines,
        f"  {'predicted: the slowest of these':<38}{seconds_of(plan.step_seconds):>12}  {why}",
        f"  {plan.unit + ' a second':<38}{rate:>12,.0f}",
        f"  {'utilisation (MFU)':<38}{plan.mfu:>12.0%}",
    ]


def refusal(plan: Plan) -> str:
    """Why not, in one line."""
    if plan.refused:
        return f"{plan.config.name} does not fit {plan.device.name}: {plan.not_compiled}"
    memory = plan.memory
    certain = (
        "" if plan.compiled else f" ({size(memory.arguments)} for certain, estimated the rest)"
    )
    return (
        f"{plan.config.name} does not fit: {size(memory.total)}{certain} on each of {plan.devices} "
        f"{plan.device.name}, which has {size(plan.room)} to fill of {size(plan.device.memory)}"
    )


def size(count: int | float) -> str:
    """Bytes with three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def seconds_of(value: float) -> str:
    """Seconds, or thousandths."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
