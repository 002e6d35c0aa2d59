"""Alignment of tokenized sentence pairs by a trained word aligner, a window of pairs at a time."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.data.tokenizers import Tokenizer
from attnzoo.special_tokens import EOS
from attnzoo.tasks.translation import padded_length

Words = Sequence[str]
Matrices = tuple[Float[np.ndarray, "T S"], Float[np.ndarray, "S T"]]

CELLS = 4096
"""Tokens of a batch, source and target with padding."""
WINDOW = 2048
"""Pairs that are in memory, sorted by length into batches."""


class WordReader:
    """A trained ``WordAligner`` with its tokenizers; each length is compiled once."""

    def __init__(self, model: Any, source: Tokenizer, target: Tokenizer):
        self.tokenizers, self.max_length = (source, target), model.max_length
        graph, state = nnx.split(model)
        self._state = nnx.to_pure_dict(state)
        self._run = jax.jit(lambda state, *arrays: _probabilities(nnx.merge(graph, state), *arrays))

    def matrices(
        self, sources: Sequence[Words], targets: Sequence[Words]
    ) -> Iterator[Matrices | None]:
        """Yield p(source word | target word) and p(target word | source word) of each pair.

        A row sums to 1 less the probability of the null word. Rows are 0 for a word without tokens,
        and for all words of a pair with an empty side. None for a pair that is too long.
        """
        pairs = zip(sources, targets, strict=True)
        while window := list(islice(pairs, WINDOW)):
            yield from self._window(window)

    def _window(self, pairs: Sequence[tuple[Words, Words]]) -> list[Matrices | None]:
        tokens = [[_encode(t, words) for t, words in zip(self.tokenizers, pair)] for pair in pairs]
        found: list[Any] = [
            (np.zeros((len(t), len(s)), np.float32), np.zeros((len(s), len(t)), np.float32))
            for s, t in pairs
        ]
        groups: dict[int, list[int]] = {}
        for row, sides in enumerate(tokens):
            longest = max(len(ids) for ids, _ in sides) + 1
            if longest > self.max_length:
                found[row] = None
            elif all(ids for ids, _ in sides):
                width = min(padded_length(longest), self.max_length)
                groups.setdefault(width, []).append(row)
        for width, rows in groups.items():
            size = max(CELLS // (2 * width), 1)
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                arrays = _padded([tokens[row] for row in batch], size, width)
                forward, backward = jax.device_get(self._run(self._state, *arrays))
                for place, row in enumerate(batch):
                    # A sentence has at most as many words with tokens as tokens.
                    (T, S), (a, b) = found[row][0].shape, found[row]
                    a[:width, :width] = forward[place, :T, :S]
                    b[:width, :width] = backward[place, :S, :T]
        return found


def _encode(tokenizer: Tokenizer, words: Words) -> tuple[list[int], list[int]]:
    """Return the ids of words, and the number of the word of each."""
    ids, lengths = tokenizer.encode_many(words)
    return ids.tolist(), np.repeat(np.arange(len(words)), lengths).tolist()


def _padded(pairs: Sequence[Any], size: int, width: int) -> list[np.ndarray]:
    ids = np.zeros((2, size, width), np.int32)
    words = np.full((2, size, width), -1, np.int32)
    for place, sides in enumerate(pairs):
        for side, (tokens, numbers) in enumerate(sides):
            ids[side, place, : len(tokens) + 1] = [*tokens, EOS]
            words[side, place, : len(numbers)] = numbers
    return [*ids, *words]


def _probabilities(
    model: Any, *arrays: Array
) -> tuple[Float[Array, "B T S"], Float[Array, "B S T"]]:
    found = model(*arrays)
    forward, backward = (jnp.exp(logs[:, :, :-1]) for logs in found.log_probs())
    pairs = found.target[:, :, None] & found.source[:, None, :]
    return jnp.where(pairs, forward, 0.0), jnp.where(jnp.swapaxes(pairs, 1, 2), backward, 0.0)
