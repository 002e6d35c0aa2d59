"""Interfaces of models, for generation, tasks, explanations, planning and export."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from attnzoo.attention.contract import Attention
from attnzoo.layers.stack import Stack
from attnzoo.models.sources import Source, SourceEncoder
from attnzoo.module import Module

Credit = Literal["predicted", "input"]


class Model(Module):
    """Interface of every architecture.

    Attributes:
      config: the settings of the model.
      token_tables: names of the attributes that embed tokens: ``{"tokens": ...}`` for one text,
        ``{"source": ..., "target": ...}`` for two. Empty if the model reads no text.
      origin: what ``attnzoo.pretrained`` keeps of the folder that the model was read from.
    """

    token_tables: ClassVar[Mapping[str, str]] = {}
    origin: Any = None

    config: Any

    @property
    def max_length(self) -> int | None:
        """Longest input sequence in tokens; None: any."""
        return None

    def stacks(self) -> dict[str, Stack]:
        """Return the stacks of blocks by the first part of their map names, such as "encoder"."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Stack)}

    def attentions(self) -> dict[str, Attention]:
        """Return the attention modules of all blocks by map name, such as "decoder/0/cross".

        A scanned stack counts as one block, "*".
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
        """Raise a ValueError for config fields that are set but would have no effect.

        ``fields`` maps a field that concerns only attention to the setting that an attention must
        support (``Attention.supports``). A field at its default, or a rate of 0, passes.
        """
        attentions = self.attentions().values()
        supported = frozenset().union(
            # Models modify the scores of self-attention alone.
            *(
                one.supports - ({"score_mod"} if name.endswith("cross") else set())
                for name, one in self.attentions().items()
            )
        )
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
    """Interface of models that read a source sequence and write a target sequence.

    - ``start(source) -> (memory, state)`` encodes a batch of sources; models with a cache of the
      target need ``max_length``, the longest target;
    - ``step(token, state, memory) -> (logits, state, weights)`` reads one target token and predicts
      the next one; every leaf of ``state`` has the batch as its first axis;
    - ``model(source, target)`` runs all steps of a known target at once (teacher forcing).

    ``source`` and ``target`` are ids, padded; a model with a ``source_encoder`` reads what that
    reads instead (``models.sources``), with ``S`` features. ``weights`` are ``B N T S``, with
    source tokens in their natural order.

    Attributes:
      source_encoder: encoder of sources that are no text; None for text.
      credits: target token to which the weights of a step belong: the "predicted" one or the
        "input" (Luong et al. 2015, footnote 14).
      reads_before_attending: True if the query of a step has read that step's token.
      layers: number of cross-attentions. heads: heads of each. alignment_layer: index of the
        cross-attention whose weights are returned. full_context: the weights of a known target are
        those of a second pass of the decoder without a causal mask, in which a row has read the
        whole target (Garg et al. 2019, section 4.2). takes_alignment_module: True if there may be
        an ``alignment_module`` (Chen et al. 2020), whose weights are then returned.
    """

    token_tables: ClassVar[Mapping[str, str]] = {
        "source": "source_embedding",
        "target": "target_embedding",
    }

    source_encoder: SourceEncoder | None = None
    credits: Credit = "predicted"
    reads_before_attending: bool = True
    layers: int = 1
    alignment_layer: int = 0
    full_context: bool = False
    takes_alignment_module: bool = False
    alignment_module: Any = None

    def source_length(self, source: Any) -> int:
        """Return the number of columns of the weights for a source: its tokens, or features."""
        encoder = self.source_encoder
        if encoder is None:
            return source.shape[1]
        return jax.eval_shape(lambda x: encoder(x)[1], source).shape[1]

    @property
    def heads(self) -> int:
        """Number of heads of each cross-attention; 1 for a model whose ``attentions`` has none."""
        cross = [m.num_heads for name, m in self.attentions().items() if "/self" not in name]
        return cross[0] if cross else 1

    @property
    def has_full_context(self) -> bool:
        """True if the decoder can read a known target without a causal mask."""
        return False

    @property
    def max_target_length(self) -> int | None:
        """Longest target in tokens that can be generated; None: any."""
        return None

    def start(
        self,
        source: Source,
        *,
        max_length: int | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Any, Any]:
        """Return the source memory that each step reads, and the state before the first token."""
        raise NotImplementedError(f"{type(self).__name__}.start")

    def step(
        self, token: Int[Array, "B"], state: Any, memory: Any
    ) -> tuple[Float[Array, "B V"], Any, Float[Array, "B N S"]]:
        """Read one target token; return the logits of the next one, the new state, and weights."""
        raise NotImplementedError(f"{type(self).__name__}.step")

    def p_gen(self, source: Source, target: Int[Array, "B T"]) -> Float[Array, "B T"] | None:
        """Return the probability to write a word rather than to copy one; None: there is no copy.

        ``target`` is known, and begins with the start token.
        """
        return None

    def in_training(
        self, source: Source, target: Int[Array, "B L"], *, rngs: nnx.Rngs
    ) -> tuple[Float[Array, "B T V"], Float[Array, "B"]]:
        """Return the logits of a target from BOS to its end, and the loss that is added per row."""
        logits = self(source, target[:, :-1], rngs=rngs)
        return logits, jnp.zeros(target.shape[:1], jnp.float32)

    def all_weights(
        self, source: Source, target: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T V"], Float[Array, "L B N T S"]]:
        """Return the logits of a known target, and the weights of all cross-attentions."""
        logits, weights = self(source, target, return_weights=True)
        return logits, weights[None]

    def __call__(
        self,
        source: Source,
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Return logits ``B T V`` of every next token of a known target (``target[:, 0]`` is BOS).

        ``return_weights`` adds the weights ``B N T S`` of the alignment layer. A model for span
        corruption also takes ``source_valid``, False at padding, whose token may be another's too.
        """
        raise NotImplementedError(f"{type(self).__name__}.__call__")


def check_length(what: str, length: int, max_length: int) -> None:
    """Raise a ValueError if there are more positions than a table has rows."""
    if length > max_length:
        raise ValueError(
            f"{what} has {length} positions, but max_length={max_length} of the model: the table "
            "of positions has no more rows"
        )


def dropout_key(rngs: nnx.Rngs | None) -> Any:
    """Return the next dropout key; None without ``rngs``."""
    return None if rngs is None else rngs.dropout()


def default_positions(tokens: Shaped[Array, "B T ..."]) -> Int[Array, "1 T"]:
    """Return the positions 0 .. T-1."""
    return jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
