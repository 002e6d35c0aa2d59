"""Facts of a mechanism on the axes of surveys of attention, declared by its class."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Place of a mechanism on the axes of four surveys, and its cost; ``docs/map.md`` shows all.

    The surveys are Niu et al. 2021 (doi 10.1016/j.neucom.2021.03.091), Chaudhari et al. 2021 (arXiv
    1904.02874), Galassi et al. 2021 (arXiv 1902.02181) and Soydaner 2022 (arXiv 2204.13154).
    Costs are for T queries, S keys, width D, N heads of width H, as in ``docs/attention.md``.
    """

    paper: str
    """Authors and year."""
    score: str
    """Compatibility function of a query and a key (Galassi)."""
    distribution: str = "softmax"
    """Distribution function, from scores to weights (Galassi)."""
    softness: Literal["soft", "hard", "local"] = "soft"
    """Weights of all keys, of one chosen key, or of the keys of a window or bucket (Niu: softness;
    Chaudhari: number of positions)."""
    form: Literal["item-wise", "location-wise"] = "item-wise"
    """Keys are items of a sequence, or places of a feature map (Niu: forms of input feature)."""
    inputs: tuple[Literal["distinctive", "self", "co"], ...] = ("distinctive", "self")
    """Queries and keys are two sequences, the same one, or two that read each other (Niu: input
    representations; Chaudhari: number of sequences)."""
    output: Literal["single", "multi-head", "multi-dimensional"] = "single"
    """One weight of a key, one in each head, or one of each feature (Niu: output
    representations; Chaudhari: number of representations)."""
    causal: Literal["mask", "recurrence", "none"] = "none"
    """Causal self-attention by a mask, by a recurrent state, or not at all."""
    time: str
    """Operations for one sequence, up to a factor."""
    memory: str
    """Largest intermediate array in numbers."""
    state: str = "–"
    """Numbers in a layer that decoding keeps, S being the length so far."""
