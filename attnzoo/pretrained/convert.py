"""Conversion of tensors in files to parameters of a model and back, one tensor at a time."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo.errors import UserError
from attnzoo.pretrained.files import Tensors
from attnzoo.pretrained.table import Form, Row, Shape, Table

Sharding = Callable[[str, Shape], jax.sharding.Sharding | None]
"""Function from path and shape of a parameter to its sharding; None: the default device."""

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class _Part:
    """Tensor of a file, with the path and the index of each parameter in it.

    The index is that of the layer, if it is scanned, and of the expert.
    """

    theirs: str
    places: tuple[tuple[str, tuple[int, ...]], ...]
    form: Form

    def shapes(self, leaves: Mapping[str, Any]) -> list[Shape]:
        return [leaves[path].shape[len(index) :] for path, index in self.places]


def parameters(model: nnx.Module) -> dict[str, Any]:
    """Return the parameters of a model (or of its abstract shape) by path, "encoder/blocks/0/...".

    Raises:
      ValueError: the model has variables that are not parameters.
    """
    _, params, rest = nnx.split(model, nnx.Param, ...)
    if others := jax.tree.leaves(rest):
        raise ValueError(f"{type(model).__name__} has {len(others)} variables that are no Param")
    return {_path(path): leaf for path, leaf in _flat(params)[0]}


def own_table(leaves: Mapping[str, Any]) -> Table:
    """Return the table of attnzoo's own files, in which each parameter has its path as name."""
    return Table([Row(path, (path,)) for path in leaves], {}, kept=(r"\w+(\.\w+)+",))


def fill(
    abstract: nnx.Module,
    table: Table,
    tensors: Tensors,
    *,
    dtype: Any = None,
    sharding: Sharding | None = None,
) -> nnx.Module:
    """Return the model of an abstract shape, filled with tensors.

    Tensors are read one by one: memory holds the model and one tensor, or the tensors of one
    scanned parameter.

    Args:
      dtype: dtype of all parameters; as stored if None.

    Raises:
      UserError: a tensor is missing or unknown, or has a wrong shape or dtype.
    """
    leaves = parameters(abstract)
    plan = _plan(table, leaves)
    names = _checked(table, plan, leaves, tensors, dtype)
    filled: dict[str, jax.Array] = {}
    for path, array in _ours(plan, leaves, lambda name: tensors.read(names[name]), np.stack):
        array = array if dtype is None else array.astype(jnp.dtype(dtype))
        filled[path] = _place(path, array, sharding)
    _check_copies(table, tensors, names)
    _check_constants(table, tensors, names)
    graph, params = nnx.split(abstract)
    flat, structure = _flat(params)
    return nnx.merge(graph, structure.unflatten(filled[_path(path)] for path, _ in flat))


def kept(table: Table, tensors: Tensors, dtype: Any = None) -> dict[str, np.ndarray]:
    """Return the tensors that the table keeps for saving, without a place in the model."""
    found = {
        name: tensors.read(name)
        for name in tensors.names
        if any(re.fullmatch(pattern, name) for pattern in table.kept)
    }
    return found if dtype is None else {k: v.astype(jnp.dtype(dtype)) for k, v in found.items()}


