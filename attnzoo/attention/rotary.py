"""Rotary positions of an attention module: the settings of ``ops.rotary_embedding``."""

import dataclasses

from jaxtyping import Array, Float, Int

from attnzoo.ops.rotary import DynamicNTKScaling, Layout, Scaling, rotary_embedding


@dataclasses.dataclass(frozen=True)
class Rotary:
    """How queries and keys turn with their positions: the settings of ``ops.rotary_embedding``."""

    base: float = 10_000.0
    layout: Layout = "half"
    scaling: Scaling | None = None
    width: int | None = None
    """Only the first ``width`` features of a head turn; all if None."""

    def __call__(
        self, x: Float[Array, "B T N H"], positions: Int[Array, "#B T"], length: int
    ) -> Float[Array, "B T N H"]:
        return rotary_embedding(
            x,
            positions,
            base=self.base,
            layout=self.layout,
            scaling=self.scaling,
            width=self.width,
            length=length,
        )

    def check_cache(self) -> None:
        """Refuse to keep turned keys that a longer sequence would turn anew."""
        if isinstance(self.scaling, DynamicNTKScaling):
            raise NotImplementedError(
                "rotary.scaling=DynamicNTKScaling turns earlier keys anew as the sequence grows; "
                "the cache holds turned keys. Wanted another scaling"
            )
