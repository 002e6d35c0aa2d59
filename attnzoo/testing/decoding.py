# Over 400 lines: the properties of decoding share the class that calls its methods.
"""Properties of prepared memories and of decoding, step by step and with a cache."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.testing.subject import Broken, DoesNotApply, Inputs, Subject, arguments, expect


def prepared_memory(subject: Subject) -> None:
    """``attend(query, prepare(keys, values, mask=...))`` equals the direct call.

    Preparing another memory in between changes nothing. The rows of a memory can be gathered, as a
    beam search does.
    """
    run = _Methods(subject, "prepare", "attend")
    inputs, other = subject.inputs("random"), subject.inputs("causal", draw=1)
    memories = [run.prepare(given) for given in (inputs, other)]
    for given, memory in zip((inputs, other), memories):
        wanted = subject.run(given)
        context, *weights = run.attend(given.query, memory)
        expect("context", context, wanted.context, subject.tolerance, given)
        run.expect_weights("weights", weights, wanted.weights, given)
    rows = _other_rows(subject)
    context, *_ = run.attend(inputs.query[rows], _gathered(memories[0], rows))
    wanted = subject.run(inputs).context[rows]
    expect("context of gathered rows", context, wanted, subject.tolerance, inputs)


def step_by_step(subject: Subject) -> None:
    """Queries one by one through ``step``, and in blocks through ``extend``, give the call's rows.

    In between, the rows of memory and past are gathered, as a beam search does.
    """
    run, T = _Methods(subject, "prepare", "empty_past", "step"), subject.sizes.T
    inputs = subject.inputs("padding")
    wanted = subject.run(inputs)
    memory = run.prepare(_one_mask_for_all(inputs))
    start = run.numbers("empty_past", memory)
    past, rows, half = start, np.arange(subject.sizes.B), T // 2
    state, pasts = memory, []
    for t in range(T):
        pasts.append(past)
        if t == half:
            rows = _other_rows(subject)
            state, past = _gathered(state, rows), _gathered(past, rows)
        query = inputs.query[rows, t]
        context, weights, past = run.step(query, state, t, past)
        expect(f"context of step {t}", context, wanted.context[rows, t], subject.tolerance, inputs)
        run.expect_weights(f"weights of step {t}", [weights], wanted.weights[rows, :, t], inputs)
    if half > 1:
        at = np.where(np.arange(subject.sizes.B) == 0, 0, half - 1)
        query = inputs.query[np.arange(subject.sizes.B), at]
        context, _, _ = run.step(query, memory, at, _merged(pasts[0], pasts[half - 1]))
        wanted_here = wanted.context[np.arange(subject.sizes.B), at]
        expect("context of rows at several steps", context, wanted_here, subject.tolerance, inputs)
    if half == 0 or not callable(getattr(subject.attention, "extend", None)):
        return
    # One query is no block: the two behind it are.
    past, size, starts = (start, half, (0, half)) if half > 1 or T < 3 else (pasts[1], 2, (1,))
    for t in starts:
        block = slice(t, t + size)
        (context, *weights), past = run.extend(inputs.query[:, block], memory, t, past)
        what = f"of queries {t} to {t + size - 1} in a block"
        expect(f"context {what}", context, wanted.context[:, block], subject.tolerance, inputs)
        run.expect_weights(f"weights {what}", weights, wanted.weights[:, :, block], inputs)


def positions_are_places(subject: Subject) -> None:
    """Queries and keys may come in any order if ``positions`` gives their positions."""
    run = _Methods(subject, "prepare", "attend")
    run.needs_argument("prepare", "positions")
    run.needs_argument("attend", "positions")
    inputs = subject.inputs("padding")
    wanted = subject.run(inputs)
    narrow = _one_mask_for_all(inputs)
    back, last_first = np.arange(subject.sizes.T)[::-1], np.arange(subject.sizes.S)[::-1]
    moved = narrow.replace(
        keys=inputs.keys[:, last_first],
        values=inputs.values[:, last_first],
        mask=None if narrow.mask is None else narrow.mask[..., last_first],
    )
    memory = run.prepare(moved, last_first)
    context, *weights = run.attend(inputs.query[:, back], memory, back)
    expect("context", context, wanted.context[:, back], subject.tolerance, inputs)
    run.expect_weights("weights", weights, wanted.weights[:, :, back][..., last_first], inputs)


def decoding(subject: Subject) -> None:
    """``decode`` with a cache, position by position and in blocks, equals the causal call.

    Rows may have padding at the start or end of the first block, and the rows of a cache can be
    gathered.
    """
    run = _Methods(subject, "empty_cache", "decode")
    inputs = subject.inputs("all")
    _needs_causal_call(subject, inputs)
    x = inputs.keys
    B, S = x.shape[:2]
    valid = np.ones((B, S), bool)
    _expect_half_stays_half(subject, x)
    _expect_positions_of_decoding(run, x)
    for padded in (False, True):
        block = S // 2 if padded else 1
        if padded:
            valid[:1, block - 1] = block == 1
            valid[1:, 0] = False
        if block == 0 or (padded and subject.sizes.S < 4):
            return
        wanted, *whole = run.causal_call(x, valid)
        rows = np.arange(B)
        cache = run.numbers("empty_cache", B, S, subject.dtype, static=True)
        caches = []
        for t in range(0, S - block + 1, block):
            caches.append(cache)
            places = slice(t, t + block)
            (context, *weights), new = run.decode(
                x[rows, places], cache, valid[rows] if padded else None
            )
            _expect_same_kind(cache, new)
            what = f"of positions {t} to {t + block - 1}"
            real = valid[rows, places][..., None]
            context = np.where(real, context, wanted[rows, places])
            expect(f"context {what}", context, wanted[rows, places], subject.tolerance, inputs)
            for got, all_ in zip(weights, whole):
                if got.shape[-1] == S:  # the cache of a window has other slots
                    seen = all_[rows][:, :, places]
                    got = np.where(real[:, None], got, seen)
                    expect(f"weights {what}", got, seen, subject.weight_tolerance, inputs)
            if t == 0:
                rows = _other_rows(subject)
                new = _gathered(new, rows)
            cache = new
        if not padded and S > 3:
            # Two rows of a batch may be of different lengths.
            at = np.where(rows == rows[0], 1, S - 2)
            merged = _merged(caches[1], caches[S - 2])
            (context, *_), _ = run.decode(x[rows, at][:, None], merged, None)
            expect(
                "context of rows of several lengths",
                context[:, 0],
                wanted[rows, at],
                subject.tolerance,
                inputs,
            )


def decode_many(subject: Subject, length: int, tolerance: float) -> None:
    """Expect the causal call's last row from ``decode`` behind ``length`` positions.

    Nothing is tested of an attention that does not decode, or that refuses so many positions.
    """
    try:
        run, inputs = _Methods(subject, "empty_cache", "decode"), subject.inputs("all")
        _needs_causal_call(subject, inputs)
        random = np.random.default_rng(subject.seed)
        x = random.standard_normal((1, length + 1, inputs.keys.shape[2]))
        wanted, *_ = run.causal_call(x, np.ones((1, length + 1), bool))
        cache = run.numbers("empty_cache", 1, length + 1, subject.dtype, static=True)
        _, cache = run.decode(x[:, :length], cache, None)
        (context, *_), _ = run.decode(x[:, length:], cache, None)
    except (DoesNotApply, ValueError, NotImplementedError):
        return
    size = max(1.0, float(np.abs(wanted).max()))
    expect(
        f"context of position {length} decoded behind {length}",
        context / size,
        wanted[:, length:] / size,
        tolerance,
    )


def _needs_causal_call(subject: Subject, inputs: Inputs) -> None:
    if len({x.shape[2:] for x in (inputs.query, inputs.keys, inputs.values)}) > 1:
        raise DoesNotApply("query, keys and values differ in width: it cannot attend to itself")
    if subject.visible is None and not subject.has_row_masks:
        raise DoesNotApply("it takes no causal mask")


def _expect_half_stays_half(subject: Subject, x: np.ndarray) -> None:
    """Expect a context in bfloat16 of a bfloat16 attention; traced, not compiled."""

    def call(parameters: list[Any], x: Any) -> Any:
        attention: Any = subject.with_parameters(parameters) if parameters else subject.attention
        cache = attention.empty_cache(*x.shape[:2], x.dtype)
        return attention.decode(x[:, :1], cache)[0]

    with jax.enable_x64(False):
        try:
            half = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
            found = jax.eval_shape(call, subject.parameters("bfloat16"), half)
        except NotImplementedError as error:
            raise DoesNotApply(f"decode: {error}") from error
    if found.dtype != jnp.bfloat16:
        raise Broken(f"decode of bfloat16 gave a context in {found.dtype}; wanted bfloat16")


def _expect_positions_of_decoding(run: "_Methods", x: np.ndarray) -> None:
    """Expect the same contexts behind a slot of padding, with positions that do not count it."""
    (B, S), subject = x.shape[:2], run.subject
    attention: Any = subject.attention
    if "positions" not in _parameters(attention.decode) or S < 3:
        return
    wanted, *_ = run.causal_call(x, np.ones((B, S), bool))
    valid = np.ones((B, S), bool)
    valid[:, 0] = False
    behind = np.concatenate([x[:, :1], x[:, :-1]], axis=1)
    cache = run.numbers("empty_cache", B, S, subject.dtype, static=True)
    places = np.maximum(np.arange(S) - 1, 0)
    (context, *_), _ = run.decode(behind, cache, valid, places)
    what = "context behind a slot of padding, by positions"
    expect(what, context[:, 1:], wanted[:, :-1], subject.tolerance)


class _Methods:
    """Methods of an attention, compiled and called with its parameters."""

    def __init__(self, subject: Subject, *names: str):
        for name in names:
            if not callable(getattr(subject.attention, name, None)):
                raise DoesNotApply(f"it has no {name}()")
        self.subject = subject

    def needs_argument(self, method: str, name: str) -> None:
        if name not in _parameters(getattr(self.subject.attention, method)):
            raise DoesNotApply(f"{method}() takes no {name}")

    def prepare(self, inputs: Inputs, places: np.ndarray | None = None) -> Any:
        _, keys, values, mask = arguments(inputs, self.subject.dtype)
        keywords = {} if mask is None else {"mask": mask}
        if places is not None:
            keywords["positions"] = self._of_all_rows(places)
        return self.numbers("prepare", keys, values, **keywords)

    def attend(self, query: np.ndarray, memory: Any, places: np.ndarray | None = None) -> Any:
        """Return the context and weights; expect the same context without weights."""
        keywords = {} if places is None else {"positions": self._of_all_rows(places)}
        alone, result = self.numbers("attend", self._in(query), memory, twice=True, **keywords)
        context, *weights = _arrays(result)
        expect("context without weights", _arrays(alone)[0], context, self.subject.tolerance)
        return context, *weights

    def step(self, query: np.ndarray, memory: Any, position: int | np.ndarray, past: Any) -> Any:
        at = jax.device_put(np.broadcast_to(position, len(query)).astype(np.int32))
        context, weights, past = self.numbers(
            "step", self._in(query), memory, position=at, past=past
        )
        return *_arrays((context, weights)), past

    def extend(self, query: np.ndarray, memory: Any, start: int, past: Any) -> Any:
        """Return the result with weights and the past; expect the same context without weights."""
        places = self._of_all_rows(start + np.arange(query.shape[1]))
        (alone, _), (result, past) = self.numbers(
            "extend", self._in(query), memory, past, positions=places, twice=True
        )
        context, *weights = _arrays(result)
        expect("context without weights", _arrays(alone)[0], context, self.subject.tolerance)
        return (context, *weights), past

    def decode(
        self,
        x: np.ndarray,
        cache: Any,
        valid: np.ndarray | None,
        places: np.ndarray | None = None,
    ) -> Any:
        """Return the result, with weights if any, and the cache.

        Expect the same context without weights.
        """
        keywords = {}
        if valid is not None:
            keywords["mask"] = jax.device_put(valid[:, None, None, :])
        if places is not None:
            keywords["positions"] = self._of_all_rows(places)
        if not (self.subject.has_weights and self._decodes_weights(x, cache, keywords)):
            result, cache = self.numbers("decode", self._in(x), cache, **keywords)
            return _arrays(result), cache
        (alone, _), (result, cache) = self.numbers(
            "decode", self._in(x), cache, twice=True, **keywords
        )
        context, *weights = _arrays(result)
        expect("context without weights", _arrays(alone)[0], context, self.subject.tolerance)
        return (context, *weights), cache

    def causal_call(self, x: np.ndarray, valid: np.ndarray) -> list[np.ndarray]:
        """Return the self-attention of the whole sequence, without padded keys."""
        subject, (B, S) = self.subject, valid.shape
        mask = valid[:, None, None, :]
        if subject.has_row_masks:
            mask = np.broadcast_to(mask & np.tri(S, dtype=bool), (B, subject.heads, S, S))
        if not subject.has_mask:
            raise DoesNotApply("it takes no mask")
        found = subject.run(Inputs(x, x, x, mask))
        return [found.context, *([found.weights] if subject.has_weights else [])]

    def numbers(
        self,
        name: str,
        *given: Any,
        static: bool = False,
        twice: bool = False,
        **keywords: Any,
    ) -> Any:
        """Return the result of a method; raise DoesNotApply if it raises NotImplementedError."""
        subject = self.subject

        def call(parameters: list[Any], given: Any, keywords: Any) -> Any:
            attention = subject.with_parameters(parameters) if parameters else subject.attention
            method = getattr(attention, name)
            asked = {"return_weights": True} if twice and subject.has_weights else {}
            result = method(*given, **keywords, **asked)
            return (method(*given, **keywords), result) if twice else result

        with subject.precision():
            parameters = subject.parameters(subject.dtype)
            try:
                if static:
                    return call(parameters, given, keywords)
                key = f"{name} {twice} {sorted(keywords)}"
                return subject.jitted(key, call)(parameters, given, keywords)
            except NotImplementedError as error:
                raise DoesNotApply(f"{name}: {error}") from error

    def _decodes_weights(self, x: np.ndarray, cache: Any, keywords: Any) -> bool:
        """Return whether ``decode`` returns weights; a recurrent state has no weights per key."""
        attention: Any = self.subject.attention
        with self.subject.precision():
            try:
                jax.eval_shape(
                    lambda x, cache, keywords: attention.decode(
                        x, cache, **keywords, return_weights=True
                    ),
                    self._in(x),
                    cache,
                    keywords,
                )
            except (NotImplementedError, ValueError, TypeError):
                return False
        return True

    def expect_weights(
        self, what: str, weights: list[np.ndarray], wanted: np.ndarray, inputs: Inputs
    ) -> None:
        if self.subject.has_weights:
            expect(what, weights[0], wanted, self.subject.weight_tolerance, inputs)

    def _in(self, x: np.ndarray) -> Any:
        return jax.device_put(x.astype(self.subject.dtype))

    def _of_all_rows(self, places: np.ndarray) -> Any:
        rows = np.broadcast_to(places.astype(np.int32), (self.subject.sizes.B, places.size))
        return jax.device_put(rows)


def _parameters(method: Any) -> Any:
    return inspect.signature(method).parameters


def _arrays(result: Any) -> list[np.ndarray]:
    parts = result[:2] if isinstance(result, tuple | list) else [result]
    return [np.asarray(part).astype(np.float64) for part in parts]


def _one_mask_for_all(inputs: Inputs) -> Inputs:
    return inputs if inputs.mask is None else inputs.replace(mask=inputs.mask[:, :1, :1])


def _other_rows(subject: Subject) -> np.ndarray:
    return np.arange(subject.sizes.B)[::-1]


def _gathered(state: Any, rows: np.ndarray) -> Any:
    """Gather rows of all arrays of a memory, past or cache along their first axis, the batch."""

    def gather(array: Any) -> Any:
        array = np.asarray(array)
        if array.shape[:1] != rows.shape:
            raise Broken(
                f"a memory, past or cache holds an array of shape {array.shape}; wanted the batch "
                f"of {rows.size} as first axis, to be gathered or repeated by a search"
            )
        return jax.device_put(array[rows])

    return jax.tree.map(gather, state)


def _merged(state: Any, other: Any) -> Any:
    """Join the first row of one memory, past or cache with the other rows of another."""

    def merge(array: Any, other: Any) -> Any:
        return jax.device_put(np.concatenate([np.asarray(array)[:1], np.asarray(other)[1:]]))

    return jax.tree.map(merge, state, other)


def _expect_same_kind(before: Any, after: Any) -> None:
    """Expect the same shapes and dtypes after a step, as a compiled loop requires."""
    kinds = [jax.tree.map(lambda x: (x.shape, str(x.dtype)), cache) for cache in (before, after)]
    if kinds[0] != kinds[1]:
        raise Broken(f"decode made of a cache {kinds[0]} one {kinds[1]}; wanted the same kind")
