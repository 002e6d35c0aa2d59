"""A run seen from outside: its config, data, tokenizers and trained model."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from attnzoo.config.attention import source_slots
from attnzoo.config.experiment import Experiment
from attnzoo.config.loader import load
from attnzoo.config.model import Model
from attnzoo.data.batching import TokenizedPairs
from attnzoo.data.corpus import Corpus, Splits, load_corpus
from attnzoo.data.tokenizers import Tokenizer, train_tokenizer
from attnzoo.errors import UserError
from attnzoo.models import MODELS
from attnzoo.tasks.translation import Translator
from attnzoo.training.checkpoint import Restored, restore
from attnzoo.training.run_directory import RunDirectory

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Tokenizers:
    """The tokenizer of each side; the same object twice for a shared vocabulary."""

    source: Tokenizer
    target: Tokenizer

    @classmethod
    def train(cls, config: Experiment, corpus: Corpus) -> "Tokenizers":
        """Train what the config asks for on the training part."""
        if config.shared_vocabulary:
            shared = train_tokenizer(config.tokenizer, [*corpus.source, *corpus.target])
            return cls(shared, shared)
        return cls(
            train_tokenizer(config.tokenizer, corpus.source),
            train_tokenizer(config.target_tokenizer or config.tokenizer, corpus.target),
        )

    def save(self, directory: Path) -> None:
        """Write ``source.tokenizer.json`` and ``target.tokenizer.json``."""
        self.source.save(directory / "source.tokenizer.json")
        self.target.save(directory / "target.tokenizer.json")

    @classmethod
    def load(cls, directory: Path) -> "Tokenizers":
        """Read what :meth:`save` wrote."""
        return cls(
            Tokenizer.load(directory / "source.tokenizer.json"),
            Tokenizer.load(directory / "target.tokenizer.json"),
        )


def build_model(config: Experiment, tokenizers: Tokenizers, *, seed: int | None = None):
    """The model of a config with fresh weights.

    Raises:
        UserError: sizes that do not fit one another (heads that do not divide a width).
    """
    model: Any = MODELS[config.model.kind]  # the class for configs of this kind
    try:
        return model(
            config.model,
            tokenizers.source.vocab_size,
            tokenizers.target.vocab_size,
            rngs=nnx.Rngs(config.training.seed if seed is None else seed),
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from error


def longest_source(model: Model) -> int:
    """Longest source in tokens, EOS included, that a trained model of this config is given."""
    return source_slots(model.attention) or 512


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, loaded to be used.

    Attributes:
        step: the update the weights are from.
        which: "best" or "latest".
    """

    directory: RunDirectory
    config: Experiment
    tokenizers: Tokenizers
    model: nnx.Module
    step: int
    which: str

    def translator(self, *, batch_size: int | None = None) -> Translator:
        """A translator with this run's model and tokenizers."""
        return Translator(
            self.model,
            self.tokenizers.source,
            self.tokenizers.target,
            batch_size=batch_size or self.config.decoding.batch_size,
            max_source=longest_source(self.config.model),
        )

    def corpus(self) -> Splits:
        """The data the run was trained on, read anew."""
        return load_corpus(self.config.data)

    def training_pairs(self) -> Corpus:
        """The pairs of the train part that were short enough to be trained on."""
        corpus = self.corpus().train
        pairs, _ = TokenizedPairs.from_corpus(
            corpus, self.tokenizers.source, self.tokenizers.target, self.config.training.max_length
        )
        return corpus.select(int(row) for row in pairs.rows)


def load_run(path: str | Path, *, which: str = "best") -> Run:
    """Load a run directory: its ``best`` checkpoint (lowest validation loss) or the ``latest``.

    Without a best checkpoint yet, the latest is taken.

    Raises:
        UserError: not a run directory, no valid checkpoint, or weights that do not fit the config.
    """
    directory = RunDirectory.open(path)
    config = load(Experiment, directory.config)
    tokenizers = Tokenizers.load(directory.path)
    if which == "best" and not any(p.name.isdecimal() for p in directory.best.glob("*")):
        logger.info("%s: no best checkpoint yet, the latest is used", directory.path)
        which = "latest"
    home = directory.best if which == "best" else directory.checkpoints
    abstract = nnx.eval_shape(lambda: build_model(config, tokenizers))
    graph, parameters, rest = nnx.split(abstract, nnx.Param, ...)
    restored: Restored = restore(home)
    wanted = {"params": nnx.to_pure_dict(parameters), "rest": nnx.to_pure_dict(rest)}
    weights = _fit(restored.state, wanted, str(home))
    model = nnx.merge(graph, weights["params"], weights["rest"])
    return Run(directory, config, tokenizers, model, restored.step, which)


def _fit(stored: dict, wanted: dict, where: str) -> dict:
    """The part of a stored state that a model wants, checked name by name."""
    flat = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(stored)}
    paths, structure = jax.tree_util.tree_flatten_with_path(wanted)
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        value = flat.get(name)
        if value is None:
            raise UserError(f"{where}: no parameter {name}; is config.yaml that of another run?")
        if value.shape != leaf.shape or value.dtype != leaf.dtype:
            raise UserError(
                f"{where}: parameter {name} is {value.dtype}{list(value.shape)}, but the config "
                f"wants {leaf.dtype}{list(leaf.shape)}"
            )
        leaves.append(jax.numpy.asarray(value))
    return jax.tree_util.tree_unflatten(structure, leaves)
