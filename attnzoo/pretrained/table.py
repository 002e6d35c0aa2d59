"""The table of a model: which tensor of transformers is which parameter of ours, and how it is laid
out there. One table serves both directions.

A row's names may hold ``{encoder}`` or ``{layer}``, a depth of the table: it stands for as many
rows as that stack has blocks.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np

Shape = tuple[int, ...]
Tensor = np.ndarray | jax.Array


@runtime_checkable
class Form(Protocol):
    """How their tensor holds ours: one of ours, or several side by side."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """The shape that their tensor has if ours have these."""
        ...

    def ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Their tensor as ours, of these shapes."""
        ...

    def theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Ours as their tensor: what ``ours`` undoes."""
        ...


@dataclasses.dataclass(frozen=True)
class Fused:
    """Several of ours along ``axis`` of theirs: q, k and v in one matrix (GPT-2: axis 1).

    ``transposed``: theirs is a ``torch.nn.Linear``, out x in; axis 0 is then its output.
    """

    axis: int = 0
    transposed: bool = False

    def shape(self, ours: Sequence[Shape]) -> Shape:
        turned = [shape[::-1] if self.transposed else shape for shape in ours]
        total = sum(shape[self.axis] for shape in turned)
        return (*turned[0][: self.axis], total, *turned[0][self.axis + 1 :])

    def ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        turned = [shape[::-1] if self.transposed else shape for shape in shapes]
        ends = np.cumsum([shape[self.axis] for shape in turned])
        before = (slice(None),) * self.axis
        parts = [
            theirs[(*before, slice(end - shape[self.axis], end))]
            for shape, end in zip(turned, ends.tolist(), strict=True)
        ]
        return [part.T if self.transposed else part for part in parts]

    def theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        parts = [part.T if self.transposed else part for part in ours]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self.axis)


@dataclasses.dataclass(frozen=True)
class Reordered:
    """Theirs has shape ``full``; with its axes in the order ``axes`` it is reshaped to ours.

    A convolution over patches, D C P P, as a matrix P P C x D: ``Reordered((D, C, P, P), (2, 3, 1,
    0))``.
    """

    full: Shape
    axes: tuple[int, ...]

    def shape(self, ours: Sequence[Shape]) -> Shape:
        # A shape that cannot be reshaped to ours is wrong in the table, not in the file.
        if math.prod(self.full) != math.prod(ours[0]):
            raise ValueError(f"{self}: no reshape to {ours[0]}")
        return self.full

    def ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [theirs.transpose(self.axes).reshape(shapes[0])]

    def theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        ordered = ours[0].reshape([self.full[axis] for axis in self.axes])
        return ordered.transpose(np.argsort(self.axes))


SAME = Fused()
TRANSPOSED = Fused(transposed=True)


@dataclasses.dataclass(frozen=True)
class Row:
    """Their tensor ``theirs`` holds our parameters ``ours`` ("encoder/blocks/{layer}/...")."""

    theirs: str
    ours: tuple[str, ...]
    form: Form = SAME


def row(theirs: str, *ours: str, form: Form = SAME) -> Row:
    """A :class:`Row`."""
    return Row(theirs, ours, form)


def linear(theirs: str, *ours: str, bias: bool = True) -> list[Row]:
    """The rows of a ``torch.nn.Linear``, which keeps W as out x in; of several of ours in one."""
    kernels = tuple(f"{one}/kernel" for one in ours)
    rows = [Row(f"{theirs}.weight", kernels, TRANSPOSED)]
    return rows + ([Row(f"{theirs}.bias", tuple(f"{one}/bias" for one in ours))] if bias else [])


def norm(theirs: str, ours: str, *, bias: bool = True) -> list[Row]:
    """The rows of a layer norm, or without a bias of an RMS norm."""
    rows = [Row(f"{theirs}.weight", (f"{ours}/scale",))]
    return rows + ([Row(f"{theirs}.bias", (f"{ours}/bias",))] if bias else [])


def embedding(theirs: str, ours: str) -> Row:
    """The row of a ``torch.nn.Embedding``."""
    return Row(f"{theirs}.weight", (f"{ours}/table",))


@dataclasses.dataclass(frozen=True)
class Table:
    """All rows of a model.

    Attributes:
      rows: every parameter of ours stands in exactly one.
      depths: how many blocks each stack has, by the name used in the rows.
      copies: their tensors that repeat another one (tied weights): one of the two is enough, and
        if both are there they must be equal.
      ignored: regular expressions of their tensors that mean nothing to us.
      renamed: (regular expression, replacement) of names that older files have.
    """

    rows: Sequence[Row]
    depths: Mapping[str, int]
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: Sequence[str] = ()
    renamed: Sequence[tuple[str, str]] = ()

    def expanded(self, row: Row) -> Iterator[tuple[int | None, Row]]:
        """The rows that a row stands for, each with its layer; the row itself without one."""
        depth = next((name for name in self.depths if f"{{{name}}}" in row.theirs), None)
        if depth is None:
            yield None, row
            return
        for i in range(self.depths[depth]):
            number = {depth: i}
            ours = tuple(one.format(**number) for one in row.ours)
            yield i, Row(row.theirs.format(**number), ours, row.form)
