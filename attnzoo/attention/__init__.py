"""Attention modules: one mechanism a file, all under one contract (``attention.contract``)."""

from attnzoo.attention.additive import AdditiveAttention
from attnzoo.attention.bam import BAM
from attnzoo.attention.channel import EfficientChannelAttention, SqueezeExcitation
from attnzoo.attention.combined import CBAM, MHCA, CoordinateAttention
from attnzoo.attention.contract import Attention, Memory
from attnzoo.attention.convolutional import Gate
from attnzoo.attention.fixed import FixedAttention
from attnzoo.attention.local import LocalMonotonicAttention, LocalPredictiveAttention
from attnzoo.attention.multiplicative import LocationAttention, MultiplicativeAttention
from attnzoo.attention.spatial import SpatialGate

ATTENTIONS: dict[str, type[Attention]] = {
    "additive": AdditiveAttention,
    "multiplicative": MultiplicativeAttention,
    "location": LocationAttention,
    "local_m": LocalMonotonicAttention,
    "local_p": LocalPredictiveAttention,
    "none": FixedAttention,
}

GATES: dict[str, type[Gate]] = {
    "se": SqueezeExcitation,
    "eca": EfficientChannelAttention,
    "spatial": SpatialGate,
    "cbam": CBAM,
    "bam": BAM,
    "coordinate": CoordinateAttention,
    "mhca": MHCA,
}
"""Attention inside convolutional networks: no queries or keys, but ``gate(x) = x * weights(x)``
under the contract of ``attention.convolutional``."""

__all__ = [
    "ATTENTIONS",
    "BAM",
    "CBAM",
    "GATES",
    "MHCA",
    "AdditiveAttention",
    "Attention",
    "CoordinateAttention",
    "EfficientChannelAttention",
    "FixedAttention",
    "Gate",
    "LocalMonotonicAttention",
    "LocalPredictiveAttention",
    "LocationAttention",
    "Memory",
    "MultiplicativeAttention",
    "SpatialGate",
    "SqueezeExcitation",
]
