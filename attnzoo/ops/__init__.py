"""Pure functions on arrays: no parameters, no flax."""

from attnzoo.ops import masks, score_mods
from attnzoo.ops.dot_product import dot_product_attention
from attnzoo.ops.flex import flex_attention
from attnzoo.ops.rotary import rotary_embedding, rotary_frequencies
from attnzoo.ops.weights import WeightReport, WeightRequest, attention_weights

__all__ = [
    "WeightReport",
    "WeightRequest",
    "attention_weights",
    "dot_product_attention",
    "flex_attention",
    "masks",
    "rotary_embedding",
    "rotary_frequencies",
    "score_mods",
]
