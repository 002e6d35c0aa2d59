"""Sampling of the next token: pure functions of logits, and the settings that chain them.

Each function takes logits ``B V`` and returns logits of the same shape, -inf for excluded tokens.
The functions match those of transformers (``generation.logits_process``) and run in its order:
repetition penalty, temperature, top-k, top-p, min-p.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.ops.argmax import argmax

Number = float | Float[Array, ""]
Logits = Float[Array, "B V"]


def temperature(logits: Logits, value: Number) -> Logits:
    """Divide logits by a temperature: below 1 sharper, above 1 flatter."""
    return logits / value


def top_k(logits: Logits, k: int) -> Logits:
    """Keep the k largest logits, and those equal to the k-th."""
    last = jax.lax.top_k(logits, min(k, logits.shape[1]))[0][:, -1:]
    return jnp.where(logits < last, -jnp.inf, logits)


def top_p(logits: Logits, p: Number) -> Logits:
    """Keep the fewest tokens whose total probability reaches p, at least one.

    Holtzman et al. 2020 (arXiv 1904.09751), equations 2 and 3.
    """
    order = jnp.argsort(logits, axis=1)
    ascending = jnp.take_along_axis(logits, order, axis=1)
    # Cumulative sum from the smallest, as in transformers, so that ties break the same way.
    out = jnp.cumsum(jax.nn.softmax(ascending, axis=1), axis=1) <= 1 - p
    out = out.at[:, -1].set(False)
    back = jnp.argsort(order, axis=1)
    return jnp.where(jnp.take_along_axis(out, back, axis=1), -jnp.inf, logits)


def min_p(logits: Logits, p: Number) -> Logits:
    """Keep tokens of at least p times the largest probability.

    Nguyen et al. 2024 (arXiv 2407.01082).
    """
    probabilities = jax.nn.softmax(logits, axis=1)
    least = p * jnp.max(probabilities, axis=1, keepdims=True)
    return jnp.where(probabilities < least, -jnp.inf, logits)


def repetition_penalty(logits: Logits, seen: Bool[Array, "B V"], penalty: Number) -> Logits:
    """Divide positive logits of seen tokens by the penalty, and multiply negative ones by it.

    Keskar et al. 2019 (arXiv 1909.05858), section 4.1, which does not treat negative logits.
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of sampling; None skips a step. All but ``top_k`` may be traced.

    Attributes:
      temperature: None takes the arg max after all other steps, without randomness.
      repetition_penalty: applies to tokens of the prompt, without padding, and generated tokens.
    """

    temperature: Number | None = None
    top_k: int | None = dataclasses.field(default=None, metadata={"static": True})
    top_p: Number | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None

    def check(self) -> None:
        """Check that all settings are in range.

        Raises:
          ValueError: with name, value and range.
        """
        inside = {
            "temperature": ("> 0; None is greedy", lambda x: x > 0),
            "top_k": ("at least 1", lambda x: x >= 1),
            "top_p": ("0 < top_p <= 1", lambda x: 0 < x <= 1),
            "min_p": ("0 <= min_p <= 1", lambda x: 0 <= x <= 1),
            "repetition_penalty": ("> 0", lambda x: x > 0),
        }
        for name, (wanted, test) in inside.items():
            value = getattr(self, name)
            if value is not None and not test(value):
                raise ValueError(f"{name}={value}; wanted {wanted}")

    def process(self, logits: Logits, seen: Bool[Array, "B V"] | None = None) -> Logits:
        """Return the logits after all steps, float32."""
        logits = logits.astype(jnp.float32)
        # 64-bit numbers would widen the logits and so change the samples.
        narrow = jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), self)
        if narrow.repetition_penalty is not None:
            if seen is None:
                raise ValueError("seen is None; repetition_penalty wants the tokens so far")
            logits = repetition_penalty(logits, seen, narrow.repetition_penalty)
        if narrow.temperature is not None:
            logits = temperature(logits, narrow.temperature)
        logits = logits if narrow.top_k is None else top_k(logits, narrow.top_k)
        logits = logits if narrow.top_p is None else top_p(logits, narrow.top_p)
        return logits if narrow.min_p is None else min_p(logits, narrow.min_p)

    def choose(
        self, logits: Logits, key: Key[Array, ""], seen: Bool[Array, "B V"] | None = None
    ) -> Int[Array, " B"]:
        """Choose a token for each row."""
        logits = self.process(logits, seen)
        if self.temperature is None:
            return argmax(logits)
        return jax.random.categorical(key, logits, axis=1).astype(jnp.int32)


GREEDY = Sampling()
