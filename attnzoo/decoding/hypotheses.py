"""What every search returns, and how lengths are paid for."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnzoo.special_tokens import BOS, EOS, PAD


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypotheses:
    """The K best outputs of each sentence, best first; L is the maximum length.

    Attributes:
        tokens: predicted ids without the start, with the end if it was reached, padding behind.
        lengths: tokens per hypothesis, the end included.
        log_probs: log P(tokens | source), in nats.
        scores: what the search ranked by: ``log_probs / length_penalty(lengths)``.
        weights: attention of the step that predicted each token, averaged over heads; 0 behind.
    """

    tokens: Int[Array, "B K L"]
    lengths: Int[Array, "B K"]
    log_probs: Float[Array, "B K"]
    scores: Float[Array, "B K"]
    weights: Float[Array, "B K L S"]


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """What a search must know of a vocabulary; the zoo's own ids where nothing is said.

    Attributes:
        pad: what stands behind an end.
        start: what the decoder reads first.
        end: what ends an output.
        never: tokens that are no part of an output; pad and start (unless it is the end as well,
            as in BART) where nothing is said.
    """

    pad: int = PAD
    start: int = BOS
    end: int = EOS
    never: tuple[int, ...] | None = None

    @property
    def excluded(self) -> tuple[int, ...]:
        """``never``, said or not."""
        if self.never is not None:
            return self.never
        return tuple(sorted({self.pad, self.start} - {self.end}))


OWN_IDS = TokenIds()


def next_log_probs(logits: Float[Array, "B V"], ids: TokenIds = OWN_IDS) -> Float[Array, "B V"]:
    """Log P of each next token, float32; -inf for those that are no part of an output.

    The others keep the probability that the model gives them: nothing is renormalised.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    if not ids.excluded:
        return log_probs
    return log_probs.at[:, jnp.array(ids.excluded)].set(-jnp.inf)


def length_penalty(length: Int[Array, "..."], alpha: float) -> Float[Array, "..."]:
    """((5 + length) / 6)^alpha, Wu et al. 2016 (arXiv 1609.08144), eq. 14; EOS counts."""
    return ((5.0 + length.astype(jnp.float32)) / 6.0) ** alpha
