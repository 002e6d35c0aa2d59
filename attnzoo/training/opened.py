"""A model that commands use, with its tokenizers and settings: a run, or a folder of weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.data.corpus import Corpus
from attnzoo.decoding.rules import DEFAULT_RULES, Rules
from attnzoo.decoding.sampling import Sampling
from attnzoo.errors import UserError
from attnzoo.tasks.contrastive import ContrastiveTask
from attnzoo.tasks.image_classification import ImageClassificationTask
from attnzoo.tasks.language_modeling import CausalLMTask
from attnzoo.tasks.pair_task import PairTask
from attnzoo.tasks.translation import Translator
from attnzoo.tasks.translation_task import TranslationTask
from attnzoo.training.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Opened:
    """A trained model with what its use needs; made by ``attnzoo.open``.

    Attributes:
        directory: run directory, or folder of the model; commands write their results there.
        config: an ``ExperimentConfig``; of a folder, its fields ``name``, ``task``, ``model``,
            ``decoding`` and ``data`` alone.
        task: tokenizers, class names and pixel statistics.
        step: number of updates of the weights; None for a folder.
        which: "best", "latest", "average", or "folder".
        rules: rules of decoding beyond ``config.decoding``.
        sampling: settings of generation of a language model's folder; None: it has none.
        max_new_tokens: number of tokens that such a model writes; None: the folder has none.
        max_length: number of tokens of prompt and continuation together, likewise.
    """

    directory: RunDirectory
    config: Any
    task: Any
    model: Any
    step: int | None
    which: str
    rules: Rules = DEFAULT_RULES
    sampling: Sampling | None = None
    max_new_tokens: int | None = None
    max_length: int | None = None

    @property
    def title(self) -> str:
        """Name, and the number of updates of a run."""
        name = self.directory.path.name
        return name if self.step is None else f"{name}, step {self.step}"

    @property
    def source(self) -> Path:
        """Directory that holds tokenizers and class names."""
        return self.directory.path

    @property
    def kind(self) -> str:
        """Kind of the task."""
        return self.config.task.kind

    def wanted(self, *kinds: type) -> Any:
        """Return the task; a UserError if it is of none of these classes."""
        if isinstance(self.task, kinds):
            return self.task
        raise UserError(
            f"{self.directory.path}: {self.description}; wanted "
            f"{' or '.join(NAMES.get(kind, kind.__name__) for kind in kinds)}"
        )

    @property
    def description(self) -> str:
        """Description of the model, for messages."""
        return f"a run of task.kind={self.kind}"

    def translator(
        self,
        *,
        batch_size: int | None = None,
        layer: int | None = None,
        head: int | None = None,
    ) -> Translator:
        """Return a translator with this model and its tokenizers.

        Raises:
            UserError: no translator, or no such layer or head.
        """
        task = self.wanted(TranslationTask)
        return task.translator(
            self.model, batch_size=batch_size, layer=layer, head=head, rules=self.rules
        )

    def prompt_ids(self, text: str) -> list[int]:
        """Return the ids of a text that the model continues, begin token included; never empty."""
        task = self.wanted(CausalLMTask)
        tokenizer = task.tokenizer
        begins = [tokenizer.special("bos")] if task.settings.rows == "packed" else []
        return begins + tokenizer.encode_ids(text) or [tokenizer.special("bos")]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids that a language model generated."""
        return self.wanted(CausalLMTask).tokenizer.decode(ids)

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end a generated text."""
        return (self.wanted(CausalLMTask).tokenizer.special("eos"),)

    def picture(self, image: Any) -> Any:
        """Return a Pillow image as pixels 0 .. 255 ``h w C`` of the model's size."""
        return self.wanted(ImageClassificationTask).pixels(image)

    def corpus(self, part: str) -> Corpus:
        """Return the sentence pairs of a part of the data."""
        raise UserError(
            f"{self.directory.path}: {self.description}, which has no {part} part; wanted "
            "--source FILE --target FILE"
        )

    def changed_data(self) -> Sequence[str]:
        """Return a line for each data file that changed since training."""
        return ()

    def training_pairs(self) -> Corpus:
        """Return the pairs of the train part that were short enough for training."""
        return self.corpus("train")


NAMES: dict[type, str] = {
    PairTask: "a run on sentence pairs",
    TranslationTask: "a translator",
    CausalLMTask: "a language model that reads from left to right (causal_lm)",
    ImageClassificationTask: "a classifier of images",
    ContrastiveTask: "two encoders, of pictures and of texts",
}
"""Descriptions of task classes, for messages."""
