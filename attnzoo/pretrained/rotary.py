"""Rotary positions in a config.json: ``rope_parameters``, ``rope_scaling`` and ``rope_theta``."""

import math
from typing import Any

from attnzoo.config import rotary
from attnzoo.errors import UserError
from attnzoo.pretrained.fields import (
    REQUIRED,
    Fields,
    Settings,
    amount,
    mapping,
    positive,
    size,
    word,
)

BASE = {
    "rope_type": word(None),
    "type": word(None),
    "rope_theta": positive(None),
}
_FACTOR = {"factor": positive(REQUIRED)}
ORIGINAL = {"original_max_position_embeddings": size(None)}
FOLLOWED = {
    "max_position_embeddings": size(2048),
    "rope_parameters": mapping(None),
    "rope_scaling": mapping(None),
    "rope_theta": positive(10_000.0),
    **ORIGINAL,
}
"""Fields of a config.json that say how positions turn."""
WHOLE_HEAD = {"partial_rotary_factor": (1.0,)}
FIELDS = {
    "default": Fields(BASE, refused=WHOLE_HEAD),
    "linear": Fields(BASE | _FACTOR, refused=WHOLE_HEAD),
    "dynamic": Fields(
        BASE | _FACTOR,
        {"original_max_position_embeddings": "transformers reads max_position_embeddings instead"},
        WHOLE_HEAD,
    ),
    "yarn": Fields(
        BASE
        | ORIGINAL
        | {
            "factor": positive(REQUIRED, null=True),
            "attention_factor": positive(None),
            "mscale": amount(None),
            "mscale_all_dim": amount(None),
            "beta_fast": amount(None),
            "beta_slow": amount(None),
        },
        refused=WHOLE_HEAD | {"truncate": (True,)},
    ),
    "llama3": Fields(
        BASE
        | _FACTOR
        | ORIGINAL
        | {"low_freq_factor": positive(REQUIRED), "high_freq_factor": positive(REQUIRED)},
        refused=WHOLE_HEAD,
    ),
}
"""Fields of ``rope_parameters`` by their ``rope_type``."""


def read(hf: Settings) -> tuple[float, rotary.RotaryScaling | None]:
    """Return the base and the scaling of the rotary positions.

    As in transformers, ``rope_scaling`` (its name before version 5) goes before
    ``rope_parameters``, and at the top level ``original_max_position_embeddings`` before the same
    field in these objects, but ``rope_theta`` after it.
    """
    key = "rope_scaling" if hf["rope_scaling"] else "rope_parameters"
    given = hf[key] or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in FIELDS:
        wanted = " or ".join(FIELDS)
        raise hf.error(key, f"a rope_type among {wanted}")
    rope = hf.within(key, FIELDS[kind])
    base = rope["rope_theta"] or hf["rope_theta"]
    length = hf["max_position_embeddings"]
    if kind == "default":
        return base, None
    factor = rope["factor"]
    if kind == "linear":
        return base, rotary.LinearScalingConfig(factor=factor)
    if kind == "dynamic":
        return base, rotary.DynamicScalingConfig(factor=factor, original_length=length)
    original = hf["original_max_position_embeddings"] or (
        rope["original_max_position_embeddings"] or length
    )
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        if low == high:
            raise rope.error("high_freq_factor", "more than low_freq_factor")
        return base, rotary.Llama3ScalingConfig(
            factor=factor, low=low, high=high, original_length=original
        )
    factor = length / original if factor is None else factor
    return base, rotary.YaRNScalingConfig(
        factor=factor,
        original_length=original,
        fast=rope["beta_fast"] or 32.0,
        slow=rope["beta_slow"] or 1.0,
        amplitude=_amplitude(rope, factor),
    )


def _amplitude(rope: Settings, factor: float) -> float | None:
    """Return YaRN's factor on cos and sin, None for that of the paper."""
    above, below = rope["mscale"], rope["mscale_all_dim"]
    if rope["attention_factor"] is not None or not (above and below):
        return rope["attention_factor"]
    growth = 0.1 * math.log(max(factor, 1.0))
    return (above * growth + 1) / (below * growth + 1)


def write(scaling: rotary.RotaryScaling | None) -> dict[str, Any]:
    """Return the fields of ``rope_parameters`` for a scaling."""
    if scaling is None:
        return {"rope_type": "default"}
    written = {"rope_type": scaling.kind, "factor": scaling.factor}
    match scaling.kind:
        case "linear" | "dynamic":
            return written
        case "yarn":
            return written | {
                "original_max_position_embeddings": scaling.original_length,
                "beta_fast": scaling.fast,
                "beta_slow": scaling.slow,
                **({} if scaling.amplitude is None else {"attention_factor": scaling.amplitude}),
            }
        case "llama3":
            return written | {
                "original_max_position_embeddings": scaling.original_length,
                "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high,
            }
        case "ntk":
            raise UserError("transformers has no rotary_scaling.kind=ntk; wanted another")
