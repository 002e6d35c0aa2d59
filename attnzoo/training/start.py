"""Initial weights and settings from another run or a pretrained model."""

import dataclasses
import fnmatch
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import jax
import numpy as np
from flax import nnx

from attnzoo.config.data import FileTokenizerConfig
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.external import runs_are_trusted
from attnzoo.config.fields import DropRate
from attnzoo.config.loader import load
from attnzoo.config.schema import Field, fields_of
from attnzoo.config.two_towers import TwoTowersConfig
from attnzoo.data.picture_preparation import PicturePreparation, read_preparation
from attnzoo.errors import UserError
from attnzoo.tasks import task_class
from attnzoo.tasks.contrastive import ContrastiveTask
from attnzoo.tasks.image_classification import ImageClassificationTask
from attnzoo.tasks.pair_task import PairTask
from attnzoo.tasks.run_file import ImageLabels, is_run, start_of
from attnzoo.tasks.task import Task
from attnzoo.tasks.translation_task import TranslationTask
from attnzoo.training.checkpoint import Restored, restore, steps
from attnzoo.training.manifest import check_step, open_run
from attnzoo.training.placement import on_devices, path_of
from attnzoo.training.run_directory import RunDirectory

logger = logging.getLogger(__name__)

OWN = ("kind", "scan", "remat", "head", "num_classes")
"""Model settings that are those of the new training, besides dropout rates."""
CLASS_HEADS = ("classifier", "head", "distilled_head")
"""Modules whose rows are classes."""
FRESH_SHARE = 0.5
"""Share of the weights that may begin with random numbers without being named."""


def config_of(directory: RunDirectory, *, trust_code: bool | None = None) -> ExperimentConfig:
    """Read the config of a run; code it names is run if trusted, None: as ``--trust-code`` says."""
    trust = runs_are_trusted() if trust_code is None else trust_code
    return load(ExperimentConfig, directory.config, trust_code=trust)


def restore_weights(directory: RunDirectory, which: str = "best") -> tuple[Restored, Path]:
    """Restore the best weights of a run, else with a warning the latest; return their home too.

    A running average of weights, if the run kept one, takes the place of the parameters. "average"
    is instead the mean of the parameters of all kept checkpoints, beside the rest of the newest.

    Raises:
      UserError: no valid checkpoint; or ``which`` is none of "best", "latest" and "average".
    """
    if which not in ("best", "latest", "average"):
        raise UserError(f"which={which!r}: wanted best, latest or average")
    if which == "average":
        return _average(directory.checkpoints), directory.checkpoints
    home = directory.best if which == "best" else directory.checkpoints
    try:
        found = restore(home)
    except UserError as error:
        if which != "best":
            raise
        home = directory.checkpoints
        logger.warning("%s; the latest checkpoint is used instead", error)
        found = restore(home)
    state = found.state
    if "ema" in state:
        found = dataclasses.replace(found, state={**state, "params": state["ema"]})
    return found, home


def _average(home: Path) -> Restored:
    """Return the newest step of a directory with the mean of the parameters of all its steps."""
    newest, *others = (restore(home, step=step) for step in sorted(steps(home), reverse=True))
    all_of_them = [one.state["params"] for one in (newest, *others)]

    def mean(*leaves: Any) -> Any:
        return np.mean(leaves, axis=0, dtype=np.float64).astype(leaves[0].dtype)

    params = jax.tree.map(mean, *all_of_them)
    return dataclasses.replace(newest, state={**newest.state, "params": params})


def inherit(config: ExperimentConfig) -> tuple[ExperimentConfig, list[str]]:
    """Take the settings that a config leaves at their defaults from ``start_from``; return notes.

    These are the tokenizers and the sizes of the model. Dropout, scan and remat stay the config's.

    Raises:
      UserError: the config describes other tokenizers than those of ``start_from``.
    """
    path = start_of(config)
    if path is None:
        return config, []
    names = task_class(config.task).tokenizer_fields
    if is_run(path):
        theirs = config_of(open_run(path)[0])
        tokenizers = {name: getattr(theirs, name) for name in names}
        model = theirs.model
    else:
        from attnzoo import pretrained

        tokenizers = {name: fields_of(ExperimentConfig)[name].default for name in names}
        tokenizers["tokenizer"] = FileTokenizerConfig(path=path)
        model = pretrained.read_config(path)
    if isinstance(model, TwoTowersConfig) and config.task.kind not in model.tasks:
        model = model.image
    taken: list[str] = []
    differ: list[str] = []
    fields = fields_of(ExperimentConfig)
    found = {
        name: _inherited(getattr(config, name), value, fields[name].default, name, taken, differ)
        for name, value in tokenizers.items()
    }
    if differ:
        raise UserError(
            f"start_from={path}: its tokenizer is used, but {differ[0]} there: remove the setting"
        )
    found["model"] = _inherited(
        config.model, model, fields["model"].default, "model", taken, differ
    )
    notes = [f"start_from={path}: {', '.join(taken)}"] if taken else []
    try:
        return dataclasses.replace(config, **found), notes
    except ValueError as error:
        raise UserError(f"start_from={path}: {error}") from error


