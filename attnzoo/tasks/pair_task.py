"""Base of tasks on sentence pairs: tokenizers, teacher links, and batches."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.batching import BatchPlan, TokenizedPairs
from attnzoo.data.copying import CopyingTokenizer
from attnzoo.data.corpus import Corpus, Report
from attnzoo.data.order import most_buckets
from attnzoo.data.pairs import Marks
from attnzoo.data.parallel import SIDES, PairData
from attnzoo.data.tokenizers import Tokenizer
from attnzoo.errors import UserError
from attnzoo.models import model_class
from attnzoo.tasks.run_file import SOURCE_TOKENIZER, TARGET_TOKENIZER, RunFile, start_of
from attnzoo.tasks.task import Plan, Task
from attnzoo.tasks.teacher import TEACHER_LINKS, LinkedPlan, TeacherLinks, teach

SKIPPED_TOLD = 0.1
"""Share of training pairs left out for their length from which on a note is given."""


@dataclasses.dataclass(frozen=True)
class Tokenizers:
    """The tokenizer of each side; the same object twice for a shared vocabulary."""

    source: Tokenizer
    target: Tokenizer


class PairTask(Task):
    """Base class of tasks on sentence pairs: their tokenizers, and batches of pairs."""

    unit = "tokens"
    free = ("decoding", "training.figures_every", "training.figures")
    files = types.MappingProxyType({"source": SOURCE_TOKENIZER, "target": TARGET_TOKENIZER})
    separate_lengths: ClassVar[bool] = False
    """Sources and targets are padded to lengths of their own."""
    tokenizer_fields = ("tokenizer", "target_tokenizer", "shared_vocabulary")

    def __init__(
        self,
        config: ExperimentConfig,
        source: Tokenizer,
        target: Tokenizer,
        teacher: TeacherLinks | None = None,
    ):
        super().__init__(config)
        if slots := config.model.temporary_ids:
            source, target = CopyingTokenizer(source, slots), CopyingTokenizer(target, slots)
        self.tokenizers = Tokenizers(source, target)
        self.teacher = teacher
        self.held_out = Corpus([], [])
        self.pairs = 0
        self.buckets: tuple[int, ...] = ()

    @classmethod
    def read(cls, config: ExperimentConfig) -> PairData:
        """Return the sentence pairs, which are read when they are wanted."""
        return PairData(config.data, config.cache)

    @classmethod
    def has(cls, data: PairData, part: str) -> bool:
        """Return whether a part has pairs."""
        return data.has(part)

    @classmethod
    def take_over(cls, config: ExperimentConfig) -> dict[str, Any]:
        """Return the tokenizers of ``config.start_from``, a run that translates."""
        start = start_of(config)
        if start is None:
            return {}
        if not (start / SOURCE_TOKENIZER.name).exists():
            raise UserError(
                f"start_from={start}: no {SOURCE_TOKENIZER.name}, so the embeddings would belong "
                "to other words; wanted the directory of a run that translates"
            )
        return {name: file.read(start / file.name) for name, file in cls.files.items()}

    @classmethod
    def learn(
        cls, config: ExperimentConfig, data: PairData, known: dict[str, Any]
    ) -> dict[str, Any]:
        """Train the tokenizers on the training part, unless they are known; ask the teacher."""
        if not known:
            tokenizers = data.tokenizers(
                config.tokenizer, config.target_tokenizer, shared=config.shared_vocabulary
            )
            known = dict(zip(SIDES, tokenizers, strict=True))
        teacher = cls.teacher_of(config)
        if teacher is None or teacher.kind == "own":
            return known
        return {**known, "teacher": teach(teacher, cls.corpus_of(data, "train"))}

    @classmethod
    def run_files(cls, config: ExperimentConfig) -> Mapping[str, RunFile]:
        """Return the tokenizers, and the links of the teacher if it has any."""
        teacher = cls.teacher_of(config)
        taught = teacher is not None and teacher.kind != "own"
        return {**cls.files, "teacher": TEACHER_LINKS} if taught else cls.files

    @classmethod
    def teacher_of(cls, config: ExperimentConfig) -> Any | None:
        """Return the settings of the teacher; None without one."""
        return None

    @classmethod
    def corpus_of(cls, data: PairData, part: str) -> Corpus:
        """Return the sentences of a part; UserError if they are too large to be in memory."""
        if data.splits is None:
            raise UserError(
                "the sentences are wanted in memory: raise cache.memory above the size of the data"
            )
        return getattr(data.splits, part)

    def kept(self, name: str) -> Any:
        """Return the tokenizer of a side, or the links of the teacher."""
        return self.teacher if name == "teacher" else getattr(self.tokenizers, name)

    def take(self, data: PairData) -> None:
        """Tokenize the parts and make their plans; the test part is for ``evaluate``."""
        settings = self.config.training
        pairs, report = data.tokens("train", *self.both, settings.max_length)
        self._report_skipped(report)
        self.pairs = len(pairs)
        most = self.limit_buckets(len(pairs))
        plan = BatchPlan(
            pairs,
            settings.batch_size,
            settings.buckets,
            settings.seed,
            max_buckets=most,
            separate=self.separate_lengths,
            marks=Marks.of(*self.both),
        )
        self.train, self.buckets = plan, plan.buckets
        if self.teacher_of(self.config) is not None:
            corpus = self.corpus_of(data, "train")
            self.train = LinkedPlan(plan, corpus, self.both, self.teacher)
        room = self.slots
        if room is not None and self.buckets[-1] > room:
            of_attention = getattr(self.config.model, "attention", None)
            own = getattr(of_attention, "slots", None) == room
            free = "" if self.config.start_from is not None else " or raise it"
            raise UserError(
                f"model.{'attention.' if own else ''}max_length={room} is below "
                f"{self.buckets[-1]}, the longest training sentence with its end: lower "
                f"training.max_length{free}"
            )
        self.validation = self.open_part(data, "validation")
        self.data_fingerprint = data.fingerprint(*self.both, settings.max_length)
        self.held_out = data.head("validation", settings.figures)

    def open_part(self, data: PairData, part: str) -> Plan:
        """Return the batches of one part, also of pairs twice as long as those of training."""
        settings, room = self.config.training, self.slots
        longest = (
            2 * settings.max_length if room is None else min(2 * settings.max_length, room - 1)
        )
        pairs, report = data.tokens(part, *self.both, longest)
        self.notes += report.lines() if report.skipped else []
        most = self.max_buckets or most_buckets(-(-len(pairs) // settings.batch_size))
        plan = BatchPlan(
            pairs,
            settings.batch_size,
            shuffle=False,
            max_buckets=most,
            separate=self.separate_lengths,
            marks=Marks.of(*self.both),
        )
        self.data_fingerprint = plan.fingerprint()["data"]
        return plan

    def _report_skipped(self, report: Report) -> None:
        """Note the training pairs left out; UserError if they are more than the config allows."""
        settings, count = self.config.training, sum(report.skipped.values())
        self.notes += report.lines() if count else []
        share = count / max(report.read, 1)
        line = (
            f"{count:,} of {report.read:,} training pairs ({share:.1%}) are longer than "
            f"training.max_length={settings.max_length} tokens, or empty, and left out"
        )
        if share > settings.max_skipped:
            raise UserError(
                f"{line}; raise max_length, or training.max_skipped={settings.max_skipped:g}, the "
                "share that may be left out"
            )
        if share > SKIPPED_TOLD:
            self.notes.append(f"WARNING: {line}")

    @property
    def both(self) -> tuple[Tokenizer, Tokenizer]:
        """The tokenizers of source and target."""
        return self.tokenizers.source, self.tokenizers.target

    @property
    def slots(self) -> int | None:
        """Longest source in tokens, EOS included, if the model limits it; else None."""
        model: Any = self.config.model
        return model.source_slots

    def tokenize(self, corpus: Corpus, max_length: int) -> TokenizedPairs:
        """Return the short enough pairs of a corpus as ids; ``notes`` reports the others."""
        pairs, report = TokenizedPairs.from_corpus(
            corpus, self.tokenizers.source, self.tokenizers.target, max_length
        )
        if report.skipped:
            self.notes += report.lines()
        return pairs

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the model of the config."""
        model = model_class(self.config.model)
        pad = self.config.model.padding
        source, target = self.both
        if pad != target.pad_id:
            raise ValueError(
                f"pad_id={pad}, but the tokenizers of this run pad with {target.pad_id}: "
                f"set model.pad_id={target.pad_id}"
            )
        prints = [one.vocabulary_fingerprint() for one in (source, target)]
        if self.config.model.one_vocabulary and prints[0] != prints[1]:
            raise ValueError(
                f"{self.config.model.kind} has one embedding for both sides here, but their "
                f"tokenizers differ ({_difference(source, target)}): set shared_vocabulary=true"
            )
        sizes = source.vocab_size, target.vocab_size
        return model(self.config.model, *sizes, rngs=rngs)

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


def _difference(source: Tokenizer, target: Tokenizer) -> str:
    """Return in which words two different tokenizers differ, or else in which settings."""
    if source.vocab_size != target.vocab_size:
        return f"{source.vocab_size} and {target.vocab_size} tokens"
    for number, pair in enumerate(zip(source.tokens, target.tokens, strict=True)):
        if pair[0] != pair[1]:
            return f"token {number} is {pair[0]!r} and {pair[1]!r}"
    return "kind, split, lowercase or merges"
