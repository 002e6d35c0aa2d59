"""Compiled programs of a training, made in a background thread before they are called."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, final

import jax

TOLD_SECONDS = 2.0
"""A wait for a program that is shorter, such as that for one read from the cache, is not told."""


class Call(NamedTuple):
    """A jitted function that is to be called, its batch, and the number of batches' lengths."""

    name: str
    function: Any
    arguments: tuple[Any, ...]
    """Arrays or their shapes; the last is the batch, whose shape alone differs between calls."""
    lengths: int = 1

    @property
    def key(self) -> tuple[Any, ...]:
        """The name and the shapes of the batch, which the program is compiled for."""
        batch: Mapping[str, Any] = self.arguments[-1]
        return self.name, *sorted((name, x.shape, str(x.dtype)) for name, x in batch.items())

    @property
    def subject(self) -> str:
        """The name and, where there are several, the length of the batch."""
        if self.lengths == 1:
            return self.name
        return f"{self.name} for length {min(s[1] for _, s, _ in self.key[1:] if len(s) > 1)}"


@final
class Programs:
    """Compiled programs of jitted functions, one for each shape of a batch.

    A call waits for its program, compiling it unless the background thread has begun to. Waits that
    are long are told to ``say``, and all are added to ``waited``. The thread ends with the context,
    after the program that it is compiling::

        with Programs(print, contextlib.nullcontext) as programs:
            programs.prepare(calls)
            state, sums = programs(Call("step", step, (state, batch)))

    Args:
        say: prints one line.
        context: makes the context in which functions are traced; each thread enters its own.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        context: Callable[[], contextlib.AbstractContextManager[Any]],
    ):
        self._say, self._context = say, context
        self._programs: dict[tuple[Any, ...], Future[Any]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.waited = 0.0
        """Seconds for which calls have waited for programs."""

    def prepare(self, calls: Iterable[Call]) -> None:
        """Compile the programs of these calls in a thread, one after the other."""
        self._thread = threading.Thread(target=self._compile_all, args=(calls,), name="programs")
        self._thread.start()

    def clock(self) -> float:
        """Return seconds that go on except while calls wait for programs."""
        return time.monotonic() - self.waited

    def __call__(self, call: Call) -> Any:
        """Return the result of a call."""
        future, began = self._programs.get(call.key), time.monotonic()
        if future is None or not future.done():
            with self._told(call):
                future = self._compile(call)
                future.result()
            self.waited += time.monotonic() - began
        return future.result()(*call.arguments)

    def _compile(self, call: Call) -> Future[Any]:
        """Compile the program of a call in this thread, unless one has begun to."""
        with self._lock:
            known, future = call.key in self._programs, Future[Any]()
            future = self._programs.setdefault(call.key, future)
        if not known:
            try:
                shapes = jax.tree.map(shape_of, call.arguments)
                with self._context():
                    future.set_result(call.function.lower(*shapes).compile())
            except BaseException as error:  # raised where the program is called
                future.set_exception(error)
        return future

    def _compile_all(self, calls: Iterable[Call]) -> None:
        for call in calls:
            if self._ended.is_set():
                break
            self._compile(call)

    @contextlib.contextmanager
    def _told(self, call: Call) -> Iterator[None]:
        """Say what is compiled if it takes long, and how long it took."""
        begun = sum(key[0] == call.name for key in self._programs) + (
            call.key not in self._programs
        )
        place = f" ({begun} of {call.lengths})" if call.lengths > 1 else ""
        began = time.monotonic()
        timer = threading.Timer(TOLD_SECONDS, self._say, (f"compiling {call.subject}{place}",))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
        seconds = time.monotonic() - began
        if seconds >= TOLD_SECONDS:
            self._say(f"compiled {call.subject} in {seconds:.0f} s")

    def __enter__(self) -> "Programs":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of an array, and its sharding if it is placed on devices."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    placed = isinstance(x, jax.Array) and x.committed
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding if placed else None)


def one_of_each_shape(calls: Iterable[Call]) -> Iterator[Call]:
    """Yield the first call with each shape of a batch, until there are as many as lengths."""
    keys = set()
    for call in calls:
        if call.key not in keys:
            keys.add(call.key)
            yield call
        if len(keys) == call.lengths:
            return
