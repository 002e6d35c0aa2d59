"""Gates of convolutional networks: attention over the channels or places of one feature map.

They have no queries or keys, and therefore an interface of their own, :class:`Gate`. Feature maps
are ``B h w C``: batch, rows, columns, channels.
"""

from typing import ClassVar

from jaxtyping import Array, Float

from attnzoo.attention.facts import Facts
from attnzoo.module import Module
from attnzoo.ops.softmax import compute_dtype


class Gate(Module):
    """Interface of every gate: ``gate(x) = x * weights(x)``, unless it overrides :meth:`apply`.

    The weights broadcast to ``x`` and are computed in float32 (or wider, if ``x`` is). Each is an
    independent sigmoid: they lie between 0 and 1 (BAM: between 1 and 2) and do not sum to one.
    Those of a non-local block are of pairs of places instead. ``channels`` is the number of
    channels that the gate takes; None: any number.
    """

    facts: ClassVar[Facts | None] = None
    channels: int | None = None

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B #h #w #C"]:
        """Return the factors of ``x``, of size 1 along the axes on which they do not depend."""
        raise NotImplementedError(f"{type(self).__name__}.weights")

    def apply(
        self, x: Float[Array, "B h w C"], weights: Float[Array, "B ..."], use_running_average: bool
    ) -> Float[Array, "B h w C"]:
        """Return the result for a map and its weights: their product."""
        return x * weights

    def __call__(
        self,
        x: Float[Array, "B h w C"],
        *,
        use_running_average: bool = True,
        return_weights: bool = False,
    ) -> Float[Array, "B h w C"] | tuple[Float[Array, "B h w C"], Float[Array, "B ..."]]:
        """Apply the weights of ``x`` to it; return the same shape and dtype.

        ``use_running_average=False`` is for training: batch norms use the statistics of this batch
        and update their running ones. ``return_weights`` adds the float32 weights to the result.
        ValueError if ``x`` does not have four axes, or has the wrong number of channels.
        """
        if x.ndim != 4:
            raise ValueError(f"x has shape {x.shape}; wanted B h w C")
        if self.channels not in (None, x.shape[3]):
            raise ValueError(
                f"x has {x.shape[3]} channels, but the gate was built for channels={self.channels}"
            )
        wide = x.astype(compute_dtype(x))
        weights = self.weights(wide, use_running_average=use_running_average)
        gated = self.apply(wide, weights, use_running_average).astype(x.dtype)
        return (gated, weights) if return_weights else gated
