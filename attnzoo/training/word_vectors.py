"""Vectors of the words of sentences: states of an encoder, averaged over a word's tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from attnzoo.alignment.aligner import Words
from attnzoo.alignment.similarity import Encoder, WordVectors
from attnzoo.errors import UserError
from attnzoo.layers.stack import Stack
from attnzoo.models.bert import Bert
from attnzoo.models.encoder_decoder import EncoderDecoder
from attnzoo.special_tokens import EOS
from attnzoo.tasks.translation import padded_length
from attnzoo.training.run import load_run

BATCH = 32
Tokens = tuple[list[int], list[int | None]]
"""Ids of a text, and the word that each belongs to; None for a special token."""


def encoder_of(config: Any) -> Encoder:
    """Return the encoder that a ``SimilarityConfig`` names.

    Raises:
      UserError: no such folder, a model without an encoder or without so many layers, or a run
        whose sides have different vocabularies.
    """
    if config.encoder is None:
        return WordVectors()
    path = Path(config.encoder)
    if (path / "checkpoints").exists() or (path / "best").exists():
        trained = load_run(path)
        translator = trained.translator()
        source, target = translator.source_tokenizer, translator.target_tokenizer
        if source.fingerprint() != target.fingerprint():
            raise UserError(
                f"{path}: its encoder reads the source vocabulary alone; wanted a run with "
                "shared_vocabulary: true"
            )
        model: Any = trained.model
        tokenize = _of_run(source)
    else:
        from attnzoo import pretrained

        model = pretrained.load(path)
        tokenize = _of_folder(pretrained.tokenizer(path))
    return StateVectors(model, tokenize, layer=config.layer, name=str(path))


class StateVectors:
    """Function from sentences to the mean encoder states of each word's tokens.

    Sentences longer than the model are read in parts. ``layer`` is the number of blocks to apply,
    all if None. A word without tokens has a vector of zeros.
    """

    def __init__(
        self,
        model: Any,
        tokenize: Callable[[Words], Tokens],
        *,
        layer: int | None = None,
        name: str = "encoder",
    ):
        stack = getattr(model, "encoder", None)
        if not isinstance(stack, Stack) or not isinstance(model, Bert | EncoderDecoder):
            raise UserError(f"{name}: a {type(model).__name__} has no stack of encoder blocks")
        if layer is not None and layer > stack.depth:
            raise UserError(f"layer={layer}: the encoder of {name} has {stack.depth} blocks")
        if layer is not None:
            model.encoder = Stack(list(stack.unrolled().blocks)[:layer])
        self._tokenize = tokenize
        self._longest = min(model.max_length, 512)
        graph, state = nnx.split(model)
        self._state = state
        self._apply = jax.jit(lambda state, ids, valid: _states(graph, state, ids, valid))

    def __call__(self, sentences: Sequence[Words]) -> list[np.ndarray]:
        """Return the vectors of the words of each sentence, ``words D``."""
        parts = [
            (number, first, self._tokenize(words))
            for number, sentence in enumerate(sentences)
            for first, words in self._parts(sentence, 0)
        ]
        found: list[np.ndarray | None] = [None] * len(sentences)
        parts.sort(key=lambda part: len(part[2][0]))
        for start in range(0, len(parts), BATCH):
            some = parts[start : start + BATCH]
            width = min(padded_length(max(len(ids) for *_, (ids, _) in some)), self._longest)
            ids = np.zeros((BATCH, width), np.int32)
            valid = np.zeros((BATCH, width), bool)
            for row, (*_, (tokens, _)) in enumerate(some):
                ids[row, : len(tokens)], valid[row, : len(tokens)] = tokens, True
            states = np.asarray(self._apply(self._state, ids, valid), np.float32)
            for row, (number, first, (_, words)) in enumerate(some):
                vectors = found[number]
                if vectors is None:
                    shape = len(sentences[number]), states.shape[2]
                    vectors = found[number] = np.zeros(shape, np.float32)
                _average(states[row], words, first, vectors)
        width = next((v.shape[1] for v in found if v is not None), 1)
        return [np.zeros((0, width), np.float32) if v is None else v for v in found]

    def _parts(self, words: Words, first: int) -> list[tuple[int, Words]]:
        """Cut a sentence into parts that fit the model, each with its first word."""
        if not len(words):
            return []
        if len(self._tokenize(words)[0]) <= self._longest:
            return [(first, words)]
        if len(words) == 1:  # one endless word
            return []
        half = len(words) // 2
        return [*self._parts(words[:half], first), *self._parts(words[half:], first + half)]


def _average(states: np.ndarray, words: Sequence[int | None], first: int, out: np.ndarray) -> None:
    count = np.zeros((len(out), 1), np.float32)
    for position, word in enumerate(words):
        if word is not None:
            out[first + word] += states[position]
            count[first + word] += 1
    out /= np.maximum(count, 1)


def _states(graph: Any, state: Any, ids: Any, valid: Any) -> Any:
    model = nnx.merge(graph, state)
    if isinstance(model, Bert):
        return model.states(ids, valid=valid)[0]
    return model.encode(ids, valid=valid)[0]


def _of_folder(tokenizer: Any) -> Callable[[Words], Tokens]:
    def tokenize(words: Words) -> Tokens:
        found = tokenizer.encode(list(words), is_pretokenized=True)
        return found.ids, found.word_ids

    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenize


def _of_run(tokenizer: Any) -> Callable[[Words], Tokens]:
    def tokenize(words: Words) -> Tokens:
        found = tokenizer.encode(" ".join(words))
        return [*found.ids, EOS], [*found.word_ids, None]

    return tokenize
