"""Base of tasks that write a text about a source that is no text: captions, transcripts."""

import types
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.data.tokenizers import Encoding, Tokenizer, train_tokenizer
from attnzoo.decoding.rules import DEFAULT_RULES, Rules
from attnzoo.errors import UserError
from attnzoo.models import model_class
from attnzoo.models.sources import Source
from attnzoo.special_tokens import PAD
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.prediction import Prediction, PredictSettings
from attnzoo.tasks.run_file import TARGET_TOKENIZER
from attnzoo.tasks.task import Batch, Task
from attnzoo.tasks.text_generator import ForcedText, GeneratedText, TextGenerator
from attnzoo.tasks.translation import padded_length, translation_loss


class ToTextTask(Task):
    """Base class of tasks whose target is a text, and whose source ``model.source`` reads.

    A batch has ``target`` (BOS, words, EOS; int32 ``B T + 1``, padded with 0) and what ``source``
    makes a source of. A subclass writes ``read``, ``texts``, ``take``, ``source``, ``open_source``
    and ``collate``.
    """

    unit = "tokens"
    free = ("decoding", "training.figures_every", "training.figures")
    files = types.MappingProxyType({"tokenizer": TARGET_TOKENIZER})
    predict_options = ("batch_size", "beam", "max_length")
    tokenizer_fields = ("tokenizer",)

    def __init__(self, config: ExperimentConfig, tokenizer: Tokenizer | TextTokenizer):
        super().__init__(config)
        self.tokenizer: Any = tokenizer  # of running text only in a folder of transformers

    @classmethod
    def texts(cls, data: Any) -> Iterator[str]:
        """Yield the texts of the training part, on which the tokenizer is trained."""
        raise NotImplementedError(f"{cls.__name__}.texts")

    @classmethod
    def take_over(cls, config: ExperimentConfig) -> dict[str, Any]:
        """Return the tokenizer of ``config.start_from``, which must be a run with such a target."""
        if config.start_from is None:
            return {}
        file = TARGET_TOKENIZER
        path = config.start_from.expanduser() / file.name
        if not path.exists():
            raise UserError(
                f"start_from={config.start_from}: no {file.name}, so the embeddings would belong "
                "to other words; wanted the directory of a run that writes texts"
            )
        return {"tokenizer": file.read(path)}

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Train the tokenizer on the texts, unless it is known."""
        return known or {"tokenizer": train_tokenizer(config.tokenizer, cls.texts(data))}

    def source(self, batch: Batch, rngs: nnx.Rngs | None = None) -> Source:
        """Return the model's source of a batch, augmented in training (``rngs``)."""
        raise NotImplementedError(f"{type(self).__name__}.source")

    def open_source(self, path: Path) -> Any:
        """Read one source from a file; UserError if it cannot be read."""
        raise NotImplementedError(f"{type(self).__name__}.open_source")

    def size(self, source: Any) -> int:
        """Return the length of an opened source; those of similar length are written together."""
        return 0

    def collate(self, sources: Sequence[Any], rows: int) -> Batch:
        """Return the arrays of a batch of opened sources with ``rows`` rows, without a target."""
        raise NotImplementedError(f"{type(self).__name__}.collate")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of targets, with their begin and end."""
        frame = self.tokenizer.frames["target"]
        return [frame.around(self.tokenizer.encode_ids(text)) for text in texts]

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the model of the config."""
        pad = self.config.model.padding
        if pad != PAD:
            raise ValueError(f"pad_id={pad}, but the tokenizer pads with {PAD}: set it to that")
        model = model_class(self.config.model)
        return model(self.config.model, 0, self.tokenizer.vocab_size, rngs=rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the ``translation_loss`` with the settings of the config."""
        settings = self.config.training
        return translation_loss(
            model,
            {"source": self.source(batch, rngs), "target": batch["target"]},
            label_smoothing=settings.label_smoothing,
            per=settings.loss_per,
            rngs=rngs,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the task's fingerprint with that of the tokenizer."""
        return super().fingerprint() | {"tokenizer": self.tokenizer.fingerprint()}

    def generator(
        self,
        model: Any,
        *,
        batch_size: int | None = None,
        layer: int | None = None,
        head: int | None = None,
        rules: Rules = DEFAULT_RULES,
    ) -> TextGenerator:
        """Return a generator of texts with this task's tokenizer."""
        try:
            return TextGenerator(
                model,
                self.tokenizer,
                batch_size=batch_size or self.config.decoding.batch_size,
                layer=layer,
                head=head,
                rules=rules,
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    def generator_of(self, model: Any, settings: PredictSettings) -> TextGenerator:
        """Return the generator of ``predict``."""
        return self.generator(model, batch_size=settings.batch_size)

    def write(
        self, generator: TextGenerator, sources: Sequence[Any], settings: PredictSettings
    ) -> list[GeneratedText]:
        """Write a text about each opened source; columns of weights are features, padding included.

        Settings that are None are those of the config.
        """
        decoding = self.config.decoding
        generator.check_length(settings.max_length)
        limit = settings.max_length or generator.bounded(decoding.max_length)
        order = sorted(range(len(sources)), key=lambda i: self.size(sources[i]))
        results: dict[int, GeneratedText] = {}
        for first in range(0, len(order), generator.batch_size):
            rows = order[first : first + generator.batch_size]
            batch = self.collate([sources[i] for i in rows], generator.batch_size)
            written = generator.write(
                self._prepared(batch),
                len(rows),
                max_length=limit,
                beam=settings.beam or decoding.beam,
                alpha=decoding.length_penalty,
            )
            results |= dict(zip(rows, written, strict=True))
        return [results[i] for i in range(len(sources))]

    def read_texts(
        self, generator: TextGenerator, sources: Sequence[Any], texts: Sequence[str]
    ) -> list[ForcedText]:
        """Return log-probabilities and attention of known texts about opened sources."""
        targets: list[Encoding] = [self.tokenizer.encode(text) for text in texts]
        order = sorted(range(len(sources)), key=lambda i: self.size(sources[i]))
        results: dict[int, ForcedText] = {}
        for first in range(0, len(order), generator.batch_size):
            rows = order[first : first + generator.batch_size]
            batch = self.collate([sources[i] for i in rows], generator.batch_size)
            some = [targets[i] for i in rows]
            width = padded_length(max(map(generator.steps, some))) + 1
            read = generator.read(self._prepared(batch), some, width)
            results |= dict(zip(rows, read, strict=True))
        return [results[i] for i in range(len(sources))]

    def _prepared(self, batch: Batch) -> Source:
        """Return the source of a batch on the device, for reading."""
        return jax.jit(self.source)(dict(batch))

    def predict(
        self, model: Any, inputs: Sequence[Path], settings: PredictSettings
    ) -> Iterator[Prediction]:
        """Yield the text about every file, in their order; a problem where it cannot be read."""
        generator = self.generator_of(model, settings)
        paths = iter(inputs)
        while some := list(islice(paths, 16 * generator.batch_size)):
            opened: dict[int, Any] = {}
            problems: dict[int, str] = {}
            for number, path in enumerate(some):
                try:
                    opened[number] = self.open_source(path)
                except UserError as error:
                    problems[number] = str(error).removeprefix(f"{path}: ")
            texts = dict(zip(opened, self.write(generator, list(opened.values()), settings)))
            for number, path in enumerate(some):
                if number in problems:
                    yield Prediction(str(path), "", problem=problems[number])
                else:
                    yield self.prediction(model, str(path), opened[number], texts[number])

    def prediction(self, model: Any, name: str, source: Any, text: GeneratedText) -> Prediction:
        """Return the prediction for an opened source; a subclass adds a figure."""
        record = {"text": text.text, "log_prob": round(text.log_prob, 4)}
        return Prediction(name, text.text, record)
