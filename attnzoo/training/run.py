"""A finished run loaded from disk: its config, its task and its trained model."""

import dataclasses
import logging
from pathlib import Path

import jax
from flax import nnx

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.corpus import Corpus, load_part
from attnzoo.errors import UserError
from attnzoo.tasks import task_class
from attnzoo.tasks.pair_task import PairTask
from attnzoo.tasks.task import Task
from attnzoo.training import processes
from attnzoo.training.manifest import Manifest, changes, check_step, open_run, sizes_of_data
from attnzoo.training.opened import Opened
from attnzoo.training.start import config_of, restore_weights

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run(Opened):
    """A trained run, loaded for use."""

    config: ExperimentConfig
    task: Task
    step: int

    def corpus(self, part: str) -> Corpus:
        """Read the sentence pairs of a part of the run's data again."""
        self.wanted(PairTask)
        return load_part(self.config.data, part)

    def changed_data(self) -> list[str]:
        """Return a line for each data file that changed since training, rows not counted."""
        manifest = Manifest.read(self.directory.path)
        if manifest is None:
            return []
        rows = {name: sizes["rows"] for name, sizes in manifest.data.items() if "rows" in sizes}
        return changes(manifest.data, sizes_of_data(self.config.data, rows), certain=True)

    def training_pairs(self) -> Corpus:
        """Return the pairs of the train part that were short enough for training."""
        corpus = self.corpus("train")
        pairs = self.wanted(PairTask).tokenize(corpus, self.config.training.max_length)
        return corpus.select(int(row) for row in pairs.rows)


def load_run(path: str | Path, *, which: str = "best", trust_code: bool | None = None) -> Run:
    """Load a run directory: its ``best`` checkpoint on validation, ``latest``, or ``average``.

    The last is the mean of the weights of all kept checkpoints. Nothing is written. Without a best
    checkpoint that can be read, the latest is taken, with a warning. A config that names classes
    from outside of this package is refused unless ``trust_code``; None follows ``--trust-code`` of
    the command.

    Raises:
        UserError: not a run directory, a file of it that changed since training, no valid
            checkpoint, or weights that do not fit the config.
    """
    processes.require_devices()
    directory, manifest = open_run(path)
    config = config_of(directory, trust_code=trust_code)
    task = task_class(config.task).open(config, directory.path)
    restored, home = restore_weights(directory, which)
    try:
        check_step(directory.path, manifest, restored.meta)
    except UserError as error:
        if home != directory.best or manifest is None:
            raise
        logger.warning("%s: %s; the latest checkpoint is used instead", home, error)
        restored, home = restore_weights(directory, "latest")
        check_step(directory.path, manifest, restored.meta)
    abstract = nnx.eval_shape(task.build_model)
    graph, parameters, rest = nnx.split(abstract, nnx.Param, ...)
    wanted = {"params": nnx.to_pure_dict(parameters), "rest": nnx.to_pure_dict(rest)}
    weights = _fit(restored.state, wanted, str(home))
    model = nnx.merge(graph, weights["params"], weights["rest"])
    if which != "average":
        which = "best" if home == directory.best else "latest"
    return Run(directory, config, task, model, restored.step, which)


def _fit(stored: dict, wanted: dict, where: str) -> dict:
    """Return the part of a stored state that a model needs, checked name by name."""
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