def create_task(
    config: ExperimentConfig, path: Path, *, resume: bool = False, max_buckets: int | None = None
) -> Task:
    """Return the task of a config with its data, and the tokenizers of the folder it starts from.

    Without such a folder it is that of ``Task.create``.
    """
    cls: Any = task_class(config.task)
    known = None if resume else taken_from_folder(config)
    return cls.create(config, path, resume=resume, max_buckets=max_buckets, known=known)


def taken_from_folder(config: ExperimentConfig) -> dict[str, Any] | None:
    """Return what a task on pairs of sentences or on pictures takes from a pretrained folder.

    That is, by the name of its file in the run: the tokenizers, with the special tokens of the
    languages of the data around sentences; and the statistics of pixels. None if the training
    starts from no folder, if its task is another one, or if the folder does not say.

    Raises:
      UserError: the folder is not that of a translator or of two encoders, or a language is unknown
        or not given.
    """
    path = start_of(config)
    cls: Any = task_class(config.task)
    kinds = PairTask | ContrastiveTask | ImageClassificationTask
    if path is None or is_run(path) or not issubclass(cls, kinds):
        return None
    from attnzoo import pretrained
    from attnzoo.pretrained import files
    from attnzoo.training.folder import open_folder

    if issubclass(cls, ImageClassificationTask):
        folder, model = files.resolve(path), cast(Any, config.model)
        if read_preparation(folder, "image_processor")[1] is None:
            return None
        found = PicturePreparation.read(folder, model.image_size, model.channels)
        return {"labels": ImageLabels((), found.mean, found.deviation)}
    data: Any = config.data
    try:
        if issubclass(cls, ContrastiveTask):
            task = open_folder(path).wanted(ContrastiveTask)
            return {name: task.kept(name) for name in cls.files}
        languages = data.languages
        opened = open_folder(
            path, source_language=languages[0] or None, target_language=languages[1] or None
        )
        both = opened.wanted(TranslationTask).tokenizers
        sizes = pretrained.sizes_of(opened.model)
        pairs = zip((both.source, both.target), (sizes[0], sizes[-1]), strict=True)
        resized = [tokenizer.resized(size) for tokenizer, size in pairs]
    except UserError as error:
        told = str(error).replace("--source-language", "data.source_language")
        told = told.replace("--target-language", "data.target_language")
        raise UserError(f"start_from={path}: {told.removeprefix(f'{path}: ')}") from error
    return dict(zip(cls.files, resized, strict=True))


def _inherited(
    own: Any, theirs: Any, default: Any, name: str, taken: list[str], differ: list[str]
) -> Any:
    """Return ``theirs`` where ``own`` is the default; note what is taken, and what differs."""
    if own == theirs:
        return own
    if dataclasses.is_dataclass(own) and type(own) is type(theirs):
        values = {}
        for key, field in fields_of(type(own)).items():
            if not _belongs_to_training(field):
                usual = getattr(default, key) if type(default) is type(own) else field.default
                values[key] = _inherited(
                    getattr(own, key), getattr(theirs, key), usual, f"{name}.{key}", taken, differ
                )
        return dataclasses.replace(own, **values)
    if own == default:
        taken.append(f"{name}={_short(theirs)}")
        return theirs
    differ.append(f"{name} is {_short(own)} here and {_short(theirs)}")
    return own


def _belongs_to_training(field: Field) -> bool:
    return field.name in OWN or DropRate in get_args(field.annotation)


def _short(value: Any) -> Any:
    return value.kind if dataclasses.is_dataclass(value) else value


