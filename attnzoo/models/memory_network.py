"""End-to-end memory networks, Sukhbaatar et al., NIPS 2015 (arXiv 1503.08895)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.projection import Projection
from attnzoo.config.stories import MemoryNetworkConfig
from attnzoo.layers.embedding import Embedding
from attnzoo.models.model import Model
from attnzoo.ops.softmax import masked_softmax
from attnzoo.ops.wide_sums import broadcast_parameter


class MemoryNetwork(Model):
    """Reader of a memory of sentences in several hops; ``attnzoo.config`` has the settings.

    With the encodings m_i and c_i of sentence i, and u of the question (sections 2.1 and 2.2):

        p_i = softmax(u . m_i),  o = sum_i p_i c_i,  u <- u + o      in each hop
        answer = softmax(u W)

    Between hops u is multiplied by a matrix H with layer-wise tying.
    """

    def __init__(self, config: MemoryNetworkConfig, vocab: int, *, rngs: nnx.Rngs):
        self.config = config
        normal = jax.nn.initializers.normal(config.init)
        adjacent = config.tying == "adjacent"

        def tables(size: int, count: int) -> Any:
            made = [Embedding(size, config.dim, init=normal, rngs=rngs) for _ in range(count)]
            return nnx.List(made)

        # Adjacent: those of hop k are k and k + 1. Layer-wise: 0 and 1 of every hop.
        count = config.hops + 1 if adjacent else 2
        self.words = tables(vocab, count)
        self.ages = tables(config.memory, count) if config.temporal else None
        self.question = None if adjacent else Embedding(vocab, config.dim, init=normal, rngs=rngs)
        self.answer = None if adjacent else Embedding(vocab, config.dim, init=normal, rngs=rngs)
        between = not adjacent and config.hops > 1
        self.between = Projection(config.dim, config.dim, rngs=rngs) if between else None

    def __call__(
        self,
        stories: Int[Array, "B M J"],
        question: Int[Array, "B Q"],
        *,
        valid: Bool[Array, "B M"] | None = None,
        linear: Bool[Array, " B"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: bool = False,
    ) -> Any:
        """Return the logits ``B V`` of the answer.

        ``capture`` adds the weights of each hop as maps ``B 1 1 M``, "hop/0", "hop/1", ...

        Args:
          stories: words of the sentences, the latest one first; 0 is no word.
          valid: False where there is no memory; if None, all are read. rngs: unused.
          linear: True for rows that are read without the softmax over the memory (section 4.2).
        """
        if stories.shape[1] > self.config.memory:
            raise ValueError(
                f"stories has {stories.shape[1]} sentences; wanted at most "
                f"memory={self.config.memory}"
            )
        valid = jnp.ones(stories.shape[:2], bool) if valid is None else valid
        last, adjacent = len(self.words) - 1, self.question is None
        u = self._encode(self.words[0] if self.question is None else self.question, question)
        maps: dict[str, Array] = {}
        for hop in range(self.config.hops):
            first, second = (hop, hop + 1) if adjacent else (0, 1)
            keys, values = (self._memory(i, stories, valid) for i in (first, second))
            scores = jnp.einsum("bd,bmd->bm", u, keys)
            weights = masked_softmax(scores, valid)
            if linear is not None:
                weights = jnp.where(linear[:, None], scores.astype(weights.dtype), weights)
            read = jnp.einsum("bm,bmd->bd", weights.astype(u.dtype), values)
            if self.between is not None and hop:
                u = self.between(u)
            u = u + read
            if self.config.nonlinear and hop + 1 < self.config.hops:
                half = jnp.arange(u.shape[1]) < u.shape[1] // 2
                u = jnp.where(half[None], jax.nn.relu(u), u)
            maps[f"hop/{hop}"] = weights[:, None, None]
        output = self.words[last] if self.answer is None else self.answer
        logits = output.logits(u)
        return (logits, maps) if capture else logits

    def _memory(
        self, table: int, stories: Int[Array, "B M J"], valid: Bool[Array, "B M"]
    ) -> Float[Array, "B M D"]:
        """Return the encodings of the sentences by one of the tables, 0 where there is none."""
        x = self._encode(self.words[table], stories)
        if self.ages is not None:
            ages = self.ages[table](jnp.arange(stories.shape[1], dtype=jnp.int32))
            x = x + broadcast_parameter(ages, x.shape)
        return jnp.where(valid[..., None], x, jnp.zeros_like(x))

    def _encode(self, table: Embedding, words: Int[Array, "*batch J"]) -> Float[Array, "*batch D"]:
        """Return the sum of the word vectors, each weighted by its place (section 4.1).

        The weight of word j of J in channel k of d is (1 - j / J) - (k / d) (1 - 2 j / J), with
        both counted from 1; 1 in a bag of words.
        """
        real = words != 0
        x = jnp.where(real[..., None], table(words), jnp.zeros((), table.table[...].dtype))
        if self.config.sentence == "bag":
            return jnp.sum(x, axis=-2)
        J = jnp.maximum(jnp.sum(real, axis=-1, keepdims=True), 1).astype(jnp.float32)
        places = jnp.arange(1, words.shape[-1] + 1, dtype=jnp.float32)
        channels = jnp.arange(1, x.shape[-1] + 1, dtype=jnp.float32) / x.shape[-1]
        j, k = jnp.broadcast_to(places, words.shape) / J, jnp.broadcast_to(channels, x.shape)
        weights = (1 - j)[..., None] - k * (1 - 2 * j)[..., None]
        return jnp.sum(x * weights.astype(x.dtype), axis=-2)
