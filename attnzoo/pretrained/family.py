"""What one architecture of transformers has in common with one model of ours."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnzoo.config.attention import MultiHead
from attnzoo.errors import UserError
from attnzoo.pretrained.table import Shape, Table

Sizes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """A config.json, with errors that name it, and the names of the tensors beside it."""

    values: Mapping[str, Any]
    file: Path
    tensors: Sequence[str] = ()

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise UserError(f"{self.file}: no {key}")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        """A value; the default if it is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def choose(self, key: str, meanings: Mapping[Any, Any], default: Any) -> Any:
        """What a value, or the default, is called with us; others are an error."""
        return self.value_in(key, self.get(key, default), meanings)

    def value_in(self, key: str, value: Any, meanings: Mapping[Any, Any]) -> Any:
        """What a value that stands under this key is called with us; others are an error."""
        if value not in meanings:
            wanted = " or ".join(map(str, meanings))
            raise UserError(f"{self.file}: {key}={value!r} is not supported; wanted {wanted}")
        return meanings[value]

    def refuse_unless(self, **wanted: Any) -> None:
        """An error if one of these settings is there and something else."""
        for key, value in wanted.items():
            self.choose(key, {value: value}, value)


@dataclasses.dataclass(frozen=True)
class Family:
    """How to go from config.json to a model of ours and back.

    Attributes:
      model: built as ``model(config, *sizes, rngs=rngs)``; it keeps ``config``.
      config: the class of its config.
      sizes: from the shapes of our parameters, by path, to the sizes it was built with.
      read: from config.json to config and sizes.
      write: from config and sizes to config.json, with ``model_type`` and ``architectures``;
        UserError if transformers has no such model.
      table: the names.
    """

    model: Any
    config: type
    sizes: Callable[[Mapping[str, Shape]], Sizes]
    read: Callable[[Settings], tuple[Any, Sizes]]
    write: Callable[[Any, Sizes], dict[str, Any]]
    table: Callable[[Any, Sizes], Table]


def plain_heads(attention: Any, dim: int) -> int | None:
    """The number of heads of an attention that is nothing but multi-head; None of any other."""
    plain = MultiHead(num_heads=getattr(attention, "num_heads", 1))
    if attention.kind != "multi_head" or dim % attention.num_heads:
        return None
    same = {"num_kv_heads": attention.num_heads, "head_dim": dim // attention.num_heads}
    given = {name: getattr(attention, name) for name in same}
    matches = all(value in (None, same[name]) for name, value in given.items())
    stripped = dataclasses.replace(attention, num_kv_heads=None, head_dim=None)
    return attention.num_heads if matches and stripped == plain else None


def swapped(model: str, attention: Any) -> str:
    """Why a model cannot be written for transformers."""
    return (
        f"transformers has no {model} with {attention}; our own folder takes it (convert --to own)"
    )
