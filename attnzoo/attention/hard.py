"""Hard attention: one key per query. Xu et al. 2015 (arXiv 1502.03044), section 4.1.

Sampling is not differentiable. Two estimators of the gradient are available:

- ``straight_through``: the forward pass uses the sample, the backward pass the soft weights.
  Biased, low variance.
- ``reinforce``: the forward pass uses the sample, without a gradient; the loss gets a term with the
  log-probability of the sample (:func:`reinforce_loss`). Unbiased, high variance.
"""

from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnzoo.attention.additive import AdditiveAttention
from attnzoo.attention.contract import (
    Attention,
    AttentionOutput,
    Memory,
    Positions,
    ReturnWeights,
    Site,
)
from attnzoo.attention.facts import Facts
from attnzoo.attention.multiplicative import MultiplicativeAttention
from attnzoo.config import attention as kinds
from attnzoo.ops.softmax import masked_softmax

Estimator = Literal["straight_through", "reinforce"]


class HardAttention(Attention):
    """Attention to a single key s ~ Categorical(softmax(scores)); its value is the context (eq. 8).

    With a ``sample_key`` the key is sampled; without one it is the arg max, as at test time. The
    weights returned are one-hot. Scores are those of ``content``, a soft attention.
    """

    facts = Facts(
        paper="Xu et al. 2015",
        score="any other",
        distribution="one draw of softmax, or arg max",
        softness="hard",
        inputs=("distinctive",),
        time="as its scores",
        memory="as its scores",
        state="as its scores",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        "gradients": "the arg max is constant almost everywhere; the gradient is an estimator's",
        "every permitted key is reached": "one key is read, the others are not",
    }

    def __init__(
        self,
        content: AdditiveAttention | MultiplicativeAttention,
        estimator: Estimator = "straight_through",
    ):
        if estimator not in get_args(Estimator):
            raise ValueError(
                f"estimator={estimator!r}; wanted one of {', '.join(get_args(Estimator))}"
            )
        self.content, self.estimator, self.dim = content, estimator, content.dim

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.content.widths

    @classmethod
    def from_config(
        cls, config: kinds.HardConfig, site: Site, *, rngs: nnx.Rngs
    ) -> "HardAttention":
        """Build the module of a config line, with the straight-through estimator."""
        content: AdditiveAttention | MultiplicativeAttention
        if config.score == "additive":
            content = AdditiveAttention.from_config(kinds.AdditiveConfig(), site, rngs=rngs)
        else:
            content = MultiplicativeAttention(site.query_dim, site.key_dim, config.score, rngs=rngs)
        return cls(content)

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Prepare the keys as the soft attention does."""
        return self.content.prepare_keys(keys)

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
        sample_key: Key[Array, ""] | None = None,
    ) -> AttentionOutput:
        """Read one key per query, sampled if there is a ``sample_key``, else the arg max."""
        soft = masked_softmax(self.content.scores(query, memory), memory.mask)
        if sample_key is None:
            location = jnp.argmax(soft, axis=-1)
        else:
            location = jax.random.categorical(sample_key, _log(soft), axis=-1)
        chosen = jax.nn.one_hot(location, soft.shape[-1], dtype=soft.dtype)
        chosen = jnp.where(jnp.any(soft > 0, axis=-1, keepdims=True), chosen, jnp.zeros_like(soft))
        if self.estimator == "straight_through":
            chosen = chosen + (soft - jax.lax.stop_gradient(soft))
        return self.read(chosen, memory, memory.mask, return_weights, dropout_key)

    def log_probability(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        chosen: Float[Array, "B 1 T S"],
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Return log-probability and entropy (nats) of ``chosen``; 0 in a row that sees no key."""
        soft = masked_softmax(self.content.scores(query, memory), memory.mask)[:, 0]
        logarithm = jnp.log(jnp.where(soft > 0, soft, jnp.ones_like(soft)))
        chosen = jax.lax.stop_gradient(chosen[:, 0])
        return jnp.sum(chosen * logarithm, axis=-1), -jnp.sum(soft * logarithm, axis=-1)


def reinforce_loss(
    log_likelihood: Float[Array, " B"],
    log_probability: Float[Array, " B"],
    entropy: Float[Array, " B"],
    baseline: Float[Array, ""],
    *,
    reward_weight: float = 1.0,
    entropy_weight: float = 0.002,
) -> Float[Array, ""]:
    """Return a loss whose gradient is the negative of the estimator of Xu et al. (section 4.1).

        d log p(y | s) + reward_weight (log p(y | s) - b) d log p(s) + entropy_weight d H(s)

    ``log_likelihood`` is log p(y | s) of each target; ``log_probability`` and ``entropy`` are log
    p(s) and H(s), summed over the queries of each row; ``baseline`` is b of
    :func:`moving_baseline`, or any number that does not depend on the sample.
    """
    advantage = jax.lax.stop_gradient(log_likelihood - baseline)
    gain = log_likelihood + reward_weight * advantage * log_probability + entropy_weight * entropy
    return -jnp.mean(gain)


def moving_baseline(
    baseline: Float[Array, ""], log_likelihood: Float[Array, " B"], decay: float = 0.9
) -> Float[Array, ""]:
    """Return the next baseline, once per batch: b <- decay b + (1 - decay) mean log p(y | s)."""
    return decay * baseline + (1 - decay) * jax.lax.stop_gradient(jnp.mean(log_likelihood))


def _log(weights: Float[Array, "B N T S"]) -> Float[Array, "B N T S"]:
    """Return the logarithm: -inf at 0, but 0 throughout a row of zeros, which is emptied later."""
    some = jnp.any(weights > 0, axis=-1, keepdims=True)
    weights = jax.lax.stop_gradient(jnp.where(some, weights, jnp.ones_like(weights)))
    return jnp.log(weights)
