"""Questions to text models: the tokens, or source tokens, that an answer depends on."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.explain.attention_modules import is_causal, stacks
from attnzoo.explain.explanations import TWO_STACKS
from attnzoo.explain.question import Explanation, Question
from attnzoo.explain.relevance import Pair
from attnzoo.module import Module

STEPS_AT_ONCE = 8
"""Number of target tokens of a translation that are explained together."""


def token_tables(model: nnx.Module) -> dict[str, Any]:
    """Return a text model's token tables by role: "tokens", or "source" and "target".

    Empty for a model without the attribute ``token_tables`` of ``models.model.Model``; without
    "source" for one whose source is no text.
    """
    named: dict[str, str] = dict(getattr(model, "token_tables", {}))
    tables = {role: getattr(model, name) for role, name in named.items() if hasattr(model, name)}
    # A target without its own table shares that of the source.
    return {role: tables["source"] if one is None else one for role, one in tables.items()}


def pad_id(model: nnx.Module) -> int:
    """Return the padding token of a translator; 0 for a model that names none."""
    return getattr(getattr(model, "config", None), "padding", 0)


class ExtendedTable(Module):
    """Token table with extra ids beyond its end for vectors of one batch; same logits."""

    def __init__(self, inner: Any, vectors: Float[Array, "R D"]):
        self.inner, self.vectors = inner, nnx.Variable(vectors)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Return rows of the table, or the extra vectors."""
        V, found = table_rows(self.inner).shape[0], self.inner(ids)
        given = jnp.take(self.vectors[...], ids - V, axis=0, mode="clip")
        return jnp.where((ids >= V)[..., None], given.astype(found.dtype), found)

    def logits(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Return the logits of the original table."""
        return self.inner.logits(x)


def table_rows(table: Any) -> Float[Array, "V D"]:
    """Return the vectors of all tokens."""
    return table.embedding[...] if isinstance(table, nnx.Embed) else table.table[...]


def with_vectors(
    model: nnx.Module, role: str, ids: Int[Array, "B T"], vectors: Float[Array, "B T D"]
) -> tuple[Any, Int[Array, "B T"]]:
    """Return a copy of the model, and ids for which it reads ``vectors`` as token embeddings.

    The padding id and its vector stay, since translators recognise padding by this id.
    """
    copy: Any = nnx.clone(model)
    table = token_tables(copy)[role]
    flat, V = vectors.reshape(-1, vectors.shape[-1]), table_rows(table).shape[0]
    if isinstance(table, nnx.Embed):
        # Recurrent models read the table's array directly.
        table.embedding = nnx.Param(jnp.concatenate([table_rows(table), flat]))
    else:
        extended = ExtendedTable(table, flat)
        for _, module in list(nnx.iter_graph(copy)):
            for name, value in list(vars(module).items()) if isinstance(module, nnx.Module) else ():
                if value is table and module is not extended:
                    setattr(module, name, extended)
    numbers = V + jnp.arange(ids.size, dtype=ids.dtype).reshape(ids.shape)
    return copy, numbers if role == "tokens" else jnp.where(ids == pad_id(model), ids, numbers)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenQuestion(Question):
    """Question about the tokens of a text; maps are read at token ``at``, or at the first."""

    role = "tokens"

    @property
    def reading(self) -> Float[Array, "B T"]:
        """Share 1 at one token of each text."""
        B, T = self.real.shape
        at = jnp.zeros((B,), jnp.int32) if self.at is None else self.at
        return jax.nn.one_hot(at, T)

    @property
    def vectors(self) -> Float[Array, "B T D"]:
        """Token vectors; those of padding repeat a real token's, to keep the range for noise."""
        table = token_tables(self.model)[self.role]
        found = jnp.take(table_rows(table), self.inputs[0], axis=0)
        first = jnp.argmax(self.real, axis=1)
        some = jnp.take_along_axis(found, first[:, None, None], axis=1)
        return jnp.where(self.real[..., None], found, some)

    def of_vectors(self, vectors: Float[Array, "B T D"]) -> Float[Array, " B"]:
        """Return the answer with other token vectors."""
        return self.answer(self._output(vectors))

    def _output(self, vectors: Float[Array, "B T D"]) -> Any:
        copy, ids = with_vectors(self.model, self.role, self.inputs[0], vectors)
        return copy(ids, *self.inputs[1:], **self.keywords)

    def by_unit(self, values: Float[Array, "B T D"]) -> Float[Array, "B T"]:
        """Return sums over the channels of each token."""
        return jnp.sum(values, axis=-1)

    def kept(self, keep: Bool[Array, "B U"], *, log: bool = False) -> Float[Array, " B"]:
        """Return the value with removed tokens as zeros, the table's mean, or a token."""
        rows = table_rows(token_tables(self.model)[self.role])
        match self.fill:
            case "zero":
                fill = jnp.zeros_like(rows[0])
            case "mean":
                fill = jnp.mean(rows, axis=0)
            case _:
                fill = rows[self.fill]
        vectors = jnp.where(self.there(keep)[..., None], self.vectors, fill[None, None])
        return self.value(self._output(vectors), log=log)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PooledQuestion(TokenQuestion):
    """Question about the tokens of a text whose states one attention pools: maps of one row."""

    @property
    def reading(self) -> Float[Array, "B 1"]:
        """Share 1 for the only row."""
        return jnp.ones((self.real.shape[0], 1))

    def _rows(self, name: str, weights: Float[Array, "B N T S"]) -> Float[Array, "B N T S"]:
        return weights.astype(jnp.float32)

    def readable(self, names: Iterable[str]) -> list[str]:
        """Return the name of the attention that pools."""
        found = [name for name in names if name == "attention"]
        if not found:
            raise NotImplementedError(f"{type(self.model).__name__} pools without an attention")
        return found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TranslationQuestion(TokenQuestion):
    """Question about the source tokens of a known translation, for each target token: ``B T S``.

    Maps are read at the step that predicts the target token ``at``.
    """

    role = "source"

    @property
    def reading(self) -> Float[Array, "B T"]:
        """Share 1 at one step of each translation."""
        return jax.nn.one_hot(self.at, self.inputs[1].shape[1])

    def _rows(self, name: str, weights: Float[Array, "B N T S"]) -> Float[Array, "B N T S"]:
        if name.startswith("encoder/"):
            return super()._rows(name, weights)
        read = jnp.arange(weights.shape[2])[None] <= self.at[:, None]
        return jnp.where(read[:, None, :, None], weights.astype(jnp.float32), 0)

    def readable(self, names: Iterable[str]) -> list[str]:
        """Return the cross-attention maps, or the only map of a recurrent model."""
        return [n for n in names if n.endswith("/cross") or n == "attention"]

    @property
    def shown(self) -> str:
        """Name of the chosen map; the alignment layer by default."""
        names = self.readable(self.weights)
        if self.layer is None and len(names) > 1:
            return names[self.model.alignment_layer]
        return names[self.layer or 0]

    @property
    def self_attention(self) -> list[Any]:
        """Not available: no self-attention leads from source to target."""
        raise NotImplementedError(TWO_STACKS)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Weights and gradients of encoder, decoder and cross-attention."""
        names = list(self.gradients.weights)
        ends = (("encoder/", "/self"), ("decoder/", "/self"), ("decoder/", "/cross"))
        return tuple(
            self._pair(n for n in names if n.startswith(start) and n.endswith(end))
            for start, end in ends
        )

    def scores(
        self, methods: Iterable[tuple[str, Explanation]]
    ) -> tuple[dict[str, Float[Array, "B T S"]], dict[str, str]]:
        """Return scores by method for each target token, and reasons for skipped methods."""
        skipped: dict[str, str] = {}
        B, T = self.classes.shape

        def one(t: Int[Array, ""]) -> dict[str, Float[Array, "B S"]]:
            at = jnp.broadcast_to(t, (B,))
            step = dataclasses.replace(self, at=at, classes=self.classes[:, t])
            found, reasons = super(TranslationQuestion, step).scores(methods)
            skipped.update(reasons)
            return found

        rounds = -(-T // STEPS_AT_ONCE)
        size = -(-T // rounds)
        # The last block of steps is padded, so that one compiled program serves all.
        steps = jnp.minimum(jnp.arange(rounds * size, dtype=jnp.int32), T - 1)
        found = jax.lax.map(one, steps, batch_size=size)
        said = (self.classes != pad_id(self.model))[:, :, None]
        scores = {name: jnp.swapaxes(s[:T], 0, 1) for name, s in found.items()}
        return {name: jnp.where(said, s, 0) for name, s in scores.items()}, skipped

    def cases(self) -> Question:
        """Return the question with each target token of each pair as an example."""
        B, T = self.classes.shape
        step = jnp.tile(jnp.arange(T, dtype=jnp.int32), B)
        rows = self.of_rows(jnp.repeat(jnp.arange(B), T))
        return dataclasses.replace(rows, at=step, classes=self.classes.reshape(-1))

    def logits(self, output: Any) -> Any:
        """Return the explained row of the output, or all rows if ``at`` is None."""
        return output if self.at is None else super().logits(output)


def token_question(
    model: nnx.Module, tokens: Int[Array, "B T"], *, units: Any = None, **rest: Any
) -> TokenQuestion:
    """Return the question about a batch of texts."""
    (path, stack), *_ = [*stacks(model), ((), None)]
    B, T = tokens.shape
    valid = rest["keywords"].get("valid")
    real = jnp.ones((B, T), bool) if valid is None else jnp.asarray(valid)
    graph, state = nnx.split(model)
    shape = jax.eval_shape(
        lambda state: nnx.merge(graph, state)(tokens, **rest["keywords"]), state
    ).shape
    at = rest["at"]
    if len(shape) == 2 and at is not None:
        raise ValueError(f"at={at}, but the output has shape {shape}: one answer of the whole text")
    causal = stack is not None and is_causal(stack)
    if (len(shape) == 3 and rest["function"] is None) or at is not None or causal:
        if at is None and not causal:
            raise ValueError(f"the output has shape {shape}: at is wanted, the token to explain")
        last = T - 1 - jnp.argmax(real[:, ::-1], axis=1).astype(jnp.int32)
        at = last if at is None else jnp.broadcast_to(jnp.asarray(at, jnp.int32), (B,))
        if bool(jnp.any((at < 0) | (at >= T))):
            raise ValueError(f"at={rest['at']}; wanted 0 to {T - 1}, a token of the text")
    if causal:
        real = real & (jnp.arange(T)[None] <= at[:, None])
    numbers, count = _numbered(units, real)
    settings: dict[str, Any] = {**rest, "at": at, "fill": _fill(model, "tokens", rest["fill"])}
    kind = PooledQuestion if stack is None else TokenQuestion
    return kind(
        graph=graph, state=state, inputs=(tokens,), units=numbers, count=count, real=real,
        prefix=0, stack="/".join(path), **settings,
    )  # fmt: skip


def translation_question(
    model: nnx.Module,
    source: Int[Array, "B S"],
    target: Int[Array, "B T"],
    *,
    units: Any = None,
    **rest: Any,
) -> TranslationQuestion:
    """Return the question about a batch of padded pairs, targets from BOS to EOS."""
    if rest["function"] is not None or rest["classes"] is not None or rest["at"] is not None:
        raise ValueError("target and at: of a translation every known target token is explained")
    if target.shape[1] < 2:
        raise ValueError(f"a target of shape {target.shape}; wanted BOS and the tokens behind it")
    graph, state = nnx.split(model)
    real = source != pad_id(model)
    numbers, count = _numbered(units, real)
    settings: dict[str, Any] = {
        **rest,
        "classes": target[:, 1:],
        "fill": _fill(model, "source", rest["fill"]),
    }
    return TranslationQuestion(
        graph=graph, state=state, inputs=(source, target[:, :-1]), units=numbers, count=count,
        real=real, prefix=0, stack="encoder", **settings,
    )  # fmt: skip


def _numbered(units: Any, real: Bool[Array, "B T"]) -> tuple[Int[Array, "B T"], int]:
    """Return the units, by default one per real token, and the largest number in an example."""
    each: Any = np.cumsum(np.asarray(real), axis=1)
    units = np.asarray(each - 1 if units is None else units, np.int32)
    if units.shape != real.shape:
        raise ValueError(f"units has shape {units.shape}; wanted B T = {real.shape}")
    units = np.where(real, units, -1)
    for row in units:
        if set(row[row >= 0].tolist()) != set(range(row.max() + 1)):
            raise ValueError(f"units has a row {row.tolist()}; wanted 0, 1, ... and -1 elsewhere")
    return jnp.asarray(units), max(int(units.max()) + 1, 1)


def _fill(model: nnx.Module, role: str, fill: Any) -> Any:
    V = table_rows(token_tables(model)[role]).shape[0]
    if fill in (None, "zero", "mean"):
        return fill or "zero"
    if isinstance(fill, str) or not 0 <= fill < V:
        raise ValueError(f"fill={fill!r}; wanted zero, mean, or the id of a token below {V}")
    return fill
