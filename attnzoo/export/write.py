"""Export of a run or a pretrained model: programs for every platform, weights, tokenizer."""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export

from attnzoo import pretrained
from attnzoo.data.library_tokenizers import save_for_transformers
from attnzoo.data.text_tokenizers import LibraryTokenizer
from attnzoo.errors import UserError
from attnzoo.export import load
from attnzoo.export.programs import Program, programs
from attnzoo.pretrained import convert, files
from attnzoo.training.inference_weights import has_int8
from attnzoo.training.opened import Opened
from attnzoo.training.parameters import path_of

PLATFORMS = ("cpu", "cuda", "tpu")
LETTER = re.compile("[A-Z]")
OPEN_SIZE = jax.errors.InconclusiveDimensionOperation

Rebuild = Callable[[Mapping[str, jax.Array]], nnx.Module]


def export_run(
    run: Opened,
    folder: str | Path,
    *,
    platforms: Sequence[str] = PLATFORMS,
    max_new_tokens: int | None = None,
) -> dict[str, Any]:
    """Write an export of an opened model; return the content of its export.json.

    The weights are arguments of the programs and are stored once, in model.safetensors. They have
    the names of transformers, beside its config.json, if ``attnzoo.pretrained`` knows the model,
    else our own. Sizes stay symbolic if the model can be traced so; export.json lists the fixed
    ones.

    Raises:
      UserError: the folder is not empty, a platform is unknown, jax runs on an accelerator (whose
        kernels would be lowered), or ``max_new_tokens`` leaves no room.
    """
    home = Path(folder).expanduser().resolve()
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        raise UserError(f"--platforms {unknown[0]}: wanted some of {', '.join(PLATFORMS)}")
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UserError(f"{home}: not an empty folder; choose another one")
    if jax.default_backend() != "cpu":
        raise UserError(
            f"jax runs on {jax.default_backend()}; set JAX_PLATFORMS=cpu, which lowers for every "
            "platform"
        )
    found = programs(run, max_new_tokens)
    temporary = home.with_name(f".{home.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        about = _write(run, found, temporary, tuple(dict.fromkeys(platforms)))
        if home.exists():
            home.rmdir()
        temporary.rename(home)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return about


def _write(
    run: Opened, found: Mapping[str, Program], home: Path, platforms: tuple[str, ...]
) -> dict[str, Any]:
    classes = tuple(getattr(run.task, "names", ()))
    naming, shapes, rebuild = _weights(run.model, home, classes)
    described = {}
    for name, program in found.items():
        exported, fixed = _lower(program, shapes, rebuild, platforms)
        file = f"{name}.stablehlo"
        (home / file).write_bytes(exported.serialize())
        # Arguments in the order of jax's flattening: dictionaries by sorted keys.
        given = exported.in_avals[len(shapes) :]
        described[name] = {
            "file": file,
            "meaning": program.meaning,
            "inputs": _described(dict(zip(sorted(program.inputs), given, strict=True))),
            "outputs": _described(jax.tree.unflatten(exported.out_tree, exported.out_avals)),
            "limits": [one for one in program.limits if one.split()[0] not in fixed],
            "fixed": fixed,
        }
    _write_files(run, home)
    weights = sorted(path.name for path in home.glob("*.safetensors"))
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(home.iterdir())
    }
    shutil.copyfile(load.__file__, home / "load.py")
    about = {
        "format": load.FORMAT,
        "version": load.VERSION,
        "name": run.config.name,
        "task": run.kind,
        "model": run.config.model.kind,
        "step": run.step,
        "platforms": list(platforms),
        "jax": jax.__version__,
        "weights": weights,
        "names_of_weights": naming,
        "sha256": digests,
        "programs": described,
        "labels": list(classes),
    }
    # As JSON writes it: tuples are lists.
    about = json.loads(json.dumps(about))
    about["digest"] = load.digest_of(about)
    files.write_json(home / load.DESCRIPTION, about)
    (home / "README.md").write_text(_readme(about, home), encoding="utf-8")
    return about


