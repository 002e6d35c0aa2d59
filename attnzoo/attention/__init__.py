"""Attention modules: one mechanism a file, all under one contract (``attention.contract``)."""

from flax import nnx

from attnzoo.attention.additive import AdditiveAttention
from attnzoo.attention.bam import BAM
from attnzoo.attention.channel import EfficientChannelAttention, SqueezeExcitation
from attnzoo.attention.combined import CBAM, MHCA, CoordinateAttention
from attnzoo.attention.contract import Attention, Memory
from attnzoo.attention.convolutional import Gate
from attnzoo.attention.decomposable import DecomposableAttention
from attnzoo.attention.fixed import FixedAttention
from attnzoo.attention.intra import LSTMN, IntraTemporalAttention
from attnzoo.attention.local import LocalMonotonicAttention, LocalPredictiveAttention
from attnzoo.attention.multiplicative import LocationAttention, MultiplicativeAttention
from attnzoo.attention.spatial import SpatialGate
from attnzoo.attention.structured import StructuredSelfAttention, hop_overlap

ATTENTIONS: dict[str, type[Attention]] = {
    "additive": AdditiveAttention,
    "multiplicative": MultiplicativeAttention,
    "location": LocationAttention,
    "local_m": LocalMonotonicAttention,
    "local_p": LocalPredictiveAttention,
    "intra_temporal": IntraTemporalAttention,
    "none": FixedAttention,
}

SENTENCE_ATTENTIONS: dict[str, type[nnx.Module]] = {
    "lstmn": LSTMN,
    "decomposable": DecomposableAttention,
    "structured": StructuredSelfAttention,
}
"""Attention of whole sentences to themselves or each other, each with a call of its own; their
weights, on request, are ``B N T S`` like all others."""

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
    "LSTMN",
    "MHCA",
    "SENTENCE_ATTENTIONS",
    "AdditiveAttention",
    "Attention",
    "CoordinateAttention",
    "DecomposableAttention",
    "EfficientChannelAttention",
    "FixedAttention",
    "Gate",
    "IntraTemporalAttention",
    "LocalMonotonicAttention",
    "LocalPredictiveAttention",
    "LocationAttention",
    "Memory",
    "MultiplicativeAttention",
    "SpatialGate",
    "SqueezeExcitation",
    "StructuredSelfAttention",
    "hop_overlap",
]
