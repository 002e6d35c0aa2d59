"""Linear attention and fast weights: recurrent, parallel and chunked forms of one recurrence."""

from attnzoo.ops.linear.fast_weights import fast_weights
from attnzoo.ops.linear.feature_maps import (
    dpfp,
    elu_plus_one,
    identity,
    l2_normalise,
    orthogonal_projection,
    random_features,
    sum_normalise,
)
from attnzoo.ops.linear.mechanisms import (
    delta_net,
    delta_rule,
    gated_delta_net,
    gated_linear_attention,
    kimi_delta,
    linear_attention,
    retention,
)
from attnzoo.ops.linear.recurrent import fast_weight_step

__all__ = [
    "delta_net",
    "delta_rule",
    "dpfp",
    "elu_plus_one",
    "fast_weight_step",
    "fast_weights",
    "gated_delta_net",
    "gated_linear_attention",
    "identity",
    "kimi_delta",
    "l2_normalise",
    "linear_attention",
    "orthogonal_projection",
    "random_features",
    "retention",
    "sum_normalise",
]
