"""Attention capture, explanations of a model's answers, and tests of explanations.

:func:`explain` does all of it: scores by every explanation of ``EXPLANATIONS`` that applies, their
faithfulness, figures and a page. Its parts can also be called alone.

Scores of tokens are ``B T``, or ``B T T`` for all tokens by all; those of a ViT's patches start at
``config.prefix``. Functions that take a model can be jitted:
``jax.jit(lambda images: cdam(model, 2, images))``.
"""

from attnzoo.explain.adversarial import (
    adversarial,
    adversary_curve,
    answer_of,
    seed_divergence,
    train_adversary,
    uniform_change,
)
from attnzoo.explain.agreement import bootstrap, kendall, parameter_randomisation, spearman
from attnzoo.explain.attn_lrp import attn_lrp
from attnzoo.explain.capture import attention_names, capture_attention, weight_gradients
from attnzoo.explain.cdam import cdam, integrated_cdam, smooth_cdam
from attnzoo.explain.distance import attention_distance
from attnzoo.explain.explained import Explained, Faithfulness, explain
from attnzoo.explain.explanations import EXPLANATIONS
from attnzoo.explain.flow import attention_flow
from attnzoo.explain.gradcam import attention_gradcam, gradcam
from attnzoo.explain.gradients import (
    by_patch,
    gradient_times_input,
    integrated_gradients,
    smooth_grad,
)
from attnzoo.explain.page import image_page, text_page, translation_page
from attnzoo.explain.page_parts import Page
from attnzoo.explain.question import Question
from attnzoo.explain.relevance import encoder_decoder_relevance, relevance
from attnzoo.explain.rollout import fuse, gradient_rollout, rollout, with_residual
from attnzoo.explain.saturation import averaged, scaled
from attnzoo.explain.target import chosen

__all__ = [
    "EXPLANATIONS",
    "Explained",
    "Faithfulness",
    "Page",
    "Question",
    "adversarial",
    "adversary_curve",
    "answer_of",
    "attention_distance",
    "attention_flow",
    "attention_gradcam",
    "attention_names",
    "attn_lrp",
    "averaged",
    "bootstrap",
    "by_patch",
    "capture_attention",
    "cdam",
    "chosen",
    "encoder_decoder_relevance",
    "explain",
    "fuse",
    "gradcam",
    "gradient_rollout",
    "gradient_times_input",
    "image_page",
    "integrated_cdam",
    "integrated_gradients",
    "kendall",
    "parameter_randomisation",
    "relevance",
    "rollout",
    "scaled",
    "seed_divergence",
    "smooth_cdam",
    "smooth_grad",
    "spearman",
    "text_page",
    "train_adversary",
    "translation_page",
    "uniform_change",
    "weight_gradients",
    "with_residual",
]
