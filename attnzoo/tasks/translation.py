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
from attnzoo.decoding.rules import DEFAULT_RULES, Rules
from attnzoo.special_tokens import PAD
from attnzoo.tasks import translation_programs
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.task import Batch
from attnzoo.tasks.text_generator import ForcedText, GeneratedText, TextGenerator

Progress = Callable[[int, int], None]


def translation_loss(
    model: nnx.Module,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    per: Literal["token", "sentence"] = "token",
    logits: Float[Array, "B T V"] | None = None,
    rngs: nnx.Rngs | None = None,
    pad: int = PAD,
) -> tuple[Float[Array, ""], Sums]:
    """Return the mean loss per target token, or per sentence, and the sums for scores.

    ``per="sentence"`` sums over the tokens of each sentence. ``rngs`` switches dropout on.
    ``logits`` are those of the model, if they are known; ``pad`` is the padding token. The sums are
    those of ``mean_loss``; ``weight`` is the number of tokens, or of sentences.
    """
    labels = jnp.asarray(batch["target"])[:, 1:]
    if logits is None:
        logits = model(batch["source"], batch["target"][:, :-1], rngs=rngs)
    loss, sums = mean_loss(logits, labels, labels != pad, label_smoothing)
    if per == "token":
        return loss, sums
    sentences = jnp.sum(jnp.any(labels != pad, axis=1)).astype(jnp.float32)
    total = loss * jnp.maximum(sums["weight"], 1.0)
    return total / jnp.maximum(sentences, 1.0), {**sums, "weight": sentences}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation(GeneratedText):
    """One translated line: columns of ``weights`` are those of its source tokens, EOS last."""

    source: Encoding


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForcedDecoding(ForcedText):
    """A known sentence pair: columns of ``weights`` are those of its source tokens, EOS last.

    Row t is the attention at the step that predicts target token t.
    """

    source: Encoding


class Translator(TextGenerator):
    """A trained model with its tokenizers, for translating lines of text.

    Sentences are sorted by length and cut into batches of fixed shapes, so that each length bucket
    is compiled once. Sources longer than ``max_source`` tokens are not accepted. Weights have no
    columns for special tokens of the source, except for its end. Other arguments are those of
    ``TextGenerator``.
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
        super().__init__(
            model, target_tokenizer, batch_size=batch_size, layer=layer, head=head, rules=rules
        )
        self.source_tokenizer = source_tokenizer
        self.source_frame = source_tokenizer.frames["source"]
        self.max_source = max_source

    def pair(self, source: Encoding, target: Encoding) -> tuple[list[int], list[int]]:
        """Return the ids of a pair as the model reads them, special tokens included."""
        return self.source_frame.around(source.ids), self.target_frame.around(target.ids)

    def source_size(self, encoding: Encoding) -> int:
        """Return the number of tokens of a source, special tokens included."""
        return len(self.source_frame.around(encoding.ids))

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
        self.check_length(max_length)
        encodings = [self.source_tokenizer.encode(line) for line in lines]
        sizes = [self.source_size(one) for one in encodings]
        fits = [i for i, e in enumerate(encodings) if e.ids and sizes[i] <= self.max_source]
        results: list[Translation | None] = [None] * len(lines)
        done = 0
        for rows, width in self._batches(fits, sizes.__getitem__):
            limit = min(n for n in (max_length, bound, 2 * width + 10) if n is not None)
            around = self.source_frame.around
            source = self.padded([around(encodings[i].ids) for i in rows], width)
            tokenizers = [self.target_tokenizer.beside(encodings[i]) for i in rows]
            written = self.write(source, tokenizers, max_length=limit, beam=beam, alpha=alpha)
            for index, one in zip(rows, written, strict=True):
                columns = self._columns(encodings[index])
                results[index] = Translation(
                    text=one.text,
                    source=encodings[index],
                    target=one.target,
                    score=one.score,
                    log_prob=one.log_prob,
                    weights=one.weights[:, columns],
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
        room = self.max_source if self.max_target_length is None else self.max_target_length
        sizes = [self.source_size(one) for one in left]
        steps = [self.steps(one) for one in right]
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
            source = self.padded([self.source_frame.around(left[i].ids) for i in rows], width)
            read = self.read(source, [right[i] for i in rows], width + 1)
            for index, one in zip(rows, read, strict=True):
                results[index] = ForcedDecoding(
                    source=left[index],
                    target=right[index],
                    log_probs=one.log_probs,
                    weights=one.weights[:, self._columns(left[index])],
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


def padded_length(length: int) -> int:
    """Return the next of 8, 12, 16, 24, 32, 48, 64, ...: few shapes to compile, little padding."""
    if length <= 8:
        return 8
    power = 2 ** math.floor(math.log2(length - 1))
    return power * 3 // 2 if length <= power * 3 // 2 else power * 2
