"""Transcription by Whisper: a window of fixed length, a prompt, and times of words by its heads."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from attnzoo.alignment.monotonic import token_starts
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.speech import padded_samples
from attnzoo.data.tokenizers import Encoding, Tokenizer
from attnzoo.decoding.rules import Rules
from attnzoo.errors import UserError
from attnzoo.models.sources import Source
from attnzoo.ops.spectrogram import HOP_SECONDS, hop_size, long_log_mel
from attnzoo.tasks.long_transcripts import LongTranscript, transcribed
from attnzoo.tasks.prediction import Prediction, PredictSettings
from attnzoo.tasks.speech import Samples, SpeechTask, features
from attnzoo.tasks.task import Batch
from attnzoo.tasks.text_generator import GeneratedText, TextGenerator, ids_of, pad_rows
from attnzoo.tasks.translation_programs import searched

Heads = tuple[tuple[int, int], ...]
"""Layer and head of cross-attentions."""


@dataclasses.dataclass(frozen=True)
class Hearing:
    """Settings of a Whisper beyond its weights.

    Attributes:
      rules: prompt, languages, forced and forbidden tokens.
      timed: the same for transcripts with time tokens; None: the model has none.
      heads: cross-attentions that align; None: those of the later half of the layers.
      width: width of the median filter over their weights, odd.
      languages: codes of languages by token.
    """

    rules: Rules
    heads: Heads | None = None
    width: int = 7
    languages: Mapping[int, str] = dataclasses.field(default_factory=dict)
    timed: Rules | None = None


@dataclasses.dataclass(frozen=True)
class Transcript(GeneratedText):
    """A transcript with the weights of all alignment heads.

    Attributes:
      heads: a row for each row of ``weights``, the mean over these heads.
      language: token of the detected language; None: it was not detected.
    """

    heads: Float[np.ndarray, "N T S"]
    language: int | None


class Transcriber(TextGenerator):
    """Whisper with its tokenizer, for batches of windows; weights are those of ``heads``."""

    def __init__(self, model: Any, tokenizer: Tokenizer, *, heads: Heads, **more: Any):
        super().__init__(model, tokenizer, **more)
        if self.max_target_length is not None:  # the start token has a position too
            self.max_target_length -= self.rules.prompt_length + 1
        self._align = jax.jit(functools.partial(align, self._graph, heads))
        self._transcribe = jax.jit(
            functools.partial(transcribe, self._graph, ids_of(tokenizer), self.rules, heads),
            static_argnames=("max_length", "beam", "alpha"),
        )
        self._hear = jax.jit(
            functools.partial(hear, self._graph, ids_of(tokenizer)),
            static_argnums=2,
            static_argnames=("max_length", "beam", "alpha"),
        )

    def aligned(
        self, source: Source, targets: Sequence[Encoding]
    ) -> list[Float[np.ndarray, "N T S"]]:
        """Return the weights of the heads for known texts, a row for each token and the end.

        The language is that of the rules, which must not leave it to be detected.
        """
        if self.rules.languages:
            raise UserError("aligned: the language is not known; wanted a source_language")
        frame = self.target_frame
        rows = [frame.around(one.ids) for one in targets]
        width = max(map(len, rows))
        tokens = pad_rows(rows, len(rows), width, self.target_tokenizer.pad_id)
        weights = jax.device_get(self._align(self._state, source, tokens[:, :-1]))
        before = len(frame.before) - 1
        return [
            one[:, before : before + len(target.ids) + 1]
            for one, target in zip(weights, targets, strict=True)
        ]

    def long_transcript(
        self, samples: Samples, rules: Rules, *, max_length: int, beam: int, alpha: float
    ) -> LongTranscript:
        """Write a transcript of a sound of any length, in segments with times.

        ``rules`` have time tokens. A language to be detected is that of the first window.
        """
        assert rules.times is not None
        encoder, ids = self.model.source_encoder, ids_of(self.target_tokenizer)
        first_time, ends = rules.times.first, rules.end_ids(ids)
        language, log_prob = None, 0.0

        def listen(frames: Float[np.ndarray, "W M"]) -> list[int]:
            nonlocal language, log_prob, rules
            found, heard = self._hear(
                self._state, frames[None], rules, max_length=max_length, beam=beam, alpha=alpha
            )
            best = [x[0, 0] for x in (found.tokens, found.lengths, found.log_probs)]
            (written, length, scored), heard = jax.device_get((best, heard))
            if heard is not None:
                language = int(heard[0])
                known = (language, *rules.prompt)
                rules = dataclasses.replace(rules, languages=(), prompt=known)
            log_prob += float(scored)
            tokens = written[:length].tolist()
            return tokens[:-1] if tokens and tokens[-1] in ends else tokens

        frames = long_log_mel(
            samples, encoder.rate, encoder.mels, silence=encoder.window, highest=encoder.highest
        )
        count = len(frames) - encoder.window
        found = transcribed(
            frames, count, encoder.window, HOP_SECONDS, encoder.seconds, first_time, listen
        )
        decode = self.target_tokenizer.decode
        return LongTranscript(
            text=decode([token for one in found for token in one.ids]),
            target=Encoding([], [], []),
            score=log_prob,
            log_prob=log_prob,
            weights=np.zeros((0, 0), np.float32),
            segments=tuple(dataclasses.replace(one, text=decode(one.ids)) for one in found),
            language=language,
        )

    def transcripts(
        self, source: Source, rows: int, *, max_length: int, beam: int, alpha: float
    ) -> list[Transcript]:
        """Write a transcript of each of the first ``rows`` windows of a batch."""
        found, *more = self._transcribe(
            self._state, source, max_length=max_length, beam=beam, alpha=alpha
        )
        best = [x[:, 0] for x in (found.tokens, found.lengths, found.log_probs, found.scores)]
        (tokens, lengths, log_probs, scores), language, heads = jax.device_get([best, *more])
        written = []
        for row in range(rows):
            said = tokens[row, : lengths[row]].tolist()
            target = self.target_tokenizer.decode_words(said)
            steps = self.steps_of(said, target, self.target_tokenizer)
            weights = heads[row][:, steps]
            written.append(
                Transcript(
                    text=self.target_tokenizer.decode(said),
                    target=target,
                    score=float(scores[row]),
                    log_prob=float(log_probs[row]),
                    weights=weights.mean(axis=0),
                    heads=weights,
                    language=None if language is None else int(language[row]),
                )
            )
        return written


def align(graph, heads, state, source, tokens):
    """Return the weights ``B N T S`` of the steps that read known tokens, the prompt among them."""
    model = nnx.merge(graph, state)
    model.alignment_heads = heads
    memory, begun = model.start(source, max_length=tokens.shape[1])
    return model.extend(tokens, begun, memory)[2]


def hear(graph, ids, state, source, rules, *, max_length: int, beam: int, alpha: float):
    """Return hypotheses and the languages ``B``."""
    model = nnx.merge(graph, state)
    found, begun = searched(model, ids, rules, source, max_length, beam, alpha)
    return found, begun.language


def transcribe(
    graph, ids, rules, heads, state, source, *, max_length: int, beam: int, alpha: float
):
    """Return hypotheses, the languages ``B``, and the weights ``B N T S`` of the best ones.

    Row t of the weights is that of the step that predicts token t.
    """
    model = nnx.merge(graph, state)
    found, begun = searched(model, ids, rules, source, max_length, beam, alpha)
    # Again, now with the weights of every head apart.
    model.alignment_heads = heads
    read = jnp.concatenate([begun.token[:, None], found.tokens[:, 0, :-1]], axis=1)
    _, _, weights = model.extend(read, begun.state, begun.memory)
    return found, begun.language, weights


class TranscriptionTask(SpeechTask):
    """Transcription by a pretrained Whisper: its windows, its prompt, its times of words."""

    predict_options = (*SpeechTask.predict_options, "heads", "timestamps")

    def __init__(self, config: ExperimentConfig, tokenizer: Tokenizer, hearing: Hearing):
        super().__init__(config, tokenizer)
        self.hearing = hearing

    @property
    def heads(self) -> Heads:
        """Heads that align: those of the folder, or all of the later half of the layers."""
        model: Any = self.config.model
        layers = range(model.decoder_layers // 2, model.decoder_layers)
        every = itertools.product(layers, range(model.cross_attention.num_heads))
        return self.hearing.heads or tuple(every)

    def checked(self, heads: Heads) -> Heads:
        """Return the heads; UserError for one that the model lacks."""
        model: Any = self.config.model
        layers, count = model.decoder_layers, model.cross_attention.num_heads
        for layer, head in heads:
            if not (0 <= layer < layers and 0 <= head < count):
                raise UserError(
                    f"alignment head {layer}.{head}: wanted LAYER.HEAD with a layer from 0 to "
                    f"{layers - 1} and a head from 0 to {count - 1}"
                )
        return heads

    def collate(self, sources: Sequence[Samples], rows: int) -> Batch:
        """Return as many windows as there are sounds: a window costs seconds on a CPU."""
        model: Any = self.config.model
        width = model.source.length * model.source.step * hop_size(self.rate)
        return {"source": padded_samples(sources, len(sources), width)}

    def generator_of(self, model: Any, settings: PredictSettings) -> Transcriber:
        """Return the generator of ``predict``, with the heads that were asked for."""
        return Transcriber(
            model,
            self.tokenizer,
            heads=self.heads if settings.heads is None else self.checked(settings.heads),
            batch_size=settings.batch_size or self.config.decoding.batch_size,
            rules=self.hearing.rules,
        )

    def write(
        self, generator: Any, sources: Sequence[Samples], settings: PredictSettings
    ) -> list[GeneratedText]:
        """Write a transcript of each sound with a :class:`Transcriber`."""
        decoding = self.config.decoding
        generator.check_length(settings.max_length)
        limit = settings.max_length or generator.bounded(decoding.max_length)
        search: dict[str, Any] = {
            "max_length": limit,
            "beam": settings.beam or decoding.beam,
            "alpha": decoding.length_penalty,
        }
        timed, short, texts = self.hearing.timed, [], {}
        if settings.timestamps and timed is None:
            raise UserError("timestamps: generation_config.json has no no_timestamps_token_id")
        for number, sound in enumerate(sources):
            if timed is None or not (settings.timestamps or self._is_long(sound)):
                short.append(number)
            else:
                texts[number] = generator.long_transcript(sound, timed, **search)
        for first in range(0, len(short), generator.batch_size):
            rows = short[first : first + generator.batch_size]
            batch = self.collate([sources[row] for row in rows], len(rows))
            written = generator.transcripts(self._prepared(batch), len(rows), **search)
            texts |= dict(zip(rows, written, strict=True))
        return [texts[number] for number in range(len(sources))]

    def _is_long(self, sound: Samples) -> bool:
        return self.longest is not None and len(sound) > self.longest * self.rate

    def check_seconds(self, seconds: float, name: str) -> None:
        """Raise a UserError for a sound longer than a window, if the model has no time tokens."""
        if self.hearing.timed is None:
            super().check_seconds(seconds, name)

    def times(self, model: Any, text: Transcript, samples: int) -> list[tuple[float, float]]:
        """Return start and end of each word in seconds, by dynamic time warping over the heads.

        A word ends where the next one begins, the last one where the end of the text does.
        """
        seconds = samples / self.rate
        count = features(model, samples, self.rate)
        if not len(text.target.words) or not text.heads.shape[1]:
            return []
        starts = token_starts(text.heads[:, :, :count], self.hearing.width)
        starts = starts * model.source_encoder.seconds
        ends = [*starts[len(text.target.ids) :], seconds][0]
        firsts = np.searchsorted(text.target.word_ids, range(len(text.target.words)))
        firsts = np.minimum(firsts, len(text.target.ids) - 1)  # a token may have several words
        cuts = [*starts[firsts].tolist(), float(ends)]
        return list(pairwise(cuts))

    def prediction(self, model: Any, name: str, source: Any, text: Any) -> Prediction:
        """Return the transcript with the times of its words, and a picture of both.

        A transcript with time tokens has the times of its segments instead, and no picture.
        """
        if isinstance(text, LongTranscript):
            record = {
                "text": text.text,
                "log_prob": round(text.log_prob, 4),
                "seconds": round(len(source) / self.rate, 3),
                "segments": [
                    {"start": round(one.start, 2), "end": round(one.end, 2), "text": one.text}
                    for one in text.segments
                ],
            }
            found = Prediction(name, text.text, record)
        else:
            times = self.times(model, text, len(source))
            found = self.timed(model, name, source, text, times)
        languages = self.hearing.languages
        if text.language is None:
            return found
        record = {**found.record, "language": languages.get(text.language)}
        return dataclasses.replace(found, record=record)
