"""A trained model that writes texts: search and forced decoding, whatever the source is."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int32

from attnzoo.data.tokenizers import Encoding, Tokenizer
from attnzoo.decoding import TokenIds
from attnzoo.decoding.rules import DEFAULT_RULES, Rules
from attnzoo.errors import UserError
from attnzoo.models.sources import Source
from attnzoo.tasks import translation_programs


@dataclasses.dataclass(frozen=True)
class GeneratedText:
    """A text that a model wrote, with attention weights.

    ``weights`` has a row per target token (the end last if it was reached) and a column per token
    or feature of the source, padding included. ``score`` is the log-probability divided by the
    length penalty.
    """

    text: str
    target: Encoding
    score: float
    log_prob: float
    weights: Float[np.ndarray, "T S"]


@dataclasses.dataclass(frozen=True)
class ForcedText:
    """Log-probabilities of a known target, in nats, and the attention of each of its steps.

    Both have an entry per target token, the end last; columns of ``weights`` are those of
    ``GeneratedText``.
    """

    target: Encoding
    log_probs: Float[np.ndarray, "T"]
    weights: Float[np.ndarray, "T S *layers_and_heads"]


class TextGenerator:
    """A model with the tokenizer of its target, for batches of sources of one padded shape.

    Each shape is compiled once. In a model with many cross-attentions ``layer`` selects the
    returned weights (None: by its config) and ``head`` one of its heads (None: their mean). The
    special tokens around a text are those of the tokenizer; weights have no rows for them, except
    for the end token. ``rules`` are those of every search.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 64,
        layer: int | None = None,
        head: int | None = None,
        rules: Rules = DEFAULT_RULES,
    ):
        _choose_layer(model, layer, head)
        self.credits: Literal["predicted", "input"] = model.credits
        self.timings: tuple[Literal["predicted", "input"], ...] = (
            ("predicted", "input") if model.reads_before_attending else ("predicted",)
        )
        self.max_target_length: int | None = model.max_target_length
        self.target_tokenizer = tokenizer
        self.target_frame = tokenizer.frames["target"]
        self.batch_size = batch_size
        self.rules = rules
        ids = ids_of(tokenizer)
        self._ends = rules.end_ids(ids)
        self._graph, self._state = nnx.split(model)
        self._state = nnx.to_pure_dict(self._state)
        self._search = jax.jit(
            functools.partial(translation_programs.search, self._graph, ids, rules),
            static_argnames=("max_length", "beam", "alpha"),
        )
        self._force = jax.jit(
            functools.partial(translation_programs.force, self._graph, ids.pad, head)
        )

    @property
    def model(self) -> Any:
        """A copy of the model."""
        return nnx.merge(self._graph, self._state)

    def bounded(self, max_length: int) -> int:
        """Limit an output length to the number of the model's positions."""
        return min(max_length, self.max_target_length or max_length)

    def check_length(self, max_length: int | None) -> None:
        """Raise a UserError for an output length below 1 or above the number of positions."""
        bound = self.max_target_length
        if max_length is not None and max_length < 1:
            raise UserError(f"max_length={max_length}; wanted at least 1")
        if max_length is not None and bound is not None and max_length > bound:
            raise UserError(
                f"max_length={max_length}, but the model has positions for {bound} target tokens; "
                f"wanted at most {bound}"
            )

    def write(
        self,
        source: Source,
        rows: int | Sequence[Tokenizer],
        *,
        max_length: int,
        beam: int = 5,
        alpha: float = 0.6,
    ) -> list[GeneratedText]:
        """Write a text about each of the first ``rows`` sources of a batch.

        ``rows`` is their number, or the tokenizer of each, with which its text is decoded.
        ``beam=1`` is greedy search; ``alpha`` is the exponent of the length penalty.
        """
        tokenizers = [self.target_tokenizer] * rows if isinstance(rows, int) else rows
        found = self._search(self._state, source, max_length=max_length, beam=beam, alpha=alpha)
        best = (found.tokens, found.lengths, found.log_probs, found.scores, found.weights)
        tokens, lengths, log_probs, scores, weights = jax.device_get([x[:, 0] for x in best])
        written = []
        for row, tokenizer in enumerate(tokenizers):
            said = tokens[row, : lengths[row]].tolist()
            target = tokenizer.decode_words(said)
            steps = self.steps_of(said, target, tokenizer)
            written.append(
                GeneratedText(
                    text=tokenizer.decode(said),
                    target=target,
                    score=float(scores[row]),
                    log_prob=float(log_probs[row]),
                    weights=weights[row, steps],
                )
            )
        return written

    def steps_of(self, said: Sequence[int], target: Encoding, tokenizer: Tokenizer) -> list[int]:
        """Return the steps of a text's tokens among all that were generated, and of its end."""
        steps = [t for t, i in enumerate(said) if i not in tokenizer.hidden]
        return steps[: len(target.ids)] + [t for t in (len(said) - 1,) if self._ended(said)]

    def steps(self, target: Encoding) -> int:
        """Return the number of steps of a known target, its special tokens included."""
        return len(self.target_frame.before) + len(target.ids)

    def read(self, source: Source, targets: Sequence[Encoding], width: int) -> list[ForcedText]:
        """Return log-probabilities and attention of known targets of a batch of sources.

        Targets are padded to ``width`` tokens, their begin and end included.
        """
        # Tokens that are no text, but are predicted all the same.
        forced = len(self.target_frame.before) - 1
        ids = [self.target_frame.around(one.ids) for one in targets]
        target = self.padded(ids, width)
        log_probs, weights = jax.device_get(self._force(self._state, source, target))
        return [
            ForcedText(
                one,
                log_probs[row, forced : self.steps(one)],
                weights[row, forced : self.steps(one)],
            )
            for row, one in enumerate(targets)
        ]

    def padded(self, rows: Sequence[list[int]], width: int) -> np.ndarray:
        """Return ids as a batch, filled up with padding."""
        return pad_rows(rows, self.batch_size, width, self.target_tokenizer.pad_id)

    def _ended(self, ids: Sequence[int]) -> bool:
        """Return whether the last token is an end that is no word of the text."""
        return bool(ids) and ids[-1] in self._ends and ids[-1] in self.target_tokenizer.hidden


def pad_rows(
    rows: Sequence[Sequence[int]], count: int, width: int, pad: int
) -> Int32[np.ndarray, "B T"]:
    """Return ids as ``count`` rows, filled up with padding."""
    padded = np.full((count, width), pad, np.int32)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def ids_of(tokenizer: Tokenizer) -> TokenIds:
    """Return the special token ids with which a target is decoded."""
    frame = tokenizer.frames["target"]
    return TokenIds(tokenizer.pad_id, frame.before[0], frame.after[0], tokenizer.never)


def rules_of(tokenizer: Tokenizer) -> Rules:
    """Return the rules of a search that the special tokens before a target ask for.

    A target of a translator of several languages begins with its language, behind the token that
    starts a search.
    """
    before = tokenizer.frames["target"].before
    return dataclasses.replace(DEFAULT_RULES, first=before[1]) if len(before) > 1 else DEFAULT_RULES


def _choose_layer(model: Any, layer: int | None, head: int | None) -> None:
    """Select the layer whose weights a model returns; ValueError for an unknown layer or head."""
    layers = model.layers
    if layer is not None and not 0 <= layer < layers:
        raise ValueError(f"layer={layer}; the decoder's layers are 0 .. {layers - 1}")
    model.alignment_layer = model.alignment_layer if layer is None else layer
    heads = model.heads
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head={head}; the cross-attention's heads are 0 .. {heads - 1}")
