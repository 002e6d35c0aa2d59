"""From the logits of the next token to a token: pure functions, and the settings that chain them.

A function takes logits ``B V`` and gives logits of the same shape, -inf where a token is out. They
are those of transformers (``generation.logits_process``), in its order: repetition penalty,
temperature, top-k, top-p, min-p.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Number = float | Float[Array, ""]
Logits = Float[Array, "B V"]


def temperature(logits: Logits, value: Number) -> Logits:
    """Logits / value: below 1 sharper, above 1 flatter."""
    return logits / value


def top_k(logits: Logits, k: int) -> Logits:
    """The k largest, and what ties with the last of them."""
    last = jax.lax.top_k(logits, min(k, logits.shape[1]))[0][:, -1:]
    return jnp.where(logits < last, -jnp.inf, logits)


def top_p(logits: Logits, p: Number) -> Logits:
    """The fewest tokens whose probability reaches p, at least one (Holtzman et al. 2020, arXiv
    1904.09751, equations 2 and 3).
    """
    order = jnp.argsort(logits, axis=1)
    ascending = jnp.take_along_axis(logits, order, axis=1)
    # The sum over the tail of small ones, as transformers takes it: what ties is told apart.
    out = jnp.cumsum(jax.nn.softmax(ascending, axis=1), axis=1) <= 1 - p
    out = out.at[:, -1].set(False)
    back = jnp.argsort(order, axis=1)
    return jnp.where(jnp.take_along_axis(out, back, axis=1), -jnp.inf, logits)


def min_p(logits: Logits, p: Number) -> Logits:
    """Tokens of at least p times the largest probability (Nguyen et al. 2024, arXiv 2407.01082)."""
    probabilities = jax.nn.softmax(logits, axis=1)
    least = p * jnp.max(probabilities, axis=1, keepdims=True)
    return jnp.where(probabilities < least, -jnp.inf, logits)


def repetition_penalty(logits: Logits, seen: Bool[Array, "B V"], penalty: Number) -> Logits:
    """Logits of seen tokens divided by the penalty if positive, else multiplied (Keskar et al.
    2019, arXiv 1909.05858, section 4.1, with the sign that the paper forgets).
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen; None leaves a step out. All but ``top_k`` may be traced.

    Attributes:
      temperature: None takes the most probable token after all other steps: no randomness.
      repetition_penalty: counts the prompt, without padding, and what was generated.
    """

    temperature: Number | None = None
    top_k: int | None = dataclasses.field(default=None, metadata={"static": True})
    top_p: Number | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None

    def check(self) -> None:
        """Numbers out of range.

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
        """Logits after all steps, float32."""
        logits = logits.astype(jnp.float32)
        # Numbers of 64 bits would widen the logits, and with them change what is drawn.
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
        """A token for each row."""
        logits = self.process(logits, seen)
        if self.temperature is None:
            return jnp.argmax(logits, axis=1).astype(jnp.int32)
        return jax.random.categorical(key, logits, axis=1).astype(jnp.int32)


GREEDY = Sampling()
