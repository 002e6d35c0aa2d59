"""What every search returns, and how lengths are paid for."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnzoo.special_tokens import BOS, PAD


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypotheses:
    """The K best outputs of each sentence, best first; L is the maximum length.

    Attributes:
        tokens: predicted ids without BOS, with EOS if it was reached, PAD behind.
        lengths: tokens per hypothesis, EOS included.
        log_probs: log P(tokens | source), in nats.
        scores: what the search ranked by: ``log_probs / length_penalty(lengths)``.
        weights: attention of the step that predicted each token, averaged over heads; 0 behind.
    """

    tokens: Int[Array, "B K L"]
    lengths: Int[Array, "B K"]
    log_probs: Float[Array, "B K"]
    scores: Float[Array, "B K"]
    weights: Float[Array, "B K L S"]


def next_log_probs(logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """Log P of each next token, float32; -inf for PAD and BOS, which are no part of an output.

    The others keep the probability that the model gives them: nothing is renormalised.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return log_probs.at[:, jnp.array([PAD, BOS])].set(-jnp.inf)


def length_penalty(length: Int[Array, "..."], alpha: float) -> Float[Array, "..."]:
    """((5 + length) / 6)^alpha, Wu et al. 2016 (arXiv 1609.08144), eq. 14; EOS counts."""
    return ((5.0 + length.astype(jnp.float32)) / 6.0) ** alpha
