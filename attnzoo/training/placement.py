"""Placement of arrays on devices: a mesh from the config, shardings of parameters and batches.

Modules know nothing of it. The sharding of a parameter comes from its path, by the first matching
rule of a table; parameters without a rule are sharded by their role. Attention finds the mesh
through ``ops.sharded``; XLA does the rest.
"""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from attnzoo.attention.contract import Attention
from attnzoo.config.mesh import MeshConfig, RuleConfig
from attnzoo.errors import UserError
from attnzoo.ops.sharded import sharded
from attnzoo.training.parameters import describe, path_of

ROWS = ("data", "fsdp")


def _rule(pattern: str, *axes: Any) -> RuleConfig:
    return RuleConfig(pattern=pattern, axes=axes)


RULES = (
    # Heads, hidden units and rows of vocabularies are sharded along "tensor".
    _rule(r"(query|key|value|up|gate)/kernel$", "fsdp", "tensor"),
    _rule(r"(query|key|value|up|gate)/bias$", "tensor"),
    _rule(r"(attention|mechanism|feed_forward)/(out|down)/kernel$", "tensor", "fsdp"),
    # Experts are spread along "tensor".
    _rule(r"feed_forward/(gate|up|down)$", "tensor", "fsdp", None),
    _rule(r"sinks$", "tensor"),
    _rule(r"(embedding|tokens|output)/table$", "tensor", "fsdp"),
    _rule(r"embedding/embedding$", "tensor", None),
    _rule(r"output/kernel$", "fsdp", "tensor"),
    _rule(r"(positions|segments)/table$|^positions$", None, "fsdp"),
    # Every position reads these few numbers, so they are replicated.
    _rule(r"_bias/table$"),
)
"""The first match counts; leading axes without a name are not sharded (layers, windows)."""

DEFAULT = _rule(r".", "fsdp", None)
"""Sharding without a matching rule, except for vectors: inputs, which no recurrent step gathers."""
WHOLE = _rule(r".")


