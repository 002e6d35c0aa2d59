"""One runnable experiment: what a file in configs/ holds."""

from pathlib import Path
from typing import Annotated, Any

from attnzoo.config.data import Cldr, Data, Tokenizer, WordTokenizer
from attnzoo.config.fields import NotEmpty, NotNegative, Positive, config
from attnzoo.config.mesh import Mesh
from attnzoo.config.model import Bahdanau, Model
from attnzoo.config.schema import fields_of
from attnzoo.config.tasks import Task, Translation
from attnzoo.config.training import Training


@config
class Decoding:
    """How a translation is found."""

    beam: Annotated[int, Positive] = 5
    """Hypotheses kept at each step; 1: greedy."""
    length_penalty: Annotated[float, NotNegative] = 0.6
    """Exponent of the length penalty (Wu et al. 2016, eq. 14); 0: none."""
    max_length: Annotated[int, Positive] = 100
    """Longest translation, in tokens."""
    batch_size: Annotated[int, Positive] = 64
    """Sentences translated together."""


@config
class Experiment:
    """A model, its data, its training; every other script reads it back from the run directory."""

    name: Annotated[str, NotEmpty]
    """Name of the experiment; the run directory is called so."""
    task: Task = Translation()
    """What is learned."""
    data: Data = Cldr()
    """What it is learned from."""
    tokenizer: Tokenizer = WordTokenizer()
    """How text becomes tokens, on the source side and, by default, on both."""
    target_tokenizer: Tokenizer | None = None
    """Another way on the target side; null: as on the source side."""
    shared_vocabulary: bool = False
    """One vocabulary, trained on both sides together."""
    model: Model = Bahdanau()
    """The architecture."""
    start_from: Path | None = None
    """Run directory, or folder of a pretrained model, whose weights and tokenizer are taken; null:
    fresh weights. A head that it has not starts fresh."""
    training: Training
    """How it is trained."""
    decoding: Decoding = Decoding()
    """How it translates when it is evaluated."""
    mesh: Mesh = Mesh()
    """Over which devices it is trained; by default one copy of the model on each."""
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

    @property
    def run_directory(self) -> Path:
        """Where the run is written."""
        return self.directory or Path("runs") / self.name
