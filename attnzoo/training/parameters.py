"""Roles of parameters, derived from their paths and shapes.

Weight decay, Muon and the placement on devices use them. A parameter has the same role in a block
of its own (``blocks/0/...``) and stacked with the other layers of a scan (``blocks/...``). For
unknown names the shape decides.
"""

import dataclasses
import itertools
import re
from typing import Any, Literal

Role = Literal["matrix", "table", "filter", "vector"]

_VECTORS = re.compile(r"(^|_)(bias|gain|offset|beta|gamma|sinks)$|scale")
_TABLES = re.compile(
    r"(table|embeddings?|positions|segments|tokens?|factor|probe|points|seeds|latents)$"
)
# Layers from features to the logits of tokens or classes: transposed tables.
_OUTPUTS = re.compile(r"^(output|head|distilled_head|classifier)/kernel$")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Role of one parameter, and the meaning of its leading axes.

    Attributes:
      role: a "matrix" multiplies features; a "table" has a row for each token, position or class
        (embeddings, output layers); a "filter" weighs the neighbours of each channel by itself; a
        "vector" is a bias, a gain, or anything else with fewer than two axes of its own.
      layers: number of leading axes that count the layers of a scan.
      stacked: number of leading axes that count layers or heads: each entry is an array of its own.
        Windows of convolutions are not among them, they belong to the inputs.
    """

    role: Role
    layers: int
    stacked: int


def describe(where: Any, shape: tuple[int, ...]) -> Parameter:
    """Return the role of the parameter at a jax key path of a pure dict of parameters."""
    path = path_of(where)
    *parents, name = path.split("/")
    pairs = itertools.pairwise([*parents, name])
    layers = sum(part == "blocks" and not inside.isdecimal() for part, inside in pairs)
    axes = len(shape) - layers
    if axes < 2 or _VECTORS.search(name):
        return Parameter("vector", layers, layers)
    owner = next((part for part in reversed(parents) if not part.isdecimal()), "")
    convolves = "conv" in owner or "conv" in name
    # No stack of heads has four axes, so these are two window axes, inputs and outputs.
    windowed = axes > 3 or (axes == 3 and convolves)
    stacked = layers if windowed else len(shape) - 2
    if _TABLES.search(name) or _OUTPUTS.search(path):
        return Parameter("table", layers, stacked)
    return Parameter("filter" if convolves and axes == 2 else "matrix", layers, stacked)


def path_of(where: Any) -> str:
    """Return a jax key path as a string, "decoder/blocks/0/attention/mechanism/query/kernel"."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in where
    )
