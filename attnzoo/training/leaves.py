"""Conversion of a tree of arrays to a flat list of named host arrays, and back, strictly."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import xxhash

from attnzoo.errors import UserError
from attnzoo.training.processes import gather_to_first


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a tree, on the host. A typed random key is stored as its uint32 data."""

    path: tuple[str | int, ...]
    dtype: str
    array: np.ndarray

    @property
    def name(self) -> str:
        """The path as one string, for instance "params/encoder/kernel"."""
        return "/".join(map(str, self.path)) or "state"

    @classmethod
    def empty(cls, entry: dict[str, Any]) -> "Leaf":
        """Make a leaf from its manifest entry, with an array that is not yet filled."""
        dtype = np.uint32 if "key<" in entry["dtype"] else jax.numpy.dtype(entry["dtype"])
        return cls(tuple(entry["path"]), entry["dtype"], np.empty(entry["shape"], dtype))

    def entry(self) -> dict[str, Any]:
        """Return the manifest entry of this leaf."""
        shape = list(self.array.shape)
        digest = xxhash.xxh3_128(json.dumps([self.path, self.dtype, shape]).encode())
        digest.update(np.ascontiguousarray(self.array).reshape(-1).view(np.uint8).data)
        return {
            "path": list(self.path),
            "dtype": self.dtype,
            "shape": shape,
            "digest": digest.hexdigest(),
        }


def snapshot(state: Any) -> list[Leaf]:
    """Copy every array of a tree to the host, keys included; the tree may then be donated.

    Arrays sharded over several processes are gathered in the first one.

    Raises:
      ValueError: a leaf is not an array, there is none, or two have the same path.
    """
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    leaves = []
    for path, value in flat:
        if isinstance(value, jax.Array):
            if value.is_fully_addressable:
                _data(value).copy_to_host_async()
        elif not isinstance(value, np.ndarray | np.generic):
            raise ValueError(f"state{jax.tree_util.keystr(path)}={value!r} is not an array")
    for path, value in flat:
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            array = gather_to_first(_data(value))
        else:
            array = np.array(_data(value), order="C")
        leaves.append(Leaf(_path(path), _dtype(value), array))
    if not any(leaf.array.size for leaf in leaves):
        raise ValueError("state holds no array with any element")
    if len({leaf.name for leaf in leaves}) < len(leaves):
        raise ValueError("state has two leaves of the same path (keys that contain '/'?)")
    return leaves


def build(leaves: list[Leaf], abstract: Any, where: str) -> Any:
    """Fill the tree of `abstract` with the stored arrays; None gives nested dictionaries.

    Paths, shapes and dtypes must be the same in both: UserError.
    """
    if abstract is None:
        tree: Any = {}
        for leaf in leaves:
            node = tree
            for part in leaf.path[:-1]:
                node = node.setdefault(part, {})
            node[leaf.path[-1]] = leaf.array
        return tree
    flat, structure = jax.tree_util.tree_flatten_with_path(abstract)
    wanted = {_path(path): value for path, value in flat}
    stored = {leaf.path: leaf for leaf in leaves}
    hint = "was it saved with another model or optimizer?"
    for paths, text in (
        (wanted.keys() - stored.keys(), "is wanted but not in the checkpoint"),
        (stored.keys() - wanted.keys(), "is in the checkpoint but not wanted"),
    ):
        if paths:
            first, *more = sorted("/".join(map(str, path)) for path in paths)
            others = f" (and {len(more)} more)" if more else ""
            raise UserError(f"{where}: {first} {text}{others}; {hint}")
    for path, value in wanted.items():
        leaf = stored[path]
        shape = leaf.array.shape[: len(value.shape)] if "key<" in leaf.dtype else leaf.array.shape
        came, want = f"{leaf.dtype}{list(shape)}", f"{_dtype(value)}{list(value.shape)}"
        if came != want:
            raise UserError(f"{where}: {leaf.name} is {came}, wanted {want}; {hint}")
    return structure.unflatten(_place(stored[path].array, value) for path, value in wanted.items())


def _place(array: np.ndarray, abstract: Any) -> Any:
    """Put a stored array where the abstract leaf is: host, default device, or its sharding."""
    if isinstance(abstract, np.ndarray | np.generic):
        return array
    is_key = jax.dtypes.issubdtype(abstract.dtype, jax.dtypes.prng_key)
    # An uncommitted array stays uncommitted, so that it may be combined with any device's.
    committed = not isinstance(abstract, jax.Array) or abstract.committed
    sharding = getattr(abstract, "sharding", None) if committed else None
    if sharding is not None and sharding.num_devices > 1 and not is_key:
        # Each device gets its part: no device or process holds the whole array.
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: np.array(array[index])
        )
    value = jax.device_put(array, may_alias=False)
    if value.dtype != array.dtype:
        raise UserError(f"cannot hold {array.dtype} on a device: 64-bit types are off in jax")
    value = jax.random.wrap_key_data(value, impl=_key_impl(abstract)) if is_key else value
    return value if sharding is None else jax.device_put(value, sharding)


def _path(path: tuple[Any, ...]) -> tuple[str | int, ...]:
    """Convert a jax key path to dictionary keys, field names and positions."""
    parts = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))) for k in path)
    return tuple(part if isinstance(part, int) else str(part) for part in parts)


def _dtype(value: Any) -> str:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"key<{_key_impl(value)}>"
    return np.dtype(value.dtype).name


def _key_impl(value: Any) -> str:
    return str(value.dtype._impl.name)


def _data(value: Any) -> Any:
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(value)
    return value