def from_tensors(
    table: Table, leaves: Mapping[str, Any], tensors: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Compute the attnzoo parameters by path from transformers tensors.

    For use inside a compiled function; ``leaves`` are the parameters' shapes.
    """
    return dict(_ours(_plan(table, leaves), leaves, tensors.__getitem__, jnp.stack))


def tensors_of(
    model: nnx.Module, table: Table
) -> tuple[list[tuple[str, int]], Iterator[tuple[str, np.ndarray]]]:
    """Return names and bytes of the transformers tensors of a model, and an iterator over them."""
    leaves = parameters(model)
    parts = [part for parts in _plan(table, leaves) for part in parts]
    sizes = []
    for part in parts:
        width = leaves[part.places[0][0]].dtype.itemsize
        size = width * int(np.prod(part.form.shape(part.shapes(leaves)), dtype=np.int64))
        sizes.append((part.theirs, size))

    def each() -> Iterator[tuple[str, np.ndarray]]:
        for part in parts:
            arrays = [np.asarray(leaves[path][index]) for path, index in part.places]
            yield part.theirs, part.form.theirs(arrays)

    return sizes, each()


def _ours(
    plan: list[list[_Part]],
    leaves: Mapping[str, Any],
    read: Callable[[str], Any],
    stack: Callable[[list[Any]], Any],
) -> Iterator[tuple[str, Any]]:
    """Yield each attnzoo parameter as soon as its tensors have been read."""
    for parts in plan:
        found: dict[str, list[Any]] = {}
        for part in parts:
            pieces = part.form.ours(read(part.theirs), part.shapes(leaves))
            for (path, index), piece in zip(part.places, pieces, strict=True):
                if not index:
                    yield path, piece
                    continue
                found.setdefault(path, []).append(piece)
                leading = leaves[path].shape[: len(index)]
                if len(found[path]) == math.prod(leading):
                    whole = stack(found.pop(path))
                    yield path, whole.reshape(*leading, *whole.shape[1:])


def _plan(table: Table, leaves: Mapping[str, Any]) -> list[list[_Part]]:
    """Return the tensors of each row, with the parameters that each tensor holds."""
    plan, seen = [], set()
    for row in table.rows:
        parts = []
        for layer, expert, one in table.expanded(row):
            inner = () if expert is None else (expert,)
            places = []
            for template, path in zip(row.ours, one.ours, strict=True):
                scanned = re.sub(r"/\{\w+\}/", "/", template)
                if path in leaves:
                    places.append((path, inner))
                elif layer is not None and scanned in leaves:
                    places.append((scanned, (layer, *inner)))
                else:
                    raise ValueError(f"the table has {path}, which the model has not")
            seen |= {path for path, _ in places}
            parts.append(_Part(one.theirs, tuple(places), one.form))
        plan.append(parts)
    if unnamed := sorted(set(leaves) - seen):
        raise ValueError(f"the table does not have {unnamed[0]} of the model")
    return plan


def _checked(
    table: Table,
    plan: list[list[_Part]],
    leaves: Mapping[str, Any],
    tensors: Tensors,
    dtype: Any,
) -> dict[str, str]:
    """Return the file's tensor name for each name of the table, after checking that all fit.

    Raises:
      UserError: a tensor is missing or unknown, or has a wrong shape or dtype.
    """
    names: dict[str, str] = {}
    for name in tensors.names:
        plain = name
        for old, new in table.renamed:
            plain = re.sub(old, new, plain)
        names[plain] = name
    for copy, original in table.copies.items():
        if copy in names:
            names.setdefault(original, names[copy])
    parts = {part.theirs: part for parts in plan for part in parts}
    if missing := [name for name in parts if name not in names]:
        raise UserError(f"{tensors.folder}: no tensor {missing[0]}{_more(missing)}")
    extra = [
        name
        for plain, name in names.items()
        if plain not in parts
        and plain not in table.copies
        and plain not in table.constants
        and not any(re.fullmatch(one, plain) for one in (*table.ignored, *table.kept))
    ]
    if extra:
        raise UserError(
            f"{tensors.file(extra[0])}: tensor {extra[0]} has no place in the model{_more(extra)}"
        )
    for plain, part in parts.items():
        name = names[plain]
        shape, stored = tensors.shape(name), tensors.dtype(name)
        wanted = part.form.shape(part.shapes(leaves))
        where = f"{tensors.file(name)}: tensor {name} is {stored}{list(shape)}, wanted"
        if shape != wanted:
            raise UserError(f"{where} {list(wanted)}")
        if stored not in FLOATS:
            raise UserError(f"{where} one of {', '.join(FLOATS)}")
        if stored == "F64" and dtype is None and not jax.config.read("jax_enable_x64"):
            raise UserError(f"{where} 32 bits or fewer (give dtype=float32 to round it)")
    return names


def _check_copies(table: Table, tensors: Tensors, names: Mapping[str, str]) -> None:
    """Raise a UserError if two stored copies of a tied weight differ."""
    for copy, original in table.copies.items():
        if copy not in names:
            continue
        first, second = tensors.read(names[original]), tensors.read(names[copy])
        if not np.array_equal(first, second):
            raise UserError(
                f"{tensors.file(names[copy])}: tensor {copy} is not equal to {original}; here they "
                "are one"
            )


def _check_constants(table: Table, tensors: Tensors, names: Mapping[str, str]) -> None:
    """Raise a UserError if a stored constant has other values than those that are computed here."""
    for plain, values in table.constants.items():
        if plain not in names:
            continue
        found = tensors.read(names[plain])
        wanted = values(found.shape)
        near = max(1e-5, float(jnp.finfo(found.dtype).eps))
        if found.shape != wanted.shape or np.abs(found.astype(np.float32) - wanted).max() > near:
            raise UserError(
                f"{tensors.file(names[plain])}: tensor {plain} is not what it is computed as here; "
                "a table of the file's own is not supported"
            )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _place(path: str, array: np.ndarray, sharding: Sharding | None) -> jax.Array:
    where = None if sharding is None else sharding(path, array.shape)
    if where is None:
        return jax.device_put(np.ascontiguousarray(array))
    # Each device is given its part alone, which may be a view of a transposed tensor.
    return jax.make_array_from_callback(
        array.shape, where, lambda part: np.ascontiguousarray(array[part])
    )


def _flat(state: Any) -> tuple[list[tuple[Any, Any]], Any]:
    return jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))


def _path(path: tuple[Any, ...]) -> str:
    return "/".join(str(part.key) for part in path)
