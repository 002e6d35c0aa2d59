"""Translation: the loss of a batch of sentence pairs, and a translator for whole texts.

A batch is a dict of int32 ids padded with 0: ``source`` B S (words, EOS) and ``target`` B T + 1
(BOS, words, EOS). The model reads ``target[:, :-1]`` and predicts ``target[:, 1:]``.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.alignment import extract
from attnzoo.data.tokenizers import Encoding, Tokenizer
from attnzoo.decoding import TokenIds
from attnzoo.decoding.rules import DEFAULT_RULES, Rules
from attnzoo.errors import UserError
from attnzoo.special_tokens import PAD
from attnzoo.tasks import translation_programs
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.task import Batch

Progress = Callable[[int, int], None]


def translation_loss(
    model: nnx.Module,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    per: Literal["token", "sentence"] = "token",
    logits: Float[Array, "B T V"] | None = None,
    rngs: nnx.Rngs | None = None,
) -> tuple[Float[Array, ""], Sums]:
    """Return the mean loss per target token, or per sentence, and the sums for scores.

    ``per="sentence"`` sums over the tokens of each sentence. ``rngs`` switches dropout on.
    ``logits`` are those of the model, if they are known. The sums are those of ``mean_loss``;
    ``weight`` is the number of tokens, or of sentences.
    """
    labels = jnp.asarray(batch["target"])[:, 1:]
    if logits is None:
        logits = model(batch["source"], batch["target"][:, :-1], rngs=rngs)
    loss, sums = mean_loss(logits, labels, labels != PAD, label_smoothing)
    if per == "token":
        return loss, sums
    sentences = jnp.sum(jnp.any(labels != PAD, axis=1)).astype(jnp.float32)
    total = loss * jnp.maximum(sums["weight"], 1.0)
    return total / jnp.maximum(sentences, 1.0), {**sums, "weight": sentences}


@dataclasses.dataclass(frozen=True)
class Translation:
    """One translated line, with attention weights.

    ``weights`` has a row per target token (EOS last if it was reached) and a column per source
    token (EOS last). ``score`` is the log-probability divided by the length penalty.
    """

    text: str
    source: Encoding
    target: Encoding
    score: float
    log_prob: float
    weights: Float[np.ndarray, "T S"]


@dataclasses.dataclass(frozen=True)
class ForcedDecoding:
    """Log-probabilities and attention of a known sentence pair.

    ``log_probs`` has one entry per target token (EOS last), in nats. Row t of ``weights`` is the
    attention over source tokens at the step that predicts target token t.
    """

    source: Encoding
    target: Encoding
    log_probs: Float[np.ndarray, "T"]
    weights: Float[np.ndarray, "T S *layers_and_heads"]


class Translator:
    """A trained model with its tokenizers, for translating lines of text.

    Sentences are sorted by length and cut into batches of fixed shapes, so that each length bucket
    is compiled once. Sources longer than ``max_source`` tokens are not accepted. In a model with
    many cross-attentions ``layer`` selects the returned weights (None: by its config) and ``head``
    one of its heads (None: their mean). The special tokens around a sentence are those of the
    tokenizers; weights have no rows and columns for them, except for the end token. ``rules`` are
    those of every search.
    """

    def __init__(
        self,
        model: Any,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        *,
        batch_size: int = 64,
        max_source: int = 512,
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
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer
        self.source_frame = source_tokenizer.frames["source"]
        self.target_frame = target_tokenizer.frames["target"]
        self.batch_size = batch_size
        self.max_source = max_source
        self.rules = rules
        ids = ids_of(target_tokenizer)
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

    def bounded(self, max_length: int) -> int:
        """Limit an output length to the number of the model's positions."""
        return min(max_length, self.max_target_length or max_length)

    def pair(self, source: Encoding, target: Encoding) -> tuple[list[int], list[int]]:
        """Return the ids of a pair as the model reads them, special tokens included."""
        return self.source_frame.around(source.ids), self.target_frame.around(target.ids)

    def source_size(self, encoding: Encoding) -> int:
        """Return the number of tokens of a source, special tokens included."""
        return len(self.source_frame.around(encoding.ids))

    @property
    def model(self) -> Any:
        """A copy of the model."""
        return nnx.merge(self._graph, self._state)

    def translate(
        self,
        lines: Sequence[str],
        *,
        beam: int = 5,
        alpha: float = 0.6,
        max_length: int | None = None,
        progress: Progress | None = None,
    ) -> list[Translation | None]:
        """Translate lines; ``beam=1`` is greedy search. None for an empty or too long line.

        The output has at most ``max_length`` tokens, twice the padded source length plus 10, and as
        many as the model has positions.

        Raises:
          UserError: ``max_length`` below 1, or above the number of positions.
        """
        bound = self.max_target_length
        if max_length is not None and max_length < 1:
            raise UserError(f"max_length={max_length}; wanted at least 1")
        if max_length is not None and bound is not None and max_length > bound:
            raise UserError(
                f"max_length={max_length}, but the model has positions for {bound} target tokens; "
                f"wanted at most {bound}"
            )
        encodings = [self.source_tokenizer.encode(line) for line in lines]
        sizes = [self.source_size(one) for one in encodings]
        fits = [i for i, e in enumerate(encodings) if e.ids and sizes[i] <= self.max_source]
        results: list[Translation | None] = [None] * len(lines)
        done = 0
        for rows, width in self._batches(fits, sizes.__getitem__):
            limit = min(n for n in (max_length, bound, 2 * width + 10) if n is not None)
            around = self.source_frame.around
            source = self._pad([around(encodings[i].ids) for i in rows], width)
            found = self._search(self._state, source, max_length=limit, beam=beam, alpha=alpha)
            best = (found.tokens, found.lengths, found.log_probs, found.scores, found.weights)
            tokens, lengths, log_probs, scores, weights = jax.device_get([x[:, 0] for x in best])
            for row, index in enumerate(rows):
                said = tokens[row, : lengths[row]].tolist()
                tokenizer = self.target_tokenizer.beside(encodings[index])
                target = tokenizer.decode_words(said)
                # A row for each token of the text, and for the end.
                steps = [t for t, i in enumerate(said) if i not in self.target_tokenizer.hidden]
                steps = steps[: len(target.ids)] + [
                    t for t in (len(said) - 1,) if self._ended(said)
                ]
                results[index] = Translation(
                    text=tokenizer.decode(said),
                    source=encodings[index],
                    target=target,
                    score=float(scores[row]),
                    log_prob=float(log_probs[row]),
                    weights=weights[row, steps][:, self._columns(encodings[index])],
                )
            done += len(rows)
            if progress is not None:
                progress(done, len(fits))
        return results

    def force(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> list[ForcedDecoding | None]:
        """Score known pairs: return log-probabilities and attention.

        None if a side is empty or longer than ``max_source`` tokens, or the target longer than the
        model's positions.
        """
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources but {len(targets)} targets")
        left = [self.source_tokenizer.encode(line) for line in sources]
        right = [
            self.target_tokenizer.beside(one).encode(line)
            for one, line in zip(left, targets, strict=True)
        ]
        return self.force_tokens(left, right, progress=progress)

    def force_tokens(
        self,
        left: Sequence[Encoding],
        right: Sequence[Encoding],
        *,
        progress: Progress | None = None,
    ) -> list[ForcedDecoding | None]:
        """Apply ``force`` to tokenized sources and targets."""
        forced = (
            len(self.target_frame.before) - 1
        )  # tokens that are no text, predicted all the same
        room = self.max_source if self.max_target_length is None else self.max_target_length
        sizes = [self.source_size(one) for one in left]
        steps = [forced + len(one.ids) + 1 for one in right]
        longest = [max(pair) for pair in zip(sizes, steps, strict=True)]
        fits = [
            i
            for i in range(len(left))
            if left[i].ids and right[i].ids
            if longest[i] <= self.max_source and steps[i] <= room
        ]
        results: list[ForcedDecoding | None] = [None] * len(left)
        done = 0
        for rows, width in self._batches(fits, longest.__getitem__):
            pairs = [self.pair(left[i], right[i]) for i in rows]
            source = self._pad([pair[0] for pair in pairs], width)
            target = self._pad([pair[1] for pair in pairs], width + 1)
            log_probs, weights = jax.device_get(self._force(self._state, source, target))
            for row, index in enumerate(rows):
                results[index] = ForcedDecoding(
                    source=left[index],
                    target=right[index],
                    log_probs=log_probs[row, forced : steps[index]],
                    weights=weights[row, forced : steps[index]][:, self._columns(left[index])],
                )
            done += len(rows)
            if progress is not None:
                progress(done, len(fits))
        return results

    def survey(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> dict[str, list[ForcedDecoding | None]]:
        """Apply ``force`` with the weights of every head of every layer, and of each layer's mean.

        Keys are "0/0", "0/1", ..., "0/mean", "1/0", ...; a recurrent translator has one layer.
        """
        found: dict[str, list[ForcedDecoding | None]] = {}
        survey = jax.jit(
            functools.partial(
                translation_programs.survey, self._graph, self.target_tokenizer.pad_id
            )
        )
        plain, self._force = self._force, survey
        try:
            everything = self.force(sources, targets, progress=progress)
        finally:
            self._force = plain
        shape = next((one.weights.shape for one in everything if one is not None), (0, 0, 0, 0))
        for place in range(shape[2] * shape[3]):
            layer, head = divmod(place, shape[3])
            name = f"{layer}/{head if head < shape[3] - 1 else 'mean'}"
            found[name] = [
                None
                if one is None
                else dataclasses.replace(one, weights=one.weights[:, :, layer, head])
                for one in everything
            ]
        return found

    def word_matrix(
        self,
        result: "Translation | ForcedDecoding",
        *,
        timing: Literal["auto", "predicted", "input"] = "auto",
    ) -> Float[np.ndarray, "target_words source_words"]:
        """Return the attention between the words of one result, for plots."""
        weights, sources, targets, timing = self._read_off(result, timing)
        return extract.word_matrix(weights, sources, targets, timing=timing)

    def links(
        self,
        result: "Translation | ForcedDecoding",
        *,
        timing: Literal["auto", "predicted", "input"] = "auto",
        level: Literal["word", "token"] = "word",
        between: Literal["words", "tokens"] = "words",
        eos_is_null: bool = False,
    ) -> set[tuple[int, int]]:
        """Return links (source word, target word) of one result: the largest source of each target.

        Words are those of the text, separated by whitespace; ``between`` "tokens" links ids.
        ``timing`` selects the word to which the attention of a step belongs; "auto" follows the
        model's paper (Luong et al. 2015, footnote 14). With ``eos_is_null`` a word that attends
        most to the end of the source has no link.
        """
        weights, sources, targets, timing = self._read_off(result, timing)
        if between == "tokens":
            sources, targets = range(len(sources)), range(len(targets))
        return extract.links_from_weights(
            weights, sources, targets, timing=timing, level=level, eos_is_null=eos_is_null
        )

    def _read_off(self, result, timing):
        timing = self.credits if timing == "auto" else timing
        weights, steps = result.weights, len(result.target.ids) + 1
        if (
            len(weights) < steps
        ):  # a hypothesis cut off before EOS lacks the step that reads its last token
            weights = np.pad(weights, ((0, steps - len(weights)), (0, 0)))
        return weights, result.source.word_ids, result.target.word_ids, timing

    def _columns(self, source: Encoding) -> slice:
        """Return the columns of weights for the tokens of a source and its end."""
        first = len(self.source_frame.before)
        return slice(first, first + len(source.ids) + 1)

    def _ended(self, ids: Sequence[int]) -> bool:
        """Return whether the last token is an end that is no word of the text."""
        return bool(ids) and ids[-1] in self._ends and ids[-1] in self.target_tokenizer.hidden

    def _pad(self, rows: list[list[int]], width: int) -> np.ndarray:
        padded = np.full((self.batch_size, width), self.target_tokenizer.pad_id, np.int32)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return padded

    def _batches(
        self, rows: Iterable[int], length: Callable[[int], int]
    ) -> Iterator[tuple[list[int], int]]:
        ordered = sorted(rows, key=length)
        groups: dict[int, list[int]] = {}
        for row in ordered:
            width = min(padded_length(length(row)), self.max_source)
            groups.setdefault(width, []).append(row)
        for width, group in groups.items():
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size], width


def ids_of(tokenizer: Tokenizer) -> TokenIds:
    """Return the special token ids with which a target is decoded."""
    frame = tokenizer.frames["target"]
    return TokenIds(tokenizer.pad_id, frame.before[0], frame.after[0], tokenizer.never)


def padded_length(length: int) -> int:
    """Return the next of 8, 12, 16, 24, 32, 48, 64, ...: few shapes to compile, little padding."""
    if length <= 8:
        return 8
    power = 2 ** math.floor(math.log2(length - 1))
    return power * 3 // 2 if length <= power * 3 // 2 else power * 2


def _choose_layer(model: Any, layer: int | None, head: int | None) -> None:
    """Select the layer whose weights a model returns; ValueError for an unknown layer or head."""
    layers = model.layers
    if layer is not None and not 0 <= layer < layers:
        raise ValueError(f"layer={layer}; the decoder's layers are 0 .. {layers - 1}")
    model.alignment_layer = model.alignment_layer if layer is None else layer
    heads = model.heads
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head={head}; the cross-attention's heads are 0 .. {heads - 1}")
