"""Tables that map tensors of transformers to attnzoo parameters, with their layout.

One table serves both directions. A name in a row may contain ``{encoder}`` or ``{layer}``, a depth
of the table: the row then stands for one row per block of that stack. With ``{expert}`` it stands
for one row per expert of a block, whose parameters have an axis of experts.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np

Shape = tuple[int, ...]
Tensor = np.ndarray | jax.Array


@runtime_checkable
class Form(Protocol):
    """Layout of one or several attnzoo parameters in one transformers tensor."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Return the shape of the transformers tensor for parameters of these shapes."""
        ...

    def ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Convert the transformers tensor to parameters of these shapes."""
        ...

    def theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Convert parameters to the transformers tensor, inverting the other method."""
        ...


@dataclasses.dataclass(frozen=True)
class Fused:
    """Parameters concatenated along ``axis``, such as q, k and v in one matrix (GPT-2: axis 1).

    ``transposed``: the tensor is a ``torch.nn.Linear`` weight, out x in, whose axis 0 is the
    output.
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
    """Tensor of shape ``full``, transposed to ``axes`` and reshaped to a parameter.

    A convolution over patches, D C P P, as a matrix P P C x D is ``Reordered((D, C, P, P), (2, 3,
    1, 0))``.
    """

    full: Shape
    axes: tuple[int, ...]

    def shape(self, ours: Sequence[Shape]) -> Shape:
        # A shape that cannot be reshaped is an error in the table, not in the file.
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
    """Tensor name with the paths of its parameters, such as "encoder/blocks/{layer}/..."."""

    theirs: str
    ours: tuple[str, ...]
    form: Form = SAME


def row(theirs: str, *ours: str, form: Form = SAME) -> Row:
    """Return a :class:`Row`."""
    return Row(theirs, ours, form)


def linear(theirs: str, *ours: str, bias: bool = True) -> list[Row]:
    """Return the rows of a ``torch.nn.Linear`` (W is out x in), of one or several parameters."""
    kernels = tuple(f"{one}/kernel" for one in ours)
    rows = [Row(f"{theirs}.weight", kernels, TRANSPOSED)]
    return rows + ([Row(f"{theirs}.bias", tuple(f"{one}/bias" for one in ours))] if bias else [])


def norm(theirs: str, ours: str, *, bias: bool = True) -> list[Row]:
    """Return the rows of a layer norm, or of an RMS norm if not ``bias``.

    ``theirs`` is the prefix of its tensors in transformers, ``ours`` the path of the module here.
    """
    rows = [Row(f"{theirs}.weight", (f"{ours}/scale",))]
    return rows + ([Row(f"{theirs}.bias", (f"{ours}/bias",))] if bias else [])


def embedding(theirs: str, ours: str) -> Row:
    """Return the row of a ``torch.nn.Embedding``."""
    return Row(f"{theirs}.weight", (f"{ours}/table",))


@dataclasses.dataclass(frozen=True)
class Table:
    """Tensor table of a model.

    Attributes:
      rows: rows; every parameter is in exactly one.
      depths: number of blocks of each stack, by the name used in the rows.
      experts: number of experts of each block.
      blocks: the attnzoo blocks of a stack whose layers share blocks; 0, 1, 2, ... if absent.
      copies: tensors that repeat another one (tied weights): one of the two is enough, and if both
        are present they must be equal.
      ignored: regular expressions of tensors that attnzoo does not need.
      kept: regular expressions of tensors that attnzoo does not need, but saves again.
      constants: functions from the shape of a tensor to the values that it must have.
      renamed: (regular expression, replacement) of names in older files.
    """

    rows: Sequence[Row]
    depths: Mapping[str, int]
    experts: int = 0
    blocks: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: Sequence[str] = ()
    kept: Sequence[str] = ()
    constants: Mapping[str, Callable[[Shape], np.ndarray]] = dataclasses.field(default_factory=dict)
    renamed: Sequence[tuple[str, str]] = ()

    def expanded(self, row: Row) -> Iterator[tuple[int | None, int | None, Row]]:
        """Yield the rows that a row stands for, with their layers and experts, or the row alone."""
        depth = next((name for name in self.depths if f"{{{name}}}" in row.theirs), None)
        if depth is None:
            yield None, None, row
            return
        for i in range(self.depths[depth]):
            block = {depth: self.blocks[depth][i] if depth in self.blocks else i}
            ours = tuple(one.format(**block) for one in row.ours)
            for expert in range(self.experts) if "{expert}" in row.theirs else (None,):
                names = {depth: i, "expert": expert}
                yield i, expert, Row(row.theirs.format(**names), ours, row.form)
