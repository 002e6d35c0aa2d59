"""The contract of attention between two sequences, and the memory it reads.

``U_a h_j`` of Bahdanau et al. 2015 does not depend on the decoder step. A mechanism therefore
splits in two: ``prepare(keys, values, mask=...)`` returns a :class:`Memory` (a value, not hidden
state of the module), and ``attend(query, memory)`` reads it. Calling the module does both.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.ops.softmax import zero_unattended
from attnzoo.ops.weights import WeightRequest, select


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """Keys as the mechanism wants them, the values, and where one may look.

    The leading axis of every leaf is the batch, so that beam search can repeat or gather rows.
    """

    keys: Float[Array, "B S K"]
    values: Float[Array, "B S Dv"]
    mask: Bool[Array, "B #N #T S"] | None


def hold(
    keys: Float[Array, "B S D"],
    values: Float[Array, "B S Dv"] | None,
    mask: Bool[Array, "#B #N #T #S"] | None,
) -> tuple[Float[Array, "B S D"], Float[Array, "B S Dv"]]:
    """Check keys, values and mask against each other and remove the content of padding."""
    values = keys if values is None else values
    if values.shape[:2] != keys.shape[:2]:
        raise ValueError(
            f"values has batch and length {values.shape[:2]}, keys has {keys.shape[:2]}: "
            "each key needs its value"
        )
    if mask is not None:
        if mask.dtype != bool:
            raise ValueError(
                f"mask has dtype {mask.dtype}; wanted bool, True = may attend "
                "(something that is added to the scores is a bias)"
            )
        if mask.ndim != 4 or mask.shape[3] not in (1, keys.shape[1]):
            raise ValueError(
                f"mask has shape {mask.shape}; wanted B N T S (1 where it does not vary) with "
                f"S={keys.shape[1]}; a padding mask is valid[:, None, None, :]"
            )
    return zero_unattended(keys, mask), zero_unattended(values, mask)


def spread(
    mask: Bool[Array, "#B #N #T #S"] | None, keys: Float[Array, "B S D"]
) -> Bool[Array, "B N T S"] | None:
    """The mask with its batch and key axes written out: a memory's rows are gathered, and local
    attention counts the keys of a sentence.
    """
    if mask is None:
        return None
    return jnp.broadcast_to(mask, (keys.shape[0], *mask.shape[1:3], keys.shape[1]))


Weights = Float[Array, "B N T S"]
Asked = bool | WeightRequest
Read = Any
"""The context ``B T Do``; beside it, if asked for, the weights or a ``WeightReport`` of them."""


def read(weights: Weights, memory: Memory, return_weights: Asked) -> Read:
    """The context, and the weights beside it if they were asked for."""
    values = memory.values
    context = jnp.einsum("bnts,bsd->btd", weights.astype(values.dtype), values) / weights.shape[1]
    return answer(context, weights, return_weights)


def answer(context: Any, weights: Weights, return_weights: Asked) -> Any:
    """The context alone, or beside it the weights or what a ``WeightRequest`` asks of them."""
    if isinstance(return_weights, WeightRequest):
        return context, select(weights, return_weights)
    return (context, weights) if return_weights else context


class Attention(nnx.Module):
    """The interface of every attention between a query sequence and a key sequence.

    A mechanism says how it prepares a memory and how it reads one; calling it does both.
    """

    takes_perturbation: ClassVar[bool] = False
    """Whether weights can be varied through ``self.perturbation``, ``B N T S``."""

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
    ) -> Memory:
        """Do once what depends on keys and values alone; values are the keys if None."""
        raise NotImplementedError(f"{type(self).__name__}.prepare")

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Int[Array, "B T"] | None = None,
        return_weights: Asked = False,
    ) -> Read:
        """Read a prepared memory. ``positions`` are the queries' places in the target, 0..T-1 if
        None: only mechanisms that depend on them look.
        """
        raise NotImplementedError(f"{type(self).__name__}.attend")

    def empty_past(self, memory: Memory) -> Any:
        """What the first ``step`` takes for a past: None, unless former queries count."""
        return None

    def step(
        self, query: Float[Array, "B D"], memory: Memory, *, position: Int[Array, "B"], past: Any
    ) -> tuple[Float[Array, "B Do"], Float[Array, "B N S"], Any]:
        """One query of a decoder after others: (context, weights, past for the next step)."""
        context, weights = self.attend(
            query[:, None], memory, positions=position[:, None], return_weights=True
        )
        return context[:, 0], weights[:, :, 0], past

    def __call__(
        self,
        query: Float[Array, "B T D"],
        keys: Float[Array, "B S D2"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        return_weights: Asked = False,
    ) -> Read:
        """``B T D``, ``B S D``, ``B S Dv`` -> ``B T Do``; with the weights ``B N T S`` beside it if
        ``return_weights``, or a ``WeightReport`` of the rows, heads, largest weights or statistics
        that a ``WeightRequest`` asks for. Do is Dv unless values are projected. ``mask`` is bool,
        True = may attend, broadcastable to ``B N T S``.
        """
        memory = self.prepare(keys, values, mask=mask)
        return self.attend(query, memory, return_weights=return_weights)
