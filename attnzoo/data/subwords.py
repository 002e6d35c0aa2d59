"""BPE and Unigram subwords through the `tokenizers` package, stored as plain JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

# Threads gain little here, and a later fork would print a warning about them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

# A character of the private use area; it is used only in this file.
SECOND = "\ue001"


def train_subwords(
    kind: str,
    pieces: Mapping[str, int],
    *,
    vocab_size: int,
    whole: Sequence[str],
    unknown: str,
) -> dict[str, Any]:
    """Train a model on pieces of text with their counts; return it as JSON.

    BPE: Sennrich et al. 2016; Unigram: Kudo 2018. `whole` are indivisible tokens with the first
    ids. At most half of the vocabulary of BPE is single characters, the most frequent ones.
    """
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=unknown))
        room = max(1, (vocab_size - len(whole)) // 2)
        letters: Counter[str] = Counter()
        for piece, count in pieces.items():
            for letter in piece:
                letters[letter] += count
        # Left to the trainer, ties would be decided by the order of a hash table.
        frequent = sorted(letters, key=lambda letter: (-letters[letter], letter))[:room]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(whole),
            initial_alphabet=frequent if len(letters) > room else [],
            limit_alphabet=room,
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab_size + 1,  # SECOND is left out again
            special_tokens=list(whole),
            unk_token=unknown,
            show_progress=False,
        )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # One line per piece, in an order that does not depend on that of the corpus.
    lines = (" ".join([piece] * count) for piece, count in sorted(pieces.items()))
    if kind == "unigram":
        # The trainer's candidates are only substrings of at least two different pieces, which
        # leaves out every whole word that no other word contains. A second piece adds them.
        lines = chain(lines, (piece + SECOND for piece in sorted(pieces)))
    tokenizer.train_from_iterator(lines, trainer=trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if kind == "unigram":
        model["vocab"] = _reproducible([tuple(entry) for entry in model["vocab"]], len(whole))
    return model


def _reproducible(vocab: list[tuple[str, float]], num_whole: int) -> list[tuple[str, float]]:
    """Make the vocabulary reproducible for trainings on the same text.

    The trainer sums in the order of a hash table: the last digits of the scores differ from run to
    run, and characters without a score get the lowest score plus 0.0001, 0.0002, ... in any order.
    So all of these get the lowest score, and scores are rounded.
    """
    others = [entry for entry in vocab[num_whole:] if SECOND not in entry[0]]
    lowest = min(score for _, score in others)
    highest_unscored = lowest + 0.0001 * sum(len(token) == 1 for token, _ in others)
    level = [
        (token, round(lowest if len(token) == 1 and score < highest_unscored else score, 6))
        for token, score in others
    ]
    return vocab[:num_whole] + sorted(level, key=lambda entry: (-entry[1], entry[0]))


class SubwordModel:
    """A trained model that encodes one piece; characters unseen in training get the unknown id."""

    def __init__(self, kind: str, model: Any, unknown: str) -> None:
        if not isinstance(model, dict):
            raise ValueError(f"the model is a {type(model).__name__}, wanted an object")
        # Built from the vocabulary: the trained object would also match the names of special tokens
        # anywhere in a text.
        if kind == "bpe":
            vocab = {str(token): int(index) for token, index in model["vocab"].items()}
            self.tokens = sorted(vocab, key=vocab.__getitem__)
            if [vocab[token] for token in self.tokens] != list(range(len(vocab))):
                raise ValueError("the ids of the vocabulary are not 0, 1, 2, ...")
            merges = [(str(left), str(right)) for left, right in model["merges"]]
            self._model = models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True)
        else:
            scored = [(str(token), float(score)) for token, score in model["vocab"]]
            self.tokens = [token for token, _ in scored]
            self._model = models.Unigram(scored, self.tokens.index(unknown), False)

        self._ids = {token: index for index, token in enumerate(self.tokens)}

    def encode(self, piece: str) -> list[int]:
        known = self._ids.get(piece)
        if known is not None:
            return [known]
        return [token.id for token in self._model.tokenize(piece)]
