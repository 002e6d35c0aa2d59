"""Translation task: sentence pairs, tokenizers, a translator, and plots of alignments."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from attnzoo import plotting
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.batching import BatchPlan, TokenizedPairs
from attnzoo.data.corpus import Corpus
from attnzoo.data.parallel import PairData
from attnzoo.data.tokenizers import Tokenizer
from attnzoo.errors import UserError
from attnzoo.models import model_class
from attnzoo.special_tokens import PAD
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.task import Batch, Task
from attnzoo.tasks.translation import Translator, translation_loss

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Tokenizers:
    """The tokenizer of each side; the same object twice for a shared vocabulary."""

    source: Tokenizer
    target: Tokenizer

    @classmethod
    def train(cls, config: ExperimentConfig, data: PairData) -> "Tokenizers":
        """Train the tokenizers of the config on the training part."""
        return cls(
            *data.tokenizers(
                config.tokenizer, config.target_tokenizer, shared=config.shared_vocabulary
            )
        )

    def save(self, directory: Path) -> None:
        """Write ``source.tokenizer.json`` and ``target.tokenizer.json``."""
        self.source.save(directory / "source.tokenizer.json")
        self.target.save(directory / "target.tokenizer.json")

    @classmethod
    def load(cls, directory: Path) -> "Tokenizers":
        """Read the files of :meth:`save`."""
        return cls(
            Tokenizer.load(directory / "source.tokenizer.json"),
            Tokenizer.load(directory / "target.tokenizer.json"),
        )


class TranslationTask(Task):
    """Translation between the two sides of a parallel corpus."""

    unit = "tokens"
    free = ("decoding", "training.figures_every", "training.figures")

    def __init__(self, config: ExperimentConfig, tokenizers: Tokenizers):
        super().__init__(config)
        self.tokenizers = tokenizers
        self.held_out = Corpus([], [])
        self.pairs = 0
        self.buckets: tuple[int, ...] = ()

    @classmethod
    def open(cls, config: ExperimentConfig, directory: Path) -> "TranslationTask":
        """Load the tokenizers of a run."""
        return cls(config, Tokenizers.load(directory))

    @classmethod
    def create(
        cls, config: ExperimentConfig, directory: Path, *, resume: bool
    ) -> "TranslationTask":
        """Read the corpus; train tokenizers on it, or load those of the run."""
        data = PairData(config.data, config.cache, logger.info)
        if not data.has("train") or not data.has("validation"):
            raise UserError("data: training needs a train and a validation part, one is empty")
        if resume and (directory / "source.tokenizer.json").exists():
            tokenizers = Tokenizers.load(directory)
        else:
            tokenizers = Tokenizers.train(config, data)
            tokenizers.save(directory)
        task = cls(config, tokenizers)
        settings = config.training
        pairs = task._tokens(data, "train", settings.max_length)
        task.pairs = len(pairs)
        plan = BatchPlan(pairs, settings.batch_size, settings.buckets, settings.seed)
        task.train, task.buckets = plan, plan.buckets
        longest, room = 2 * settings.max_length, task.slots
        if room is not None:
            if task.buckets[-1] > room:
                raise UserError(
                    f"model.attention.max_length={room} is below {task.buckets[-1]}, the "
                    "longest training sentence with its end: raise it or lower training.max_length"
                )
            longest = min(longest, room - 1)
        validation = task._tokens(data, "validation", longest)
        task.validation = BatchPlan(validation, settings.batch_size, shuffle=False)
        task.data_fingerprint = data.fingerprint(*task.both, settings.max_length)
        task.notes = [line for report in data.reports for line in report.lines()] + task.notes
        task.held_out = data.head("validation", settings.figures)
        return task

    @property
    def slots(self) -> int | None:
        """Longest source in tokens, EOS included, if the model limits it; else None."""
        model: Any = self.config.model
        return model.source_slots

    @property
    def both(self) -> tuple[Tokenizer, Tokenizer]:
        """The tokenizers of source and target."""
        return self.tokenizers.source, self.tokenizers.target

    def _tokens(self, data: PairData, part: str, max_length: int) -> TokenizedPairs:
        pairs, report = data.tokens(part, *self.both, max_length)
        self.notes += report.lines() if report.skipped else []
        return pairs

    def tokenize(self, corpus: Corpus, max_length: int) -> TokenizedPairs:
        """Return the short enough pairs of a corpus as ids; ``notes`` reports the others."""
        pairs, report = TokenizedPairs.from_corpus(
            corpus, self.tokenizers.source, self.tokenizers.target, max_length
        )
        if report.skipped:
            self.notes += report.lines()
        return pairs

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the translator of the config."""
        model = model_class(self.config.model)
        pad = self.config.model.padding
        if pad != PAD:
            raise ValueError(
                f"pad_id={pad}, but the tokenizers that are trained here pad with {PAD}: "
                f"set model.pad_id={PAD}"
            )
        sizes = self.tokenizers.source.vocab_size, self.tokenizers.target.vocab_size
        return model(self.config.model, *sizes, rngs=rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the ``translation_loss`` with the settings of the config."""
        settings = self.config.training
        return translation_loss(
            model,
            batch,
            label_smoothing=settings.label_smoothing,
            per=settings.loss_per,
            rngs=rngs,
        )

    def introduction(self) -> str:
        """Describe the number of pairs, their lengths and the vocabularies."""
        assert self.train is not None
        return (
            f"{self.pairs} pairs, {self.train.steps_per_epoch} steps an epoch, lengths "
            f"{list(self.buckets)}; vocabularies {self.tokenizers.source.vocab_size} and "
            f"{self.tokenizers.target.vocab_size}"
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the task's fingerprint with those of the tokenizers."""
        return super().fingerprint() | {"tokenizers": [one.fingerprint() for one in self.both]}

    def translator(
        self,
        model: nnx.Module,
        *,
        batch_size: int | None = None,
        layer: int | None = None,
        head: int | None = None,
    ) -> Translator:
        """Return a translator with this task's tokenizers; arguments as in ``Translator``."""
        try:
            return Translator(
                model,
                self.tokenizers.source,
                self.tokenizers.target,
                batch_size=batch_size or self.config.decoding.batch_size,
                max_source=self.slots or 512,
                layer=layer,
                head=head,
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    def glimpse(self, model: Any) -> tuple[str, plotting.Figure] | None:
        """Plot alignments of the first validation sentences; None if all are too long."""
        count = min(self.config.training.figures, len(self.held_out.source))
        translator = self.translator(model, batch_size=count)
        sources, targets = self.held_out.source[:count], self.held_out.target[:count]
        links = self.held_out.links or [None] * count
        pictures = [
            plotting.AlignmentPicture(
                translator.word_matrix(forced),
                forced.source.words,
                forced.target.words,
                reference,
            )
            for forced, reference in zip(translator.force(sources, targets), links, strict=False)
            if forced is not None
        ]
        return ("alignment", plotting.alignment_grid(pictures)) if pictures else None
