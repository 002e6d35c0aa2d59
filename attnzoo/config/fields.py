"""Decorator, bounds and union marker for config dataclasses.

Nothing heavy is imported here, so that models can use their configs and ``--help`` is instant.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, dataclass_transform

from annotated_types import Ge, Gt, Interval, MinLen

from attnzoo.config.external import registered_kinds

Class = TypeVar("Class")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[Class]) -> type[Class]:
    """Make ``cls`` a frozen, keyword-only dataclass that refuses unknown keys when loaded.

    Every field is followed by a string with its meaning, which ``--help`` prints. Bounds are
    annotations, ``Annotated[int, Positive]``; the loader checks them, direct construction does not.
    Conditions on several fields are checked in ``__post_init__`` (ValueError), so in both cases.
    """
    made = dataclass(frozen=True, kw_only=True)(cls)
    # Read by pydantic, which is imported only when a config is loaded.
    made.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}
    return made


class ByKind:
    """Metadata of ``Annotated[A | B, Kind]``: the field ``kind`` selects the class.

    With a ``base``, users' classes that derive from it are members too (``config.external``).
    """

    def __init__(self, base: type | None = None):
        self.base = base

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Discriminator

        more = () if self.base is None else registered_kinds(self.base)
        union: Any = Union.__getitem__((source, *more))
        return Discriminator("kind").__get_pydantic_core_schema__(union, handler)


Kind = ByKind()

Positive = Gt(0)
Layers = Interval(gt=0, le=10_000)
NotNegative = Ge(0)
NotEmpty = MinLen(1)
Probability = Interval(ge=0, le=1)
DropRate = Interval(ge=0, lt=1)

Remat = Literal["none", "full", "dots", "offload"]