def start_from(
    path: Path,
    params: dict[str, Any],
    *,
    new_head: bool = False,
    fresh: Sequence[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Replace parameters by those of ``path``, and return notes on the ones that stay random.

    ``path`` is a run directory or the folder of a pretrained model. Layers may be stacked (scan) in
    one and separate in the other. A module that ``path`` lacks keeps its initial values, other
    parameters of ``path`` are ignored.

    Args:
      new_head: the classes of ``path`` are others, so its output layer is not taken.
      fresh: names or patterns of parameters and modules that may begin with random numbers.

    Raises:
      UserError: a parameter has another shape; or a module is only partly in ``path``, or more than
        half of the weights are not, unless ``fresh`` names them.
    """
    read = _read(path)
    if "image" in read and "image" not in params:  # one of two encoders
        read = read["image"]
    theirs = _separate(read)
    if new_head:
        theirs = {k: v for k, v in theirs.items() if k.partition("/")[0] not in CLASS_HEADS}
    taken: set[str] = set()
    names: list[str] = []
    lacking: dict[str, int] = {}

    def place(where: Any, leaf: Any) -> Any:
        name = path_of(where)
        parts = _layers(name, leaf.shape)
        if not all(part in theirs for part in parts):
            lacking[name] = leaf.size
            return leaf
        found = [theirs[part] for part in parts]
        value = np.asarray(found[0] if parts == [name] else np.stack(found), leaf.dtype)
        if value.shape != leaf.shape:
            raise UserError(
                f"start_from={path}: {name} has shape {list(value.shape)}, but the model "
                f"wants {list(leaf.shape)}: remove that size from the config, or set it as there"
            )
        taken.update(parts)
        names.append(name)
        if leaf.committed:  # already sharded over several devices
            return on_devices(value, leaf.sharding)
        return jax.numpy.asarray(value)

    params = jax.tree_util.tree_map_with_path(place, params)
    if not taken:
        raise UserError(f"start_from={path}: no parameter of it is one of this model")
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    _refuse_random(path, names, lacking, total, fresh)
    notes = [f"start_from={path}: {len(names)} parameters taken"]
    for what, left in (
        ("start fresh", list(lacking)),
        ("are not wanted", sorted(set(theirs) - taken)),
    ):
        if left:
            more = ", ..." if len(left) > 6 else ""
            notes.append(f"{len(left)} parameters {what}: {', '.join(left[:6])}{more}")
    return params, notes


def _refuse_random(
    path: Path, taken: Sequence[str], lacking: Mapping[str, int], total: int, fresh: Sequence[str]
) -> None:
    """Raise a UserError if parameters would begin with random numbers that nobody named."""
    known = {name.partition("/")[0] for name in taken}
    unnamed = [
        name
        for name in lacking
        if not any(fnmatch.fnmatch(name, one) or name.startswith(f"{one}/") for one in fresh)
    ]
    share = sum(lacking[name] for name in unnamed) / total
    partly = [name for name in unnamed if name.partition("/")[0] in known]
    if partly or share > FRESH_SHARE:
        wrong = partly or unnamed
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"start_from={path}: {wrong[0]}{more} of {len(lacking) + len(taken)} parameters are "
            f"not in it and would begin with random numbers ({share:.0%} of the weights): set the "
            f"model's sizes as there, or name them: start_fresh=[{wrong[0].partition('/')[0]}]"
        )


def _read(path: Path) -> dict[str, Any]:
    """Read the parameters of a run directory (best, else latest) or of a pretrained folder."""
    if is_run(path):
        directory, manifest = open_run(path)
        restored, _ = restore_weights(directory)
        check_step(directory.path, manifest, restored.meta)
        return restored.state["params"]
    from attnzoo import pretrained

    params = nnx.to_pure_dict(nnx.state(pretrained.load(path), nnx.Param))
    return jax.tree.map(np.asarray, params)


def _separate(tree: Any) -> dict[str, np.ndarray]:
    """Return arrays by path; a stacked parameter of layers becomes one for each layer."""
    separate: dict[str, np.ndarray] = {}
    for where, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_of(where)
        parts = _layers(name, leaf.shape)
        separate |= {name: leaf} if parts == [name] else dict(zip(parts, leaf, strict=True))
    return separate


def _layers(name: str, shape: Sequence[int]) -> list[str]:
    """Return a parameter's names by layer if it is stacked over layers, else its own name."""
    stack, found, rest = name.partition("blocks/")
    if not found or rest.partition("/")[0].isdecimal():
        return [name]
    return [f"{stack}blocks/{layer}/{rest}" for layer in range(shape[0])]
