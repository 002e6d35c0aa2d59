"""Attention and its parts as pure functions on arrays: no parameters, no flax."""

from attnzoo.ops import linear, masks, score_mods
from attnzoo.ops.autotune import autotune
from attnzoo.ops.bilateral import bilateral_filter
from attnzoo.ops.block_mask import BlockMask
from attnzoo.ops.dot_product import dot_product_attention, explain_choice
from attnzoo.ops.flex import flex_attention
from attnzoo.ops.hopfield import hopfield_energy, hopfield_retrieve
from attnzoo.ops.kernel_check import check_kernels
from attnzoo.ops.linear import (
    delta_net,
    delta_rule,
    fast_weight_step,
    fast_weights,
    gated_delta_net,
    gated_linear_attention,
    kimi_delta,
    linear_attention,
    retention,
)
from attnzoo.ops.ring import ring_attention, ring_order
from attnzoo.ops.rotary import rotary_embedding, rotary_frequencies
from attnzoo.ops.sharded import sharded
from attnzoo.ops.weights import WeightReport, WeightRequest, attention_weights

__all__ = [
    "BlockMask",
    "WeightReport",
    "WeightRequest",
    "attention_weights",
    "autotune",
    "bilateral_filter",
    "check_kernels",
    "delta_net",
    "delta_rule",
    "dot_product_attention",
    "explain_choice",
    "fast_weight_step",
    "fast_weights",
    "flex_attention",
    "gated_delta_net",
    "gated_linear_attention",
    "hopfield_energy",
    "hopfield_retrieve",
    "kimi_delta",
    "linear",
    "linear_attention",
    "masks",
    "retention",
    "ring_attention",
    "ring_order",
    "rotary_embedding",
    "rotary_frequencies",
    "score_mods",
    "sharded",
]
