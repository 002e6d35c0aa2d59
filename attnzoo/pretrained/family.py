"""Correspondence between an architecture of transformers and a model of attnzoo."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.errors import UserError
from attnzoo.pretrained.table import Shape, Table

Sizes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of a config.json, with errors that name the file, and the names of its tensors."""

    values: Mapping[str, Any]
    file: Path
    tensors: Sequence[str] = ()

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise UserError(f"{self.file}: no {key}")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        """Return a value, or the default if it is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def choose(self, key: str, meanings: Mapping[Any, Any], default: Any) -> Any:
        """Return the attnzoo meaning of a setting, or of the default.

        Raises:
          UserError: the value is not in ``meanings``.
        """
        return self.value_in(key, self.get(key, default), meanings)

    def value_in(self, key: str, value: Any, meanings: Mapping[Any, Any]) -> Any:
        """Return the attnzoo meaning of a value of this key.

        Raises:
          UserError: the value is not in ``meanings``.
        """
        if value not in meanings:
            wanted = " or ".join(map(str, meanings))
            raise UserError(f"{self.file}: {key}={value!r} is not supported; wanted {wanted}")
        return meanings[value]

    def refuse_unless(self, **wanted: Any) -> None:
        """Raise a UserError if one of these settings is present with another value."""
        for key, value in wanted.items():
            self.choose(key, {value: value}, value)


@dataclasses.dataclass(frozen=True)
class Family:
    """Functions that convert between config.json and an attnzoo model.

    Attributes:
      model: the model class, built as ``model(config, *sizes, rngs=rngs)``; it keeps ``config``.
      config: the class of its config.
      sizes: function from parameter shapes, by path, to the sizes that the model was built with.
      read: function from config.json to config and sizes.
      write: function from config and sizes to config.json, with ``model_type`` and
        ``architectures``; UserError if transformers has no such model.
      table: function from config and sizes to the tensor table.
    """

    model: Any
    config: type
    sizes: Callable[[Mapping[str, Shape]], Sizes]
    read: Callable[[Settings], tuple[Any, Sizes]]
    write: Callable[[Any, Sizes], dict[str, Any]]
    table: Callable[[Any, Sizes], Table]


def plain_heads(attention: Any, dim: int) -> int | None:
    """Return the number of heads of plain multi-head attention, None for any other attention."""
    plain = MultiHeadConfig(num_heads=getattr(attention, "num_heads", 1))
    if attention.kind != "multi_head" or dim % attention.num_heads:
        return None
    same = {"num_kv_heads": attention.num_heads, "head_dim": dim // attention.num_heads}
    given = {name: getattr(attention, name) for name in same}
    matches = all(value in (None, same[name]) for name, value in given.items())
    stripped = dataclasses.replace(attention, num_kv_heads=None, head_dim=None)
    return attention.num_heads if matches and stripped == plain else None


def unsupported_message(model: str, attention: Any) -> str:
    """Return the message that transformers has no such model."""
    return (
        f"transformers has no {model} with {attention}; our own folder takes it (convert --to own)"
    )
