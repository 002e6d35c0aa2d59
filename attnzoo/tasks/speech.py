"""Speech recognition: transcripts of sounds, their error rates, and the times of their words."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float64

from attnzoo import plotting
from attnzoo.alignment.monotonic import segment_starts
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.corpus import Splits, load_corpus
from attnzoo.data.sound import read_sound
from attnzoo.data.speech import SpeechPlan, Utterances, padded_samples
from attnzoo.data.tokenizers import Encoding
from attnzoo.errors import UserError
from attnzoo.ops.spectrogram import HOP_SECONDS, hop_size, log_mel
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.prediction import Evaluation, Prediction, PredictSettings
from attnzoo.tasks.task import Batch
from attnzoo.tasks.text_generator import GeneratedText, TextGenerator
from attnzoo.tasks.to_text import ToTextTask
from attnzoo.tasks.translation import padded_length, translation_loss
from attnzoo.tasks.word_error import ErrorCount, errors, total

NEAR = 0.05
"""Seconds within which a boundary between two words counts as found."""
CHUNK = 1024
"""Most sounds that are in memory at a time."""
Samples = np.ndarray


class SpeechTask(ToTextTask):
    """Transcription of sounds, which the encoder ``model.source`` makes features of."""

    predicts = "sounds (WAV, FLAC)"

    @property
    def rate(self) -> int:
        """Samples in a second of the sounds that the model reads."""
        model: Any = self.config.model
        return model.source.rate

    @classmethod
    def read(cls, config: ExperimentConfig) -> Splits[Utterances]:
        """List the sounds and read their texts."""
        return load_corpus(config.data)

    @classmethod
    def texts(cls, data: Any) -> Iterator[str]:
        """Yield the texts of the training part."""
        yield from data.train.texts

    def take(self, data: Splits[Utterances]) -> None:
        """Make the plans of the parts."""
        self.limit_buckets(len(data.train))
        self.train = self.plan(data.train, shuffle=True)
        self.validation = self.plan(data.validation, shuffle=False)
        self.test = self.plan(data.test, shuffle=False) if len(data.test) else None
        self.data_fingerprint = data.fingerprint()

    def open_part(self, data: Splits[Utterances], part: str) -> SpeechPlan:
        """Return the batches of one part, and set ``data_fingerprint``."""
        utterances = getattr(data, part)
        self.data_fingerprint = utterances.fingerprint()
        return self.plan(utterances, shuffle=False)

    def plan(self, utterances: Utterances, *, shuffle: bool) -> SpeechPlan:
        """Return the batches of one part; UserError for sounds longer than the model reads."""
        self.check_seconds(float(utterances.seconds.max()), "data")
        settings = self.config.training
        return SpeechPlan(
            utterances,
            self.encode(utterances.texts),
            self.rate,
            settings.batch_size,
            spans=self.spans(utterances) if shuffle and self.settings.guided else None,
            seed=settings.seed,
            shuffle=shuffle,
            max_buckets=self.max_buckets or self.limit_buckets(len(utterances)),
        )

    def spans(self, utterances: Utterances) -> list[np.ndarray]:
        """Return the known times of the word of each token, and NaN for the end of each text."""
        if utterances.times is None:
            raise UserError(
                f"task.guided={self.settings.guided:g}: the times of words are not known in this "
                "data; wanted data.kind=spliced, or task.guided=0"
            )
        found = []
        for text, times in zip(utterances.texts, utterances.times, strict=True):
            words = self.tokenizer.encode(text).word_ids
            found.append(np.asarray([*(times[word] for word in words), (np.nan, np.nan)]))
        return found

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the ``translation_loss``, and in training that of guided attention."""
        if rngs is None or "spans" not in batch:
            return super().loss(model, batch, rngs=rngs)
        source, target = self.source(batch, rngs), jnp.asarray(batch["target"])
        logits, weights = model(source, target[:, :-1], rngs=rngs, return_weights=True)
        settings = self.config.training
        loss, sums = translation_loss(
            model,
            {"source": source, "target": target},
            label_smoothing=settings.label_smoothing,
            per=settings.loss_per,
            logits=logits,
        )
        encoder = model.source_encoder
        guided = guided_loss(
            jnp.mean(weights, axis=1),
            jnp.asarray(batch["spans"]),
            first=encoder.centre * HOP_SECONDS,
            step=encoder.seconds,
        )
        return loss + self.settings.guided * guided, sums

    @property
    def longest(self) -> float | None:
        """Seconds of the longest sound that the model has positions for; None: any."""
        model: Any = self.config.model
        slots = model.source_slots
        return None if slots is None else slots * model.source.step * HOP_SECONDS

    def check_seconds(self, seconds: float, name: str) -> None:
        """Raise a UserError for a sound that has more features than the model has positions."""
        if self.longest is not None and seconds > self.longest:
            raise UserError(
                f"{name}: a sound of {seconds:.2f} s; the model has positions for "
                f"{self.longest:.2f} s"
            )

    def source(self, batch: Batch, rngs: nnx.Rngs | None = None) -> Array:
        """Return the samples; the encoder masks them in training."""
        samples: Any = batch["source"]
        return samples

    def open_source(self, path: Path) -> Samples:
        """Read a sound at the rate of the model."""
        samples = read_sound(path, self.rate)
        if len(samples) < hop_size(self.rate):
            raise UserError(f"{path}: shorter than {HOP_SECONDS:g} s")
        self.check_seconds(len(samples) / self.rate, str(path))
        return samples

    def size(self, source: Samples) -> int:
        """Return the number of frames, rounded up to one of few."""
        return padded_length(-(-len(source) // hop_size(self.rate)))

    def collate(self, sources: Sequence[Samples], rows: int) -> Batch:
        """Return the sounds as a batch."""
        width = max(map(self.size, sources)) * hop_size(self.rate)
        return {"source": padded_samples(sources, rows, width)}

    def introduction(self) -> str:
        """Describe the number of sounds and their lengths."""
        plan: Any = self.train
        seconds = plan.utterances.seconds
        return (
            f"{len(seconds):,} sounds, {seconds.sum() / 3600:.2f} h, {plan.steps_per_epoch} steps "
            f"an epoch, lengths {[f'{length * HOP_SECONDS:.2f} s' for length in plan.buckets]}; "
            f"vocabulary {self.tokenizer.vocab_size}"
        )

    def word_starts(
        self, model: Any, weights: Float[np.ndarray, "T S"], target: Encoding, samples: int
    ) -> Float64[np.ndarray, " words"] | None:
        """Return the time of the start of each word in seconds, by monotone search over weights.

        A word's weights are the mean of its tokens'; the first word starts at 0. None for a text
        with no word, or with more words than features.
        """
        words = len(target.words)
        count = features(model, samples, self.rate)
        if not 0 < words <= count:
            return None
        rows = np.zeros((words, count))
        for number in range(words):
            mine = [t for t, word in enumerate(target.word_ids) if word == number]
            if mine:
                rows[number] = weights[mine, :count].mean(axis=0)
        encoder = model.source_encoder
        frames = (segment_starts(rows) - 0.5) * encoder.step + encoder.centre
        return np.maximum(frames * HOP_SECONDS, 0.0)

    def prediction(self, model: Any, name: str, source: Any, text: GeneratedText) -> Prediction:
        """Return the transcript with the times of its words, and a picture of both."""
        starts = self.word_starts(model, text.weights, text.target, len(source))
        ends = [] if starts is None else [*starts[1:], len(source) / self.rate]
        times = list(zip([] if starts is None else starts.tolist(), ends))
        return self.timed(model, name, source, text, times)

    def timed(
        self,
        model: Any,
        name: str,
        source: Samples,
        text: GeneratedText,
        times: Sequence[tuple[float, float]],
    ) -> Prediction:
        """Return a transcript with the times of its words; without times it has no picture."""
        words, seconds = text.target.words if times else [], len(source) / self.rate
        record = {
            "text": text.text,
            "log_prob": round(text.log_prob, 4),
            "seconds": round(seconds, 3),
            "words": [
                {"word": word, "start": round(float(start), 3), "end": round(float(end), 3)}
                for word, (start, end) in zip(words, times)
            ],
        }
        figure = None
        if words:
            figure = lambda: self.picture(model, source, text, times)  # noqa: E731
        return Prediction(name, text.text, record, figure)

    def picture(
        self,
        model: Any,
        source: Samples,
        text: Any,
        times: Sequence[tuple[float, float]],
        known: Sequence[tuple[float, float]] | None = None,
    ) -> plotting.Figure:
        """Draw the weights of a text's tokens under the spectrogram of the sound."""
        encoder = model.source_encoder
        frames = log_mel(jnp.asarray(source)[None], encoder.rate, encoder.mels).frames[0]
        count = features(model, len(source), self.rate)
        return plotting.speech_alignment(
            np.asarray(frames),
            text.weights[: len(text.target.ids), :count],
            self.tokenizer.parts(text.target),
            text.target.words,
            times,
            known=known,
            first=encoder.centre * HOP_SECONDS,
            step=encoder.seconds,
        )

    def evaluate(self, model: Any, part: str, plan: Any, settings: PredictSettings) -> Evaluation:
        """Score transcripts: word and character error rate, and the boundaries between words.

        Boundaries are those of the reference, read by forced decoding.
        """
        generator = self.generator(model, batch_size=settings.batch_size)
        utterances: Utterances = plan.utterances
        transcripts: list[str] = []
        cuts: list[tuple[float, float, float]] = []
        for rows in np.array_split(range(len(utterances)), -(-len(utterances) // CHUNK)):
            sounds = [utterances.sound(row, self.rate) for row in rows]
            transcripts += [one.text for one in self.write(generator, sounds, settings)]
            if utterances.times is not None:
                cuts += self.cuts(generator, model, sounds, utterances.select(rows))
        return report(utterances.texts, transcripts, cuts)

    def cuts(
        self, generator: TextGenerator, model: Any, sounds: Sequence[Samples], known: Utterances
    ) -> list[tuple[float, float, float]]:
        """Return where attention cuts between two words, and the ends of the silence there.

        All in seconds; the cut is infinite in a text that has more words than features.
        """
        assert known.times is not None
        found = []
        forced = self.read_texts(generator, sounds, known.texts)
        for sound, one, times in zip(sounds, forced, known.times, strict=True):
            starts = self.word_starts(model, one.weights, one.target, len(sound))
            if starts is None or len(starts) != len(times):
                starts = np.full(len(times), np.inf)
            pairs = pairwise(times)
            found += [(cut, a[1], b[0]) for cut, (a, b) in zip(starts[1:].tolist(), pairs)]
        return found

    def glimpse(self, model: Any) -> tuple[str, plotting.Figure] | None:
        """Draw the alignment of the first validation sound with its known text."""
        plan: Any = self.validation
        if plan is None:
            return None
        utterances = plan.utterances.select([0])
        sound = utterances.sound(0, self.rate)
        generator = self.generator(model, batch_size=1)
        forced = self.read_texts(generator, [sound], utterances.texts)[0]
        starts = self.word_starts(model, forced.weights, forced.target, len(sound))
        if starts is None:
            return None
        times = list(zip(starts.tolist(), [*starts[1:].tolist(), len(sound) / self.rate]))
        known = None if utterances.times is None else utterances.times[0]
        return "alignment", self.picture(model, sound, forced, times, known)


def guided_loss(
    weights: Float[Array, "B T S"], spans: Float[Array, "B T 2"], *, first: float, step: float
) -> Float[Array, ""]:
    """Return the mean cross-entropy of weights and uniform ones over the spans, in nats.

    Feature s lies at ``first + s step`` seconds. Rows whose span is NaN, or has no feature in it,
    do not count.
    """
    times = first + step * jnp.arange(weights.shape[2], dtype=weights.dtype)[None, None]
    inside = (times >= spans[..., :1]) & (times <= spans[..., 1:])  # never for NaN
    count = jnp.sum(inside, axis=2)
    logs = jnp.where(inside, jnp.log(jnp.maximum(weights, 1e-6)), 0.0)
    rows = -jnp.sum(logs, axis=2) / jnp.maximum(count, 1).astype(weights.dtype)
    return jnp.sum(rows) / jnp.maximum(jnp.sum(count > 0), 1).astype(weights.dtype)


def features(model: Any, samples: int, rate: int) -> int:
    """Return the number of features of a sound."""
    return -(-(samples // hop_size(rate)) // model.source_encoder.step)


def report(
    references: Sequence[str],
    transcripts: Sequence[str],
    cuts: Sequence[tuple[float, float, float]],
) -> Evaluation:
    """Return the error rates of transcripts, in all and by number of words, and of boundaries.

    Error rates ignore how words are spaced. The ranges of lengths are 1 to 7, 8 to 15, 16 to 31,
    ... words. ``cuts`` are those of ``SpeechTask.cuts``: the error of one is its distance from the
    silence between the two words, and also that from the middle of this silence.
    """
    said = [" ".join(text.split()) for text in references]
    heard = [" ".join(text.split()) for text in transcripts]
    words = [errors(a.split(), b.split()) for a, b in zip(said, heard, strict=True)]
    of_words, letters = total(words), total([errors(a, b) for a, b in zip(said, heard)])
    wrong = sum(a != b for a, b in zip(said, heard))
    scores: dict[str, Any] = {
        "wer": of_words.rate,
        "cer": letters.rate,
        "sentence_error": wrong / max(len(said), 1),
        "words": of_words._asdict(),
    }
    lines = [
        f"word error rate       {of_words.rate:6.2%}   {_told(of_words)}",
        f"character error rate  {letters.rate:6.2%}",
        f"texts with an error   {scores['sentence_error']:6.2%}",
    ]
    ranges: dict[str, list[ErrorCount]] = {}
    for count in sorted(words, key=lambda one: one.said):
        low = 1 if count.said < 8 else 2 ** (count.said.bit_length() - 1)
        ranges.setdefault(f"{low}-{max(2 * low - 1, 7)}", []).append(count)
    scores["by_length"] = [
        {"words": name, "texts": len(counts), "wer": total(counts).rate}
        for name, counts in ranges.items()
    ]
    if len(ranges) > 1:
        lines.append("word error rate by number of words:")
        lines += [
            f"  {row['words']:>7}  {row['texts']:6,} texts  {row['wer']:6.2%}"
            for row in scores["by_length"]
        ]
    if cuts:
        cut, end, start = np.asarray(cuts).T
        outside = np.maximum(np.maximum(end - cut, cut - start), 0.0)
        middle = np.abs(cut - (end + start) / 2)
        scores |= {
            "boundaries": len(cuts),
            "boundaries_within_50_ms": float(np.mean(outside <= NEAR)),
            "boundaries_within_50_ms_of_middle": float(np.mean(middle <= NEAR)),
            "boundary_median_ms": 1000 * float(np.median(middle)),
        }
        near, central = (scores[f"boundaries_within_50_ms{name}"] for name in ("", "_of_middle"))
        lines.append(
            f"boundaries of words   {near:.1%} of {len(cuts):,} within 50 ms of the silence, "
            f"{central:.1%} of its middle; median {scores['boundary_median_ms']:.0f} ms from it"
        )
    files = {"hypotheses.txt": "".join(f"{text}\n" for text in transcripts)}
    return Evaluation(scores, tuple(lines), files)


def _told(count: ErrorCount) -> str:
    return (
        f"{count.substitutions:,} replaced, {count.deletions:,} left out, {count.insertions:,} "
        f"added, of {count.said:,} words"
    )
