"""Text generation by decoder-only models: one call for the prompt, then one compiled loop.

A model is anything with ``start(batch, max_length)`` and ``decode(tokens, state, visible)`` as in
``attnzoo.models.gpt2``. The loop treats key/value caches and recurrent states alike.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Int, Key

from attnzoo.decoding.beam import beam_search
from attnzoo.decoding.hypotheses import Hypotheses, TokenIds
from attnzoo.decoding.rules import Rules
from attnzoo.decoding.sampling import GREEDY, Sampling
from attnzoo.models.causal import unrolled

Prompts = Int[Array, "B T"] | Int[np.ndarray, "B T"]
Valid = Bool[Array, "B T"] | Bool[np.ndarray, "B T"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Generated:
    """Generated tokens: K samples of each prompt.

    Attributes:
      tokens: new tokens, including the one that ended a row, then ``pad_id``.
      lengths: number of tokens per row without padding.
    """

    tokens: Int[Array, "B K L"]
    lengths: Int[Array, "B K"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Run:
    """State of all R = B K rows between two steps."""

    step: Int[Array, ""]
    token: Int[Array, " R"]
    done: Bool[Array, " R"]
    state: Any
    visible: Bool[Array, "R L"] | None
    seen: Bool[Array, "R V"] | None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Static arguments of the compiled functions."""

    graph: Any
    room: int
    samples: int
    eos: tuple[int, ...]
    pad_id: int
    options: tuple[tuple[str, Any], ...]


def generate(
    model: Any,
    prompts: Prompts,
    key: Key[Array, ""] | None = None,
    *,
    max_new_tokens: int,
    valid: Valid | None = None,
    sampling: Sampling = GREEDY,
    samples: int = 1,
    eos_id: int | tuple[int, ...] | None = None,
    pad_id: int = 0,
    **start: Any,
) -> Generated:
    """Continue prompts until ``eos_id``, or for ``max_new_tokens``.

    Args:
      key: key for sampling; not needed without ``sampling.temperature``.
      valid: False at padding, on the left or on the right of a prompt.
      samples: K continuations of each prompt; the prompt is read once for all of them.
      start: options of ``model.start``, such as ``cache="int8"``.

    Raises:
      ValueError: settings out of range, an empty prompt, more tokens than the model has positions.
    """
    plan, arrays = _prepare(
        model, prompts, key, max_new_tokens, valid, sampling, samples, eos_id, pad_id, start
    )
    tokens, lengths = _all(plan, max_new_tokens, *arrays)
    shape = prompts.shape[0], samples
    return Generated(tokens.reshape(*shape, -1), lengths.reshape(shape))


def stream(
    model: Any,
    prompts: Prompts,
    key: Key[Array, ""] | None = None,
    *,
    max_new_tokens: int,
    block: int = 8,
    valid: Valid | None = None,
    sampling: Sampling = GREEDY,
    samples: int = 1,
    eos_id: int | tuple[int, ...] | None = None,
    pad_id: int = 0,
    **start: Any,
) -> Iterator[Int[np.ndarray, "B K n"]]:
    """Yield the tokens of :func:`generate`, ``block`` steps at a time; the first token alone.

    The iterator ends when every row has ended; rows that ended before are padded.

    Raises:
      ValueError: as :func:`generate`, and ``block`` below 1; at the call, not at the first piece.
    """
    plan, arrays = _prepare(
        model, prompts, key, max_new_tokens, valid, sampling, samples, eos_id, pad_id, start
    )
    if block < 1:
        raise ValueError(f"block={block}; wanted at least 1")
    return _pieces(plan, max_new_tokens, block, *arrays)


def _pieces(
    plan: _Plan,
    max_new_tokens: int,
    block: int,
    params: Any,
    prompts: Any,
    valid: Any,
    key: Any,
    sampling: Sampling,
) -> Iterator[Int[np.ndarray, "B K n"]]:
    run = _first(plan, params, prompts, valid, key, sampling)
    left, shape = max_new_tokens - 1, (prompts.shape[0], plan.samples)
    yield np.asarray(run.token).reshape(*shape, 1)
    while left > 0 and not bool(np.all(run.done)):
        tokens, run = _some(plan, block, params, run, key, sampling)
        # Tokens beyond the limit are dropped, so that one compiled program serves all blocks.
        yield np.asarray(tokens)[:, :left].reshape(*shape, -1)
        left -= block