def _weights(model: Any, home: Path, classes: Sequence[str]) -> tuple[str, dict[str, Any], Rebuild]:
    """Write the weights; return their naming, shapes, and a function that rebuilds the model."""
    graph, state = nnx.split(model)
    leaves, structure = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    paths = [path_of(path) for path, _ in leaves]
    try:
        if has_int8(model):
            raise UserError("transformers has no such weights")
        _, table = pretrained.form(model)
    except UserError:
        tensors = {path: np.asarray(leaf) for path, (_, leaf) in zip(paths, leaves, strict=True)}
        files.write_tensors(home, [(path, one.nbytes) for path, one in tensors.items()],
                            tensors.items())  # fmt: skip
        naming, ours = "attnzoo", lambda given: given
    else:
        pretrained.save(model, home, classes)
        shapes_of_ours = convert.parameters(nnx.eval_shape(lambda: model))
        naming = "transformers"
        ours = lambda given: convert.from_tensors(table, shapes_of_ours, given)  # noqa: E731
    with files.open_tensors(home) as written:
        shapes = {name: jax.ShapeDtypeStruct(*_kind(written, name)) for name in written.names}

    def rebuild(given: Mapping[str, jax.Array]) -> nnx.Module:
        by_path = ours(given)
        return nnx.merge(graph, structure.unflatten(by_path[path] for path in paths))

    return naming, shapes, rebuild


def _kind(tensors: files.Tensors, name: str) -> tuple[tuple[int, ...], Any]:
    return tensors.shape(name), tensors.read(name).dtype


def _lower(
    program: Program, weights: dict[str, Any], rebuild: Rebuild, platforms: tuple[str, ...]
) -> tuple[export.Exported, dict[str, int]]:
    """Lower a program for all platforms; return it and the sizes that had to be fixed."""

    def function(weights: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        return program.run(rebuild(weights), **inputs)

    letters = sorted({one for _, shape in program.inputs.values() for one in LETTER.findall(shape)})
    trials = [[], [one for one in letters if one != "B"], letters]
    for i, closed in enumerate(trials):
        fixed = {one: program.sizes[one] for one in closed}
        sized = functools.partial(_sized, fixed)
        limits = [one for one in program.limits if one.split()[0] not in fixed]
        scope = export.SymbolicScope(limits)
        inputs = {}
        for name, (dtype, shape) in program.inputs.items():
            dims = export.symbolic_shape(LETTER.sub(sized, shape), scope=scope)
            inputs[name] = jax.ShapeDtypeStruct(dims, np.dtype(dtype))
        try:
            lowered = export.export(jax.jit(function), platforms=platforms)(weights, inputs)
        # A size that decides what is computed: each library raises an error of its own.
        except (OPEN_SIZE, TypeError, ValueError, NotImplementedError):
            if i == len(trials) - 1:
                raise
        else:
            return lowered, fixed
    raise AssertionError("the last trial returns or raises")


def _sized(fixed: Mapping[str, int], letter: re.Match[str]) -> str:
    return str(fixed.get(letter[0], letter[0]))


def _described(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "dtype": str(array.dtype),
            "shape": [one if isinstance(one, int) else str(one) for one in array.shape],
        }
        for name, array in arrays.items()
    }


def _write_files(run: Opened, home: Path) -> None:
    if run.step is None:
        files.copy_beside(run.source, home)
        return
    for file in run.task.run_files(run.config).values():
        shutil.copyfile(run.directory.path / file.name, home / file.name)
    tokenizer = getattr(run.task, "tokenizer", None)
    if isinstance(tokenizer, LibraryTokenizer):
        # Also in the format that the `tokenizers` package and transformers read.
        save_for_transformers(tokenizer, home)


def _readme(about: Mapping[str, Any], home: Path) -> str:
    name, first = next(iter(about["programs"].items()))
    given = ", ".join(f"{one}={one}" for one in first["inputs"])
    result = next(iter(first["outputs"]))
    platforms = ", ".join(about["platforms"])
    trained = "" if about["step"] is None else f"after {about['step']} steps "
    head = f"""# {about["name"]}

A {about["model"]} {trained}of {about["task"]}; for {platforms}.

```python
from load import Exported  # wants jax, flatbuffers, numpy and safetensors

model = Exported(".")
{result} = model("{name}", {given})["{result}"]
```
"""
    lines = []
    for name, program in about["programs"].items():
        lines.append(f"\n`{name}`: {program['meaning']}.\n")
        for way in ("inputs", "outputs"):
            shown = [
                f"`{one}` {array['dtype']}[{', '.join(map(str, array['shape']))}]"
                for one, array in program[way].items()
            ]
            lines.append(f"- {way}: {', '.join(shown)}")
        if program["limits"]:
            lines.append(f"- limits: {', '.join(program['limits'])}")
    weights = ", ".join(about["weights"])
    lines.append(f"\nWeights: {weights}, named as {about['names_of_weights']} names them.")
    if tokenizers := sorted(path.name for path in home.glob("*tokenizer.json")):
        own = "format" in json.loads((home / tokenizers[0]).read_text(encoding="utf-8"))
        reader = "`attnzoo.data`, which needs no jax" if own else "the package `tokenizers`"
        lines.append(f"Tokens: {', '.join(tokenizers)}, read by {reader}.")
    return head + "\n".join(lines) + "\n"
