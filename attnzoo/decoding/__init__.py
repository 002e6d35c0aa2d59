"""Decoding: one compiled loop per search over a model's step function.

A step is ``step(token: B, state, memory) -> (logits: B V, state, weights: B N S)``; every leaf of
``state`` and ``memory`` has the batch as its leading axis.
"""

from attnzoo.decoding.beam import beam_search
from attnzoo.decoding.greedy import greedy_search
from attnzoo.decoding.hypotheses import Hypotheses, TokenIds, length_penalty
from attnzoo.decoding.rules import Rules

__all__ = ["Hypotheses", "Rules", "TokenIds", "beam_search", "greedy_search", "length_penalty"]
