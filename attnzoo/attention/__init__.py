"""Attention modules: one mechanism a file, all under one contract (``attention.contract``)."""

from attnzoo.attention.additive import AdditiveAttention
from attnzoo.attention.contract import Attention, Memory
from attnzoo.attention.fixed import FixedAttention
from attnzoo.attention.local import LocalMonotonicAttention, LocalPredictiveAttention
from attnzoo.attention.multiplicative import LocationAttention, MultiplicativeAttention

ATTENTIONS: dict[str, type[Attention]] = {
    "additive": AdditiveAttention,
    "multiplicative": MultiplicativeAttention,
    "location": LocationAttention,
    "local_m": LocalMonotonicAttention,
    "local_p": LocalPredictiveAttention,
    "none": FixedAttention,
}

__all__ = [
    "ATTENTIONS",
    "AdditiveAttention",
    "Attention",
    "FixedAttention",
    "LocalMonotonicAttention",
    "LocalPredictiveAttention",
    "LocationAttention",
    "Memory",
    "MultiplicativeAttention",
]
