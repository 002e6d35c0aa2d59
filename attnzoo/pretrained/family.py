"""Correspondence between an architecture of transformers and a model of attnzoo."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.errors import UserError
from attnzoo.pretrained.fields import Fields, Settings
from attnzoo.pretrained.table import Shape, Table

Sizes = tuple[int, ...]


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
      fields: the fields of its config.json.
      source: kind of its encoder of sources that are no text; None: it reads text.
    """

    model: Any
    config: type
    sizes: Callable[[Mapping[str, Shape]], Sizes]
    read: Callable[[Settings], tuple[Any, Sizes]]
    write: Callable[[Any, Sizes], dict[str, Any]]
    table: Callable[[Any, Sizes], Table]
    fields: Fields
    source: str | None = None


def plain_heads(attention: Any, dim: int, *, key_bias: bool = True) -> int | None:
    """Return the number of heads of plain multi-head attention, None for any other attention."""
    plain = MultiHeadConfig(num_heads=getattr(attention, "num_heads", 1), key_bias=key_bias)
    if attention.kind != "multi_head" or dim % attention.num_heads:
        return None
    same = {"num_kv_heads": attention.num_heads, "head_dim": dim // attention.num_heads}
    given = {name: getattr(attention, name) for name in same}
    matches = all(value in (None, same[name]) for name, value in given.items())
    stripped = dataclasses.replace(attention, num_kv_heads=None, head_dim=None)
    return attention.num_heads if matches and stripped == plain else None


def require(model: str, config: Any, settings: Mapping[str, Any]) -> None:
    """Raise a UserError unless the config has these settings."""
    for field, wanted in settings.items():
        if (value := getattr(config, field)) != wanted:
            raise UserError(
                f"transformers has no {model} with {field}={value}; wanted {wanted}; our own "
                "folder takes it (convert --to own)"
            )


def unsupported_message(model: str, attention: Any) -> str:
    """Return the message that transformers has no such model."""
    return (
        f"transformers has no {model} with {attention}; our own folder takes it (convert --to own)"
    )
