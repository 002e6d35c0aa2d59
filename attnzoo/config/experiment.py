"""Settings of one runnable experiment: the content of a file in configs/."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attnzoo.config.cache import CacheConfig
from attnzoo.config.data import CldrConfig, Data, Tokenizer, WordTokenizerConfig
from attnzoo.config.fields import NotEmpty, NotNegative, Positive, config
from attnzoo.config.mesh import MeshConfig
from attnzoo.config.model import BahdanauConfig, Model
from attnzoo.config.renamed import former_names
from attnzoo.config.schema import fields_of
from attnzoo.config.tasks import Task, TranslationConfig
from attnzoo.config.training import TrainingConfig


@config
class DecodingConfig:
    """Settings of beam search for translations."""

    beam: Annotated[int, Positive] = 5
    """Number of hypotheses kept at each step; 1: greedy."""
    length_penalty: Annotated[float, NotNegative] = 0.6
    """Exponent of the length penalty (Wu et al. 2016, eq. 14); 0: none."""
    max_length: Annotated[int, Positive] = 100
    """Longest translation, in tokens."""
    batch_size: Annotated[int, Positive] = 64
    """Sentences translated together."""


@config
class ExperimentConfig:
    """Settings of an experiment, which its run directory keeps for all other commands."""

    name: Annotated[str, NotEmpty]
    """Name of the experiment, and of its run directory."""
    task: Task = TranslationConfig()
    """Training task."""
    data: Data = CldrConfig()
    """Training data."""
    cache: CacheConfig = CacheConfig()
    """Token stores of large data sets."""
    tokenizer: Tokenizer = WordTokenizerConfig()
    """Tokenizer of the source side and, by default, of the target side."""
    target_tokenizer: Tokenizer | None = None
    """Tokenizer of the target side; null: that of the source side."""
    shared_vocabulary: bool = False
    """Train one vocabulary on both sides together."""
    model: Model = BahdanauConfig()
    """Model architecture."""
    start_from: Path | None = None
    """Run directory, or folder of a pretrained model, with initial weights, the tokenizers and the
    sizes of the model that are left at their defaults here; null: new weights. A head that is
    missing there, or has other classes, gets new weights."""
    start_fresh: tuple[str, ...] = ()
    """Modules or patterns of parameters that may begin with new weights though `start_from` has
    only a part of them, or though they are more than half of the weights."""
    training: TrainingConfig
    """How it is trained."""
    decoding: DecodingConfig = DecodingConfig()
    """Decoding settings for evaluation."""
    mesh: MeshConfig = MeshConfig()
    """Device mesh for training; by default one copy of the model on each device."""
    directory: Path | None = None
    """Run directory; null: runs/NAME."""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"name={self.name!r}: letters, digits, '-', '_' and '.' are wanted")
        if self.shared_vocabulary and self.target_tokenizer is not None:
            raise ValueError("'shared_vocabulary' excludes 'target_tokenizer'")
        task = self.task
        architectures: dict[str, Any] = fields_of(type(self))["model"].kinds
        models = [k for k, c in architectures.items() if task.kind in c.tasks or k in task.models]
        for name, kind, wanted in (
            ("data", self.data.kind, task.data),
            ("model", self.model.kind, models),
        ):
            if kind not in wanted:
                raise ValueError(
                    f"task.kind={self.task.kind} takes {name}.kind={' or '.join(wanted)}, "
                    f"not {kind}"
                )
        encoder = getattr(self.model, "source", None)
        reads = None if encoder is None else encoder.reads
        if hasattr(self.model, "source") and reads != task.source:
            found = "null" if encoder is None else f"{encoder.kind}, which reads {reads}s"
            wanted = "null" if task.source is None else f"an encoder of {task.source}s"
            raise ValueError(f"task.kind={task.kind}: model.source is {found}; wanted {wanted}")

    @property
    def run_directory(self) -> Path:
        """Path of the run directory."""
        return self.directory or Path("runs") / self.name


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
