"""Initial weights from another run or a pretrained model."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from attnzoo.errors import UserError
from attnzoo.training.checkpoint import restore
from attnzoo.training.placement import on_devices, path_of


def start_from(path: Path, params: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Replace parameters by those of ``path``, and return notes on the ones that stay random.

    ``path`` is a run directory or the folder of a pretrained model. A parameter that it has under
    the same name is taken, a new head keeps its initial values, other parameters of ``path`` are
    ignored.

    Raises:
      UserError: no parameter fits, or one has another shape; the message names it.
    """
    theirs = _leaves(_read(path))
    taken, fresh = set(), []

    def place(where: Any, leaf: Any) -> Any:
        name = path_of(where)
        if name not in theirs:
            fresh.append(name)
            return leaf
        if theirs[name].shape != leaf.shape:
            raise UserError(
                f"start_from={path}: {name} has shape {list(theirs[name].shape)}, but the model "
                f"wants {list(leaf.shape)}"
            )
        taken.add(name)
        value = np.asarray(theirs[name], leaf.dtype)
        if leaf.committed:  # already sharded over several devices
            return on_devices(value, leaf.sharding)
        return jax.numpy.asarray(value)

    params = jax.tree_util.tree_map_with_path(place, params)
    if not taken:
        raise UserError(f"start_from={path}: no parameter of it is one of this model")
    notes = [f"start_from={path}: {len(taken)} parameters taken"]
    for what, names in (
        ("start fresh", fresh),
        ("are not wanted", sorted(set(theirs) - taken)),
    ):
        if names:
            more = ", ..." if len(names) > 6 else ""
            notes.append(f"{len(names)} parameters {what}: {', '.join(names[:6])}{more}")
    return params, notes


def _read(path: Path) -> dict[str, Any]:
    """Read the parameters of a run directory (best, else latest) or of a pretrained folder."""
    for home in (path / "best", path / "checkpoints"):
        if any(step.name.isdecimal() for step in home.glob("*")):
            state = restore(home).state
            return state.get("ema", state["params"])
    from attnzoo import pretrained

    params = nnx.state(pretrained.load(path), nnx.Param)
    return nnx.to_pure_dict(params)


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    return {path_of(where): leaf for where, leaf in jax.tree_util.tree_leaves_with_path(tree)}
