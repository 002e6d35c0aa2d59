"""Results of a search, the special token ids that decoding needs, and the length penalty."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnzoo.special_tokens import BOS, EOS, PAD


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypotheses:
    """The K best outputs of each sentence, best first; L is the maximum length.

    Attributes:
        tokens: predicted ids without the start token, with the end token if reached, then padding.
        lengths: tokens per hypothesis, the end token included.
        log_probs: log P(tokens | source), in nats.
        scores: ranking of the search, ``log_probs / length_penalty(lengths)``.
        weights: attention of the step that predicted each token, averaged over heads; 0 at padding.
    """

    tokens: Int[Array, "B K L"]
    lengths: Int[Array, "B K"]
    log_probs: Float[Array, "B K"]
    scores: Float[Array, "B K"]
    weights: Float[Array, "B K L S"]


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Special token ids that decoding needs; the defaults are attnzoo's own ids.

    Attributes:
        pad: fills a row after its end token.
        start: first input of the decoder.
        end: ends an output.
        never: ids that are never generated; None for pad and start (without start if it is also
            the end, as in BART).
    """

    pad: int = PAD
    start: int = BOS
    end: int = EOS
    never: tuple[int, ...] | None = None

    @classmethod
    def of(cls, config: Any) -> "TokenIds":
        """Read ``pad_id``, ``start_id`` and ``eos_id`` of a model's config."""
        return cls(config.pad_id, config.start_id, config.eos_id)

    @property
    def excluded(self) -> tuple[int, ...]:
        """Ids that are never generated, with the default of ``never`` applied."""
        if self.never is not None:
            return self.never
        return tuple(sorted({self.pad, self.start} - {self.end}))


DEFAULT_IDS = TokenIds()
BLOCK = 128


def next_log_probs(logits: Float[Array, "B V"], ids: TokenIds = DEFAULT_IDS) -> Float[Array, "B V"]:
    """Return log P of each next token in float32, -inf for excluded ids.

    The other probabilities are not renormalised.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    if not ids.excluded:
        return log_probs
    return log_probs.at[:, jnp.array(ids.excluded)].set(-jnp.inf)


def largest(x: Float[Array, "B V"], count: int) -> tuple[Float[Array, "B n"], Int[Array, "B n"]]:
    """Return the ``count`` largest numbers of each row and their places, as ``jax.lax.top_k``.

    On a CPU that looks at the largest numbers of blocks first: only ``count`` blocks can hold one.
    """
    if x.shape[1] < 2 * BLOCK * count:
        return tuple(jax.lax.top_k(x, count))
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: _largest_of_blocks(x, count),
        default=lambda x: tuple(jax.lax.top_k(x, count)),
    )


def _largest_of_blocks(
    x: Float[Array, "B V"], count: int
) -> tuple[Float[Array, "B n"], Int[Array, "B n"]]:
    B, V = x.shape
    padded = jnp.pad(x, ((0, 0), (0, -V % BLOCK)), constant_values=-jnp.inf)
    blocks = padded.reshape(B, -1, BLOCK)
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=2), count)
    chosen = jnp.sort(chosen, axis=1)  # of equal numbers the first one counts
    rest = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1).reshape(B, -1)
    best, at = jax.lax.top_k(rest, count)
    return best, jnp.take_along_axis(chosen, at // BLOCK, axis=1) * BLOCK + at % BLOCK


def length_penalty(length: Int[Array, "..."], alpha: float) -> Float[Array, "..."]:
    """Return ((5 + length) / 6)^alpha, Wu et al. 2016 (arXiv 1609.08144), eq. 14; EOS counts."""
    return ((5.0 + length.astype(jnp.float32)) / 6.0) ** alpha