def beam_generate(
    model: Any,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    eos_id: int | tuple[int, ...],
    valid: Valid | None = None,
    beam: int = 5,
    alpha: float = 0.6,
    pad_id: int = 0,
    **start: Any,
) -> Hypotheses:
    """Return the ``beam`` best continuations of each prompt, best first.

    The search is :func:`attnzoo.decoding.beam_search`; its length penalty counts new tokens only.
    No attention weights are returned.

    Args and errors are those of :func:`generate`.
    """
    plan, (params, prompts, valid, *_) = _prepare(
        model, prompts, None, max_new_tokens, valid, GREEDY, 1, eos_id, pad_id, start
    )
    return _beam(plan, max_new_tokens, beam, alpha, params, prompts, valid)


def _prepare(
    model: Any,
    prompts: Prompts,
    key: Key[Array, ""] | None,
    max_new_tokens: int,
    valid: Valid | None,
    sampling: Sampling,
    samples: int,
    eos_id: int | tuple[int, ...] | None,
    pad_id: int,
    start: dict[str, Any],
) -> tuple[_Plan, tuple[Any, ...]]:
    """Check the arguments and return the static plan and the arrays."""
    for name, value in (("max_new_tokens", max_new_tokens), ("samples", samples)):
        if value < 1:
            raise ValueError(f"{name}={value}; wanted at least 1")
    sampling.check()
    if key is None:
        if sampling.temperature is not None:
            raise ValueError("key is None; sampling with a temperature draws from one")
        key = jax.random.key(0)
    if prompts.shape[0] == 0:
        raise ValueError(f"prompts have shape {prompts.shape}; wanted one prompt at least")
    if prompts.shape[1] == 0:
        raise ValueError("prompts have no tokens; wanted one at least (a token of beginning)")
    if valid is not None:
        valid = np.asarray(valid)
        if not valid.any(axis=1).all():
            raise ValueError(f"prompt {int(np.argmin(valid.any(axis=1)))} is all padding")
        valid = None if valid.all() else valid
    eos = () if eos_id is None else eos_id if isinstance(eos_id, tuple) else (eos_id,)
    graph, params = nnx.split(model)
    # The last token is never read.
    room = prompts.shape[1] + max_new_tokens - 1
    plan = _Plan(graph, room, samples, eos, pad_id, tuple(sorted(start.items())))
    return plan, (params, jnp.asarray(prompts, jnp.int32), valid, key, sampling)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _all(
    plan: _Plan, steps: int, params: Any, prompts: Any, valid: Any, key: Any, sampling: Sampling
) -> tuple[Int[Array, "R L"], Int[Array, " R"]]:
    run = _begin(plan, params, prompts, valid, key, sampling)
    first = run.token[:, None]
    rest, _ = _loop(plan, steps - 1, params, run, key, sampling)
    tokens = jnp.concatenate([first, rest], axis=1)
    ends = jnp.pad(_ends(plan, tokens), ((0, 0), (1, 0)))[:, :-1]
    return tokens, jnp.sum(jnp.cumsum(ends, axis=1) == 0, axis=1, dtype=jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _first(
    plan: _Plan, params: Any, prompts: Any, valid: Any, key: Any, sampling: Sampling
) -> _Run:
    return _begin(plan, params, prompts, valid, key, sampling)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _some(
    plan: _Plan, steps: int, params: Any, run: _Run, key: Any, sampling: Sampling
) -> tuple[Int[Array, "R n"], _Run]:
    return _loop(plan, steps, params, run, key, sampling)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _beam(
    plan: _Plan, steps: int, beam: int, alpha: float, params: Any, prompts: Any, valid: Any
) -> Hypotheses:
    model, B = unrolled(nnx.merge(plan.graph, params)), prompts.shape[0]
    prompts, visible = _to_the_left(plan, prompts, valid)
    state = model.start(B, plan.room, **dict(plan.options))
    if prompts.shape[1] > 1:
        _, state = model.decode(prompts[:, :-1], state, visible, at=jnp.zeros((B,), jnp.int32))

    def step(token: Array, state: Any, memory: Any) -> tuple[Array, Any, Array]:
        # The first token that the search reads is the last one of the prompt.
        last, visible = memory
        token = jnp.where(state.length == prompts.shape[1] - 1, last, token)
        logits, state = model.decode(token[:, None], state, visible)
        return logits[:, 0], state, jnp.zeros((token.shape[0], 1, 0), jnp.float32)

    return beam_search(
        step,
        state,
        (prompts[:, -1], visible),
        batch=B,
        source_length=0,
        max_length=steps,
        beam=beam,
        alpha=alpha,
        ids=TokenIds(pad=plan.pad_id, never=()),
        rules=Rules(ends=plan.eos),
    )


def _to_the_left(
    plan: _Plan, prompts: Int[Array, "B T"], valid: Bool[Array, "B T"] | None
) -> tuple[Int[Array, "B T"], Bool[Array, "B L"] | None]:
    """Move all padding to the left; return the prompts and which slots will hold a token.

    Recurrent states and caches skip padding there, and every row writes its next token to the same
    slot.
    """
    if valid is None:
        return prompts, None
    order = jnp.argsort(valid, axis=1, stable=True)
    prompts, valid = (jnp.take_along_axis(x, order, axis=1) for x in (prompts, valid))
    rest = plan.room - prompts.shape[1]
    return prompts, jnp.pad(valid, ((0, 0), (0, rest)), constant_values=True)


def _begin(
    plan: _Plan,
    params: Any,
    prompts: Int[Array, "B T"],
    valid: Bool[Array, "B T"] | None,
    key: Key[Array, ""],
    sampling: Sampling,
) -> _Run:
    """Read the prompts and choose the first token of every row."""
    model, (B, T) = unrolled(nnx.merge(plan.graph, params)), prompts.shape
    prompts, visible = _to_the_left(plan, prompts, valid)
    state = model.start(B, plan.room, **dict(plan.options))
    last = jnp.full((B,), T - 1, jnp.int32)
    logits, state = model.decode(prompts, state, visible, at=last)
    seen = None
    if sampling.repetition_penalty is not None:
        real = jnp.ones((B, T), bool) if visible is None else visible[:, :T]
        seen = jnp.zeros((B, logits.shape[-1]), bool)
        seen = seen.at[jnp.arange(B, dtype=jnp.int32)[:, None], prompts].max(real)
    repeat = lambda x: jnp.repeat(x, plan.samples, axis=0)  # noqa: E731
    logits, state, visible, seen = jax.tree.map(repeat, (logits[:, 0], state, visible, seen))
    token = sampling.choose(logits, jax.random.fold_in(key, 0), seen)
    return _Run(jnp.int32(1), token, _ends(plan, token), state, visible, _added(seen, token))


def _loop(
    plan: _Plan, steps: int, params: Any, run: _Run, key: Key[Array, ""], sampling: Sampling
) -> tuple[Int[Array, "R n"], _Run]:
    """Generate up to ``steps`` tokens of every row, fewer if all have ended."""
    if steps == 0:  # a loop that writes into a buffer of size 0 cannot be traced
        return jnp.zeros((run.token.shape[0], 0), jnp.int32), run
    model, first = unrolled(nnx.merge(plan.graph, params)), run.step

    def unfinished(carry: tuple[_Run, Any]) -> Bool[Array, ""]:
        run, _ = carry
        return (run.step < first + steps) & ~jnp.all(run.done)

    def advance(carry: tuple[_Run, Any]) -> tuple[_Run, Any]:
        run, tokens = carry
        logits, state = model.decode(run.token[:, None], run.state, run.visible)
        token = sampling.choose(logits[:, 0], jax.random.fold_in(key, run.step), run.seen)
        token = jnp.where(run.done, plan.pad_id, token)
        tokens = tokens.at[run.step - first].set(token)
        done = run.done | _ends(plan, token)
        seen = _added(run.seen, token)
        return _Run(run.step + 1, token, done, state, run.visible, seen), tokens

    tokens = jnp.full((steps, run.token.shape[0]), plan.pad_id, jnp.int32)
    run, tokens = jax.lax.while_loop(unfinished, advance, (run, tokens))
    return tokens.T, run


def _ends(plan: _Plan, tokens: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
    ends = jnp.zeros(tokens.shape, bool)
    for one in plan.eos:
        ends = ends | (tokens == one)
    return ends


def _added(seen: Bool[Array, "R V"] | None, token: Int[Array, " R"]) -> Bool[Array, "R V"] | None:
    if seen is None:
        return None
    return seen.at[jnp.arange(token.shape[0], dtype=jnp.int32), token].set(True)
