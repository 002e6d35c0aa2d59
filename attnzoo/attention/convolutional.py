"""Gates of convolutional networks: attention that weighs channels or places of one feature map.

They have no queries and keys, so they share a contract of their own, :class:`Gate`. Feature maps
are ``B h w C``: batch, rows, columns, channels. The mechanisms are in ``channel``, ``spatial``,
``combined`` and ``bam``.
"""

from jaxtyping import Array, Float

from attnzoo.module import Module
from attnzoo.ops.softmax import compute_dtype


class Gate(Module):
    """The interface of every gate: ``gate(x) = x * weights(x)``.

    The weights broadcast to ``x`` and are computed in float32 (or wider, if ``x`` is). Each is a
    sigmoid of its own, so they lie between 0 and 1 (BAM: between 1 and 2) and do not sum to one.

    ``channels`` is what the gate was built for; None: it takes any number.
    """

    channels: int | None = None

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B #h #w #C"]:
        """What ``x`` is multiplied by, of size 1 along the axes where it does not vary."""
        raise NotImplementedError(f"{type(self).__name__}.weights")

    def __call__(
        self,
        x: Float[Array, "B h w C"],
        *,
        use_running_average: bool = True,
        return_weights: bool = False,
    ) -> Float[Array, "B h w C"] | tuple[Float[Array, "B h w C"], Float[Array, "B #h #w #C"]]:
        """``B h w C`` -> ``B h w C`` in the dtype of ``x``, with the float32 weights beside it if
        ``return_weights``.

        ``use_running_average=False`` lets batch norms use the statistics of this batch and update
        their running ones: for training. By default a call changes nothing.
        """
        if x.ndim != 4:
            raise ValueError(f"x has shape {x.shape}; wanted B h w C")
        if self.channels not in (None, x.shape[3]):
            raise ValueError(
                f"x has {x.shape[3]} channels, but the gate was built for channels={self.channels}"
            )
        wide = x.astype(compute_dtype(x))
        weights = self.weights(wide, use_running_average=use_running_average)
        gated = (wide * weights).astype(x.dtype)
        return (gated, weights) if return_weights else gated
