"""Weights of transformers models in attnzoo, and attnzoo weights in transformers.

::

    model = pretrained.load("path/or/name")
    pretrained.save(model, "folder")  # config.json and model.safetensors

A table per model maps tensor names to parameters. Nothing is guessed, a tensor without a parameter
is an error, and pickles are not read.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from tokenizers import Tokenizer

from attnzoo.config import tree
from attnzoo.config.external import runs_are_trusted
from attnzoo.config.loader import check as check_config
from attnzoo.config.loader import dump
from attnzoo.config.loader import load as load_config
from attnzoo.errors import UserError
from attnzoo.files import read_json
from attnzoo.pretrained import (
    bart,
    bert,
    clip,
    convert,
    dinov3,
    files,
    gemma,
    gpt2,
    llama,
    origin,
    siglip,
    t5,
    vit,
    whisper,
)
from attnzoo.pretrained.convert import Sharding
from attnzoo.pretrained.family import Family
from attnzoo.pretrained.fields import Settings
from attnzoo.pretrained.table import Table

FAMILIES: dict[str, Family] = {
    **bert.FAMILIES,
    "gpt2": gpt2.FAMILY,
    **llama.FAMILIES,
    **gemma.FAMILIES,
    "t5": t5.FAMILY,
    **bart.FAMILIES,
    **vit.FAMILIES,
    **whisper.FAMILIES,
    "dinov3_vit": dinov3.FAMILY,
    "clip": clip.FAMILY,
    "siglip": siglip.FAMILY,
}
"""Model families by the ``model_type`` of config.json."""

OWN_CONFIG = "config.yaml"


def load(name: str | Path, *, dtype: Any = None, sharding: Sharding | None = None) -> nnx.Module:
    """Load a model from a folder, or by its name on the Hugging Face hub.

    The folder has the files of transformers or of :func:`save_own`.

    Args:
      dtype: dtype of all parameters; as stored if None.
      sharding: ``sharding(path, shape)`` returns the sharding of a parameter.

    Raises:
      UserError: one line that names the file, setting or tensor that is missing or does not fit.
    """
    folder = files.resolve(name)
    with files.open_tensors(folder) as tensors:
        own = (folder / OWN_CONFIG).exists()
        if own:
            family, config = _own_config(folder / OWN_CONFIG)
            sizes = family.sizes({one: tensors.shape(one) for one in tensors.names})
            abstract = _abstract(family, config, sizes, folder)
            table = convert.own_table(convert.parameters(abstract))
        else:
            family, settings = _settings(folder, tensors.names)
            config, sizes = _checked(family, settings)
            abstract = _abstract(family, config, sizes, folder)
            table = family.table(config, sizes)
        model: Any = convert.fill(abstract, table, tensors, dtype=dtype, sharding=sharding)
        kept = convert.kept(table, tensors, dtype)
    if not own or kept or (folder / origin.OWN).exists():
        model.origin = origin.Origin.read(folder, origin.OWN if own else files.CONFIG, kept)
    return model


def read_config(name: str | Path) -> Any:
    """Return the model config of a folder that :func:`load` reads."""
    folder = files.resolve(name)
    if (folder / OWN_CONFIG).exists():
        return _own_config(folder / OWN_CONFIG)[1]
    with files.open_tensors(folder) as tensors:
        return _checked(*_settings(folder, tensors.names))[0]


def save(model: Any, folder: str | Path, classes: Sequence[str] = ()) -> None:
    """Write config.json, with the names of ``classes``, and safetensors for transformers to load.

    A model that was read from a folder keeps its token ids, names of classes, settings of
    generation, and tensors that the model has no place for (BERT's next-sentence head).

    Raises:
      UserError: transformers has no model for this config.
    """
    written, table = form(model)
    sizes, tensors = convert.tensors_of(model, table)
    if model.origin is not None:
        written = model.origin.complete(written, FAMILIES[written["model_type"]].fields)
        sizes += [(name, one.nbytes) for name, one in model.origin.tensors.items()]
        tensors = itertools.chain(tensors, model.origin.tensors.items())
    dtypes = {str(leaf.dtype) for leaf in convert.parameters(model).values()}
    if classes and "id2label" in written:
        written["id2label"] = {str(i): name for i, name in enumerate(classes)}
        written["label2id"] = {name: i for i, name in enumerate(classes)}
    written["dtype"] = dtypes.pop() if len(dtypes) == 1 else "float32"
    home = _made(folder)
    files.write_tensors(home, sizes, tensors)
    files.write_json(home / files.CONFIG, written)
    if model.origin is not None:
        model.origin.write(home)


def form(model: Any) -> tuple[dict[str, Any], Table]:
    """Return the transformers config.json of a model, and the table of its tensors.

    Raises:
      UserError: transformers has no model for this config.
    """
    families = _families(type(getattr(model, "config", None)))
    source = getattr(getattr(model.config, "source", None), "kind", None)
    families = [family for family in families if family.source == source]
    if not families:
        raise UserError(f"transformers has no model with model.source.kind={source}")
    if model.origin is not None:  # RoBERTa and XLM-R have the same settings
        former = FAMILIES.get(model.origin.config.get("model_type"))
        families.sort(key=lambda family: family is not former)
    sizes, problems = sizes_of(model), []
    for family in families:
        try:
            written = family.write(model.config, sizes)
        except UserError as error:
            problems.append(str(error))
        else:
            return written, family.table(model.config, sizes)
    raise UserError("; ".join(dict.fromkeys(problems)))


def save_own(model: Any, folder: str | Path) -> None:
    """Write config.yaml and safetensors with attnzoo's parameter paths as names.

    Works for any model of the families, with any attention.
    """
    _families(type(model.config))
    home = _made(folder)
    sizes, tensors = convert.tensors_of(model, convert.own_table(convert.parameters(model)))
    if model.origin is not None:
        sizes += [(name, one.nbytes) for name, one in model.origin.tensors.items()]
        tensors = itertools.chain(tensors, model.origin.tensors.items())
        model.origin.write(home, origin.OWN)
    files.write_tensors(home, sizes, tensors)
    (home / OWN_CONFIG).write_text(dump(model.config), encoding="utf-8")


def tokenizer(name: str | Path) -> Tokenizer:
    """Return the tokenizer of a folder's tokenizer.json.

    Raises:
      UserError: the file is missing, or has tokens that the folder's model lacks.
    """
    folder = files.resolve(name)
    path = folder / files.TOKENIZER
    if not path.exists():
        raise UserError(f"{path}: no such file; transformers writes it for its fast tokenizers")
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises nothing more specific
        raise UserError(f"{path}: a damaged tokenizer: {error}") from None
    if (folder / files.CONFIG).exists():
        described = read_json(folder / files.CONFIG)
        size = described.get("vocab_size")
        for name in ("text_config", "text_config_dict"):
            if isinstance(part := described.get(name), dict):
                size = part.get("vocab_size", size)
        largest = max(found.get_vocab().values(), default=-1)
        if isinstance(size, int) and largest >= size:
            raise UserError(
                f"{path}: has a token {largest}, but the vocabulary of {files.CONFIG} ends at "
                f"{size - 1}"
            )
    return found


def _settings(folder: Path, tensors: Sequence[str]) -> tuple[Family, Settings]:
    path = folder / files.CONFIG
    values = read_json(path)
    kind = values.pop("model_type", None)
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(
            f"{path}: model_type={kind!r} is not supported; wanted {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind], Settings(values, path, FAMILIES[kind].fields, tensors)


def _checked(family: Family, settings: Settings) -> tuple[Any, tuple[int, ...]]:
    """Return config and sizes of a config.json, each of its type and within its range."""
    try:
        config, sizes = family.read(settings)
    except ValueError as error:  # fields of a config that do not go together
        raise UserError(f"{settings.place}: {error}") from None
    check_config(config, str(settings.place))
    # A model of that depth would be built before the first missing tensor is noticed.
    layers, most = max(family.table(config, sizes).depths.values()), len(settings.tensors)
    if layers > most:
        raise UserError(f"{settings.place}: {layers} layers, but the files have {most} tensors")
    return config, sizes


def _families(config: type) -> list[Family]:
    found = [family for family in FAMILIES.values() if family.config is config]
    if not found:
        raise UserError(f"transformers has no model for a config of type {config.__name__}")
    return found


def sizes_of(model: Any) -> tuple[int, ...]:
    """Return the sizes of a model that its config lacks: vocabularies, that of the target last."""
    shapes = {path: tuple(leaf.shape) for path, leaf in convert.parameters(model).items()}
    return _families(type(model.config))[0].sizes(shapes)


def _own_config(path: Path) -> tuple[Family, Any]:
    values = tree.read(path).plain()
    kind = values.get("kind") if isinstance(values, dict) else None
    for family in FAMILIES.values():
        if getattr(family.config, "kind", None) == kind:
            return family, load_config(family.config, path, trust_code=runs_are_trusted())
    raise UserError(f"{path}: kind={kind!r} is no pretrained model of ours")


def _abstract(family: Family, config: Any, sizes: tuple[int, ...], folder: Path) -> nnx.Module:
    try:
        return nnx.eval_shape(lambda: family.model(config, *sizes, rngs=nnx.Rngs(0)))
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{folder}: {error}") from error


def _made(folder: str | Path) -> Path:
    home = Path(folder).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    return home
