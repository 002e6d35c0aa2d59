"""Attention modules: one mechanism a file, all under one contract (``attention.contract``)."""

from flax import nnx

from attnzoo.attention.additive import AdditiveAttention
from attnzoo.attention.bam import BAM
from attnzoo.attention.channel import EfficientChannelAttention, SqueezeExcitation
from attnzoo.attention.combined import CBAM, MHCA, CoordinateAttention
from attnzoo.attention.contract import Attention, Memory
from attnzoo.attention.convolutional import Gate
from attnzoo.attention.decomposable import DecomposableAttention
from attnzoo.attention.delta_net import DeltaNet
from attnzoo.attention.fast_weight import FastWeightProgrammer
from attnzoo.attention.fixed import FixedAttention
from attnzoo.attention.gated_linear import GatedLinearAttention, RetNetAttention
from attnzoo.attention.graph import GraphAttention
from attnzoo.attention.hard import HardAttention
from attnzoo.attention.intra import LSTMN, IntraTemporalAttention
from attnzoo.attention.latent import LatentAttention
from attnzoo.attention.linear import CausalLinearAttention, LinearAttention
from attnzoo.attention.local import LocalMonotonicAttention, LocalPredictiveAttention
from attnzoo.attention.multi_head import MultiHeadAttention, Rotary
from attnzoo.attention.multiplicative import LocationAttention, MultiplicativeAttention
from attnzoo.attention.positional import FactorisedPositionalAttention, PositionalAttention
from attnzoo.attention.relative_bias import ALiBi, T5RelativeBias
from attnzoo.attention.set import ISAB, MAB, PMA, LatentReader
from attnzoo.attention.spatial import SpatialGate
from attnzoo.attention.structured import StructuredSelfAttention, hop_overlap
from attnzoo.attention.synthesizer import Synthesizer

ATTENTIONS: dict[str, type[Attention]] = {
    "additive": AdditiveAttention,
    "multiplicative": MultiplicativeAttention,
    "location": LocationAttention,
    "local_m": LocalMonotonicAttention,
    "local_p": LocalPredictiveAttention,
    "intra_temporal": IntraTemporalAttention,
    "none": FixedAttention,
    "hard": HardAttention,
    "multi_head": MultiHeadAttention,
    "latent": LatentAttention,
    "positional": PositionalAttention,
    "factorised_positional": FactorisedPositionalAttention,
    "synthesizer": Synthesizer,
    "linear": LinearAttention,
    "causal_linear": CausalLinearAttention,
    "fast_weight": FastWeightProgrammer,
    "delta_net": DeltaNet,
    "gated_linear": GatedLinearAttention,
    "retnet": RetNetAttention,
    "mab": MAB,
    "graph": GraphAttention,
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
    "ISAB",
    "LSTMN",
    "MAB",
    "MHCA",
    "PMA",
    "SENTENCE_ATTENTIONS",
    "ALiBi",
    "AdditiveAttention",
    "Attention",
    "CausalLinearAttention",
    "CoordinateAttention",
    "DecomposableAttention",
    "DeltaNet",
    "EfficientChannelAttention",
    "FactorisedPositionalAttention",
    "FastWeightProgrammer",
    "FixedAttention",
    "Gate",
    "GatedLinearAttention",
    "GraphAttention",
    "HardAttention",
    "IntraTemporalAttention",
    "LatentAttention",
    "LatentReader",
    "LinearAttention",
    "LocalMonotonicAttention",
    "LocalPredictiveAttention",
    "LocationAttention",
    "Memory",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "PositionalAttention",
    "RetNetAttention",
    "Rotary",
    "SpatialGate",
    "SqueezeExcitation",
    "StructuredSelfAttention",
    "Synthesizer",
    "T5RelativeBias",
    "hop_overlap",
]
