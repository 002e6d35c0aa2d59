"""What generation, tasks, explanations, planning and export may ask of any model of the zoo."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention.contract import Attention
from attnzoo.layers.stack import Stack
from attnzoo.module import Module

Credit = Literal["predicted", "input"]


class Model(Module):
    """The interface of every architecture.

    Attributes:
      config: the settings that it was made from.
      token_tables: names of the attributes that embed tokens: ``{"tokens": ...}`` of one text,
        ``{"source": ..., "target": ...}`` of two. Empty where no text is read.
    """

    token_tables: ClassVar[Mapping[str, str]] = {}

    config: Any

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens that can be read; None: any."""
        return None

    def stacks(self) -> dict[str, Stack]:
        """The stacks of blocks by the names that attention maps begin with, such as "encoder"."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Stack)}

    def attentions(self) -> dict[str, Attention]:
        """The attention of every block by the name of its map, such as "decoder/0/cross"; a scanned
        stack is one block, "*".
        """
        found: dict[str, Attention] = {}
        for name, stack in self.stacks().items():
            for number, block in enumerate([stack.blocks] if stack.scan else stack.blocks):
                place = f"{name}/{'*' if stack.scan else number}"
                found[f"{place}/self"] = block.attention.mechanism
                if block.cross_attention is not None:
                    found[f"{place}/cross"] = block.cross_attention
        return found

    def check_settings(self, **fields: str) -> None:
        """Refuse fields of the config that would have no effect.

        ``fields`` name what an attention must support (``Attention.supports``) for a field that
        concerns attention alone; one at its default, or a rate of 0, asks for nothing.

        Raises:
          ValueError: a field is set that no attention of the model can follow.
        """
        attentions = self.attentions().values()
        supported = frozenset().union(*(one.supports for one in attentions))
        defaults = {field.name: field.default for field in dataclasses.fields(self.config)}
        for field, wanted in fields.items():
            value = getattr(self.config, field)
            asked = value != defaults[field] and (value != 0 or isinstance(value, bool))
            if asked and wanted not in supported:
                names = ", ".join(sorted({type(one).__name__ for one in attentions}))
                raise ValueError(
                    f"{field}={value} has no effect: {names} has no {wanted.replace('_', ' ')}; "
                    f"wanted {field}={defaults[field]} or another attention"
                )


class TranslationModel(Model):
    """A model that reads a source and writes a target.

    - ``start(source) -> (memory, state)`` encodes a batch of sources; ``max_length``, the longest
      target to come, is for models that keep all of it;
    - ``step(token, state, memory) -> (logits, state, weights)`` reads one target token and predicts
      the next one; every leaf of ``state`` has the batch as its leading axis;
    - ``model(source, target)`` does all steps of a known target at once (teacher forcing).

    ``source`` and ``target`` are ids, padded; ``weights`` are ``B N T S`` over source tokens in
    their natural order.

    Attributes:
      credits: which target token the weights of a step speak of: the one that is "predicted" or the
        one that is the "input" (Luong et al. 2015, footnote 14).
      layers: cross-attentions. heads: of each. alignment_layer: the one whose weights are returned.
    """

    token_tables: ClassVar[Mapping[str, str]] = {
        "source": "source_embedding",
        "target": "target_embedding",
    }

    credits: Credit = "predicted"
    layers: int = 1
    alignment_layer: int = 0

    @property
    def heads(self) -> int:
        """Heads of each cross-attention; 1 for a model that attends by code of its own."""
        cross = [m.num_heads for name, m in self.attentions().items() if "/self" not in name]
        return cross[0] if cross else 1

    @property
    def max_target_length(self) -> int | None:
        """Longest target in tokens that can be written; None: any."""
        return None

    def start(
        self,
        source: Int[Array, "B S"],
        *,
        max_length: int | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Any, Any]:
        """The source as each step reads it, and the state before the first token."""
        raise NotImplementedError(f"{type(self).__name__}.start")

    def step(
        self, token: Int[Array, "B"], state: Any, memory: Any
    ) -> tuple[Float[Array, "B V"], Any, Float[Array, "B N S"]]:
        """From one target token and the state before it to the logits of the next."""
        raise NotImplementedError(f"{type(self).__name__}.step")

    def all_weights(
        self, source: Int[Array, "B S"], target: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T V"], Float[Array, "L B N T S"]]:
        """Logits of every next token of a known target, and all cross-attentions' weights."""
        logits, weights = self(source, target, return_weights=True)
        return logits, weights[None]

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Logits ``B T V`` of every next token of a known target (``target[:, 0]`` is BOS); with
        ``return_weights`` the alignment layer's ``B N T S`` beside them.
        """
        raise NotImplementedError(f"{type(self).__name__}.__call__")


def check_length(what: str, length: int, max_length: int) -> None:
    """Refuse more positions than a table has rows."""
    if length > max_length:
        raise ValueError(
            f"{what} has {length} positions, but max_length={max_length} of the model: the table "
            "of positions has no more rows"
        )


def dropout_key(rngs: nnx.Rngs | None) -> Any:
    """The next key of dropout; None without ``rngs``."""
    return None if rngs is None else rngs.dropout()


def from_zero(tokens: Int[Array, "B T"]) -> Int[Array, "1 T"]:
    """The positions 0 .. T-1."""
    return jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
