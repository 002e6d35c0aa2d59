"""Attention modules, one mechanism per file, all with the interface of ``attention.contract``."""

from typing import Any

from flax import nnx

from attnzoo.attention.additive import AdditiveAttention
from attnzoo.attention.bam import BAM
from attnzoo.attention.channel import EfficientChannelAttention, SqueezeExcitation
from attnzoo.attention.combined import CBAM, MHCA, CoordinateAttention
from attnzoo.attention.contract import Attention, Memory, Site
from attnzoo.attention.convolutional import Gate
from attnzoo.attention.cosine import CosineAttention
from attnzoo.attention.coverage import CoverageAttention
from attnzoo.attention.decomposable import DecomposableAttention
from attnzoo.attention.delta_net import DeltaNet
from attnzoo.attention.differential import DifferentialAttention
from attnzoo.attention.fast_weight import FastWeightProgrammer
from attnzoo.attention.fixed import FixedAttention
from attnzoo.attention.forgetting import ForgettingAttention
from attnzoo.attention.gated_linear import GatedLinearAttention, RetNetAttention
from attnzoo.attention.graph import GraphAttention
from attnzoo.attention.hard import HardAttention
from attnzoo.attention.hopfield import HopfieldAttention
from attnzoo.attention.intra import LSTMN, IntraTemporalAttention
from attnzoo.attention.kimi_delta import KimiDeltaAttention
from attnzoo.attention.latent import LatentAttention
from attnzoo.attention.linear import CausalLinearAttention, LinearAttention
from attnzoo.attention.linformer import Linformer
from attnzoo.attention.local import LocalMonotonicAttention, LocalPredictiveAttention
from attnzoo.attention.location_aware import LocationAwareAttention
from attnzoo.attention.lsh import LSHAttention
from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.multiplicative import LocationAttention, MultiplicativeAttention
from attnzoo.attention.native_sparse import NativeSparseAttention
from attnzoo.attention.non_local import NonLocalBlock
from attnzoo.attention.positional import FactorisedPositionalAttention, PositionalAttention
from attnzoo.attention.relative_bias import ALiBi, T5RelativeBias
from attnzoo.attention.set import ISAB, MAB, PMA, LatentReader
from attnzoo.attention.spatial import SpatialGate
from attnzoo.attention.structured import StructuredSelfAttention, hop_overlap
from attnzoo.attention.synthesizer import Synthesizer
from attnzoo.config.external import import_class, is_external
from attnzoo.ops.rotary import Rotary

ATTENTIONS: dict[str, type[Attention]] = {
    "additive": AdditiveAttention,
    "multiplicative": MultiplicativeAttention,
    "location": LocationAttention,
    "local_m": LocalMonotonicAttention,
    "local_p": LocalPredictiveAttention,
    "intra_temporal": IntraTemporalAttention,
    "coverage": CoverageAttention,
    "none": FixedAttention,
    "hard": HardAttention,
    "multi_head": MultiHeadAttention,
    "differential": DifferentialAttention,
    "forgetting": ForgettingAttention,
    "latent": LatentAttention,
    "cosine": CosineAttention,
    "positional": PositionalAttention,
    "factorised_positional": FactorisedPositionalAttention,
    "synthesizer": Synthesizer,
    "linear": LinearAttention,
    "causal_linear": CausalLinearAttention,
    "fast_weight": FastWeightProgrammer,
    "delta_net": DeltaNet,
    "kimi_delta": KimiDeltaAttention,
    "gated_linear": GatedLinearAttention,
    "retnet": RetNetAttention,
    "mab": MAB,
    "graph": GraphAttention,
    "location_aware": LocationAwareAttention,
    "linformer": Linformer,
    "hopfield": HopfieldAttention,
    "lsh": LSHAttention,
    "native_sparse": NativeSparseAttention,
}


def attention_class(config: Any) -> type[Attention]:
    """Return the attention class that a config names: a registered one, or the user's own class."""
    name = config.mechanism or config.kind
    return import_class(name, Attention) if is_external(name) else ATTENTIONS[name]


def build_attention(config: Any, site: Site, *, rngs: nnx.Rngs) -> Attention:
    """Build the attention of a config for its place in a model; ValueError if they do not fit."""
    wanted = "itself" if site.is_self else "source"
    if wanted not in config.reads:
        raise ValueError(
            f"attention.kind={config.kind!r} reads {' or '.join(config.reads)}; here a sequence "
            f"reads {wanted}"
        )
    longest = site.max_length
    if site.is_self and config.slots is not None and longest is not None and config.slots < longest:
        raise ValueError(
            f"attention.max_length={config.slots} is below max_length={longest} of the model: "
            f"attention.kind={config.kind!r} has a slot for each position"
        )
    return attention_class(config).from_config(config, site, rngs=rngs)


SENTENCE_ATTENTIONS: dict[str, type[nnx.Module]] = {
    "lstmn": LSTMN,
    "decomposable": DecomposableAttention,
    "structured": StructuredSelfAttention,
}
"""Attention modules for whole sentences, each with its own ``__call__`` signature.

Their weights, on request, are ``B N T S`` like those of every attention.
"""

GATES: dict[str, type[Gate]] = {
    "se": SqueezeExcitation,
    "eca": EfficientChannelAttention,
    "spatial": SpatialGate,
    "cbam": CBAM,
    "bam": BAM,
    "coordinate": CoordinateAttention,
    "mhca": MHCA,
    "non_local": NonLocalBlock,
}
"""Attention modules for convolutional networks, with the interface of ``attention.convolutional``.

They take one map: ``gate(x) = x * weights(x)``, and a non-local block adds what places read.
"""

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
    "CosineAttention",
    "CoverageAttention",
    "DecomposableAttention",
    "DeltaNet",
    "DifferentialAttention",
    "EfficientChannelAttention",
    "FactorisedPositionalAttention",
    "FastWeightProgrammer",
    "FixedAttention",
    "ForgettingAttention",
    "Gate",
    "GatedLinearAttention",
    "GraphAttention",
    "HardAttention",
    "HopfieldAttention",
    "IntraTemporalAttention",
    "KimiDeltaAttention",
    "LSHAttention",
    "LatentAttention",
    "LatentReader",
    "LinearAttention",
    "Linformer",
    "LocalMonotonicAttention",
    "LocalPredictiveAttention",
    "LocationAttention",
    "LocationAwareAttention",
    "Memory",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "NativeSparseAttention",
    "NonLocalBlock",
    "PositionalAttention",
    "RetNetAttention",
    "Rotary",
    "Site",
    "SpatialGate",
    "SqueezeExcitation",
    "StructuredSelfAttention",
    "Synthesizer",
    "T5RelativeBias",
    "attention_class",
    "build_attention",
    "hop_overlap",
]