class Placement:
    """The devices of a training, and the shardings of its arrays.

    ``devices`` may be a number, for planning without real devices. If the config leaves
    ``mesh.data`` open, it is the largest number of copies that can share the ``rows`` of a batch
    evenly; with several processes no device may be left over.

    Raises:
      UserError: a mesh that does not fit the devices.
    """

    def __init__(
        self,
        config: MeshConfig,
        devices: Sequence[jax.Device] | int | None = None,
        *,
        rows: int | None = None,
    ):
        counted = isinstance(devices, int)
        devices = range(devices) if counted else jax.devices() if devices is None else devices
        self.config = config
        sizes = dict(config.sizes)
        rest = math.prod(size for size in sizes.values() if size is not None)
        if sizes["data"] is None:
            if len(devices) % rest:
                raise UserError(
                    f"mesh: {_words(sizes)} is {rest} devices, of which {len(devices)} is no "
                    "multiple; change an axis, or give mesh.data"
                )
            most = len(devices) // rest
            if rows is not None and jax.process_count() == 1:
                shared = [n for n in range(1, most + 1) if rows % (n * config.fsdp) == 0]
                most = max(shared, default=most)
            sizes["data"] = most
        self.sizes: dict[str, int] = {axis: size or 1 for axis, size in sizes.items()}
        wanted = math.prod(self.sizes.values())
        if wanted > len(devices):
            raise UserError(
                f"mesh: {_words(self.sizes)} wants {wanted} devices; there are {len(devices)}"
            )
        if wanted < len(devices) and jax.process_count() > 1:
            raise UserError(
                f"mesh: {_words(self.sizes)} leaves {len(devices) - wanted} of {len(devices)} "
                "devices idle, which several processes cannot; leave mesh.data at null"
            )
        axes = tuple(self.sizes.values()), tuple(self.sizes), (AxisType.Auto,) * len(self.sizes)
        self.mesh: Any = (
            AbstractMesh(*axes) if counted else jax.make_mesh(*axes, devices=devices[:wanted])
        )
        self.notes: list[str] = []
        if wanted > 1:
            self.notes.append(f"{wanted} devices: {_words(self.sizes)}")
        if wanted < len(devices):
            self.notes.append(
                f"{len(devices) - wanted} of {len(devices)} devices are idle: a batch of "
                f"{rows} rows cannot be shared by more"
                if config.data is None
                else f"{len(devices) - wanted} of {len(devices)} devices are idle"
            )

    @property
    def is_one(self) -> bool:
        """True if there is one device, and nothing to shard."""
        return self.mesh.size == 1

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context manager for calls of models, in which attention uses the mesh."""
        return contextlib.nullcontext() if self.is_one else sharded(self.mesh, batch=ROWS)

    def check(self, model: nnx.Module, batch_size: int, accumulate: int) -> None:
        """Check that the mesh divides batch and model; an abstract model is enough.

        Raises:
          UserError: with the axis and sizes that would fit.
        """
        rows = self.sizes["data"] * self.sizes["fsdp"]
        if batch_size % (rows * accumulate):
            per = rows * accumulate
            near = max(batch_size // per, 1) * per
            raise UserError(
                f"training.batch_size={batch_size} is not a multiple of {per} (mesh.data="
                f"{self.sizes['data']} x mesh.fsdp={self.sizes['fsdp']} x training.accumulate="
                f"{accumulate}); wanted {near} or {near + per}, say"
            )
        tensor = self.sizes["tensor"]
        for path, module in nnx.iter_modules(model):
            heads = module.head_groups if isinstance(module, Attention) else None
            if heads is not None and heads % tensor:
                fitting = [str(size) for size in range(1, heads + 1) if heads % size == 0]
                raise UserError(
                    f"mesh.tensor={tensor} does not divide the {heads} key/value heads of "
                    f"{'/'.join(map(str, path))}; wanted {' or '.join(fitting)}"
                )

    def of_parameters(self, params: Any) -> Any:
        """Return the sharding of each parameter of a tree, which may be abstract, by its path.

        Raises:
          UserError: a rule of the config that matches no parameter, or names more dimensions than
            there are.
        """
        unused, whole = set(range(len(self.config.rules))), []
        rules = [*self.config.rules, *RULES]

        def place(where: Any, leaf: Any) -> NamedSharding:
            name, parameter = path_of(where), describe(where, leaf.shape)
            for number, rule in enumerate(rules):
                ours = number >= len(self.config.rules)
                if ours and len(rule.axes) > len(leaf.shape) - parameter.layers:
                    continue
                if re.search(rule.pattern, name):
                    unused.discard(number)
                    break
            else:
                rule = WHOLE if parameter.role == "vector" else DEFAULT
            return NamedSharding(self.mesh, self._spec(name, leaf.shape, rule, whole))

        shardings = jax.tree_util.tree_map_with_path(place, params)
        if unused:
            pattern = self.config.rules[min(unused)].pattern
            names = [path_of(where) for where, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise UserError(
                f"mesh.rules: {pattern!r} matches no parameter (or an earlier rule took all that "
                f"it matches); the first of {len(names)} parameters is {names[0]}"
            )
        if whole and not self.is_one:
            more = ", ..." if len(whole) > 4 else ""
            self.notes.append(
                f"{len(whole)} parameters have a size that its axis does not divide, and are whole "
                f"there: {', '.join(whole[:4])}{more}"
            )
        return shardings

    def _spec(
        self, name: str, shape: tuple[int, ...], rule: RuleConfig, whole: list[str]
    ) -> PartitionSpec:
        if len(rule.axes) > len(shape):
            raise UserError(
                f"mesh.rules: {rule.pattern!r} names {len(rule.axes)} dimensions, but {name} has "
                f"shape {list(shape)}"
            )
        axes: list[str | None] = [None] * (len(shape) - len(rule.axes))
        for axis, size in zip(rule.axes, shape[len(axes) :], strict=True):
            fits = axis is None or size % self.sizes[axis] == 0
            axes.append(axis if fits else None)
            if not fits and size > 1 and name not in whole:
                whole.append(name)
        return PartitionSpec(*axes)

    def of_state(self, state: Any, parameters: Any, *, offload: str = "none") -> Any:
        """Return the shardings of a whole training state.

        Arrays with the path and shape of a parameter (momenta, averages) are sharded like it, all
        others are replicated. ``offload`` names the part of the state that is kept in host memory.
        """
        places = {
            path_of(where): sharding
            for where, sharding in jax.tree_util.tree_leaves_with_path(parameters)
        }
        shapes = {
            path_of(where): leaf.shape
            for where, leaf in jax.tree_util.tree_leaves_with_path(state["params"])
        }

        def place(where: Any, leaf: Any) -> NamedSharding:
            part, *parts = path_of(where).split("/")
            sharding = NamedSharding(self.mesh, PartitionSpec())
            for first in range(len(parts)):
                name = "/".join(parts[first:])
                if shapes.get(name) == leaf.shape:
                    sharding = places[name]
                    break
            # Counters stay on the device: they are small, and programs read them.
            far = part == offload and leaf.ndim > 0
            return sharding.with_memory_kind("pinned_host") if far else sharding

        return jax.tree_util.tree_map_with_path(place, state)

    def rows(self, batch_size: int) -> slice | None:
        """Return the rows of a batch that the devices of this process hold.

        None means the whole batch, also for a process whose rows lie apart.
        """
        if self.is_one or jax.process_count() == 1:
            return None
        held = self._of_rows(batch_size).addressable_devices_indices_map((batch_size,)).values()
        bounds = {index[0].indices(batch_size)[:2] for index in held if index is not None}
        first, last = min(bounds)[0], max(bounds)[1]
        together = sum(stop - start for start, stop in bounds) == last - first
        return slice(first, last) if together and last - first < batch_size else None

    def batch(self, batch: Mapping[str, Any], batch_size: int | None = None) -> Mapping[str, Any]:
        """Move a batch to the devices, sharded by rows.

        With ``batch_size`` every process passes only the rows that ``rows`` names, else the whole
        batch. An array whose rows the devices do not divide is replicated.
        """
        if self.is_one:
            return batch
        rows = self.rows(batch_size) if batch_size else None

        def place(x: Any) -> Array:
            x = np.asarray(x) if not isinstance(x, jax.Array) else x
            if rows is None or batch_size is None:
                return on_devices(x, self._of_rows(x.shape[0] if x.ndim else 0))
            shape = (batch_size, *x.shape[1:])
            return jax.make_array_from_process_local_data(self._of_rows(batch_size), x, shape)

        return {name: place(x) for name, x in batch.items()}

    def _of_rows(self, count: int) -> NamedSharding:
        spread = count > 0 and count % (self.sizes["data"] * self.sizes["fsdp"]) == 0
        return NamedSharding(self.mesh, PartitionSpec(ROWS if spread else None))


def on_devices(x: Any, sharding: NamedSharding) -> Array:
    """Shard an array that every process has whole."""
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _words(sizes: Mapping[str, int | None]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size and size > 1) or "1"
