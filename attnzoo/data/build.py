"""Building of token stores: a source is cut into blocks, which worker processes encode."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from pathlib import Path
from typing import Any

import xxhash

from attnzoo.data.store import LEDGER, Columns, Store, StoreWriter, only_writer
from attnzoo.errors import UserError

PROGRESS_SECONDS = 5.0

# JSON values about a piece or a store; a piece has `bytes`, its size in the source.
About = dict[str, Any]


# What a worker does with a block: columns, and JSON values about them. It is pickled once a worker.
Encode = Callable[[Any], tuple[Columns, About]]
# The last step, for what is known only of the whole: values about the store, and the columns that
# replace those of the pieces.
Join = Callable[[StoreWriter, list[About]], tuple[About, Columns]]


def build_store(
    folder: Path,
    key: Mapping[str, Any],
    blocks: Callable[[], Iterable[Any]],
    encode: Encode,
    join: Join,
    *,
    workers: int | None = None,
    size: int = 0,
    enough: Callable[[list[About]], bool] = lambda pieces: False,
) -> Store:
    """Open the store in `folder`, or make it.

    Blocks, pieces and columns do not depend on `workers`, the number of processes; 0 encodes in
    this one, None takes as many as there are cores. A build that was stopped goes on after its last
    complete piece. `size` is that of the source in bytes, if it is known, for the progress, which
    is told on standard error. `enough` may end the source early, given what is noted about the
    first pieces. A full disk, and a worker that was killed, are a UserError.
    """
    if (folder / LEDGER).exists():
        return Store.open(folder)
    with only_writer(folder, lambda: tell(f"waiting for the process that makes {folder}")):
        if (folder / LEDGER).exists():
            return Store.open(folder)
        writer = StoreWriter(folder)
        progress = _Progress(folder.name, size)
        pieces = _encode_all(writer, iter(blocks()), encode, workers, progress, enough)
        about, small = join(writer, pieces)
        store = writer.finish(len(pieces), key, about | progress.about(), small)
        progress.end(store)
        return store


def tell(line: str) -> None:
    """Print one line on standard error."""
    print(line, file=sys.stderr, flush=True)


class _Progress:
    """Lines about a build that takes long: what is done, how fast, and when it will be."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name.rpartition("-")[0], size
        self.began = self.told = time.monotonic()
        self.old = 0

    def __call__(self, pieces: list[About]) -> None:
        now = time.monotonic()
        if now - self.told < max(PROGRESS_SECONDS, (now - self.began) / 20):
            return
        self.told = now
        done = sum(piece["bytes"] for piece in pieces)
        rate = (done - self.old) / (now - self.began)
        line = f"{self.name}: {done / 1e6:,.0f} MB tokenized, {rate / 1e6:.1f} MB/s"
        if self.size > done and rate:
            line += f", {100 * done // self.size} %, {(self.size - done) / rate:,.0f} s left"
        tell(line)

    def kept(self, about: About) -> None:
        """Note a piece of an earlier build, which took no time."""
        self.old += about["bytes"]

    def about(self) -> About:
        """Return the seconds and the time of the build, for the ledger."""
        return {"seconds": round(time.monotonic() - self.began, 3), "made": time.time()}

    def end(self, store: Store) -> None:
        """Say where a store is that took long to make."""
        seconds = time.monotonic() - self.began
        if seconds >= PROGRESS_SECONDS:
            tell(f"{self.name}: made in {seconds:,.0f} s, kept in {store.folder}")


def store_folder(cache: Path, name: str, key: Mapping[str, Any]) -> Path:
    """Return the folder of the store with this key."""
    digest = xxhash.xxh3_128_hexdigest(json.dumps(key, sort_keys=True, default=str).encode())
    return cache.expanduser().resolve() / f"{name}-{digest}"


def trained_once(
    path: Path, train: Callable[[], Any], load: Callable[[Path], Any], workers: int | None
) -> Any:
    """Load the tokenizer in `path`; if there is none, train one and save it there.

    It is trained in a process of its own, whose memory is free afterwards, unless `workers` is 0.
    """
    if not path.exists():
        with only_writer(path, lambda: None):
            if not path.exists():
                partial = path.with_name(f"{path.name}.part")
                if workers == 0:
                    _train(train, partial)
                else:
                    with _processes(path, 1) as pool:
                        pool.submit(_train, train, partial).result()
                partial.replace(path)
    return load(path)


def _train(train: Callable[[], Any], path: Path) -> None:
    train().save(path)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _encode_all(
    writer: StoreWriter,
    blocks: Iterator[Any],
    encode: Encode,
    workers: int | None,
    progress: _Progress,
    enough: Callable[[list[About]], bool],
) -> list[About]:
    """Write all pieces that are missing; return what is noted about each."""
    pieces: list[About] = []
    first = list(islice(blocks, 2))
    numbered = enumerate(chain(first, blocks))
    workers = cores() if workers is None else workers
    if workers == 0 or len(first) < 2:
        for number, block in numbered:
            about = writer.done(number)
            if about is None:
                columns, about = encode(block)
                writer.put(number, columns, about)
            else:
                progress.kept(about)
            pieces.append(about)
            progress(pieces)
            if enough(pieces):
                break
        return pieces
    waiting: deque[About | Future[About]] = deque()
    with _processes(writer.folder, workers, _start_worker, (writer, encode)) as pool:
        for number, block in numbered:
            done = writer.done(number)
            if done is not None:
                progress.kept(done)
            waiting.append(pool.submit(_encode_one, number, block) if done is None else done)
            if len(waiting) > workers:
                _take(waiting, pieces)
                progress(pieces)
            if enough(pieces):
                break
        while waiting and not enough(pieces):
            _take(waiting, pieces)
            progress(pieces)
    return pieces


@contextlib.contextmanager
def _processes(path: Path, count: int, *start: Any) -> Generator[ProcessPoolExecutor]:
    """Run a pool of processes that make `path`; one that is killed is a UserError."""
    # Spawned: a fork would copy the locks of JAX's threads.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), *start)
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            f"{path}: a process that makes it was killed (out of memory?), or this script has no "
            "`if __name__ == '__main__':`; cache.workers=0 uses none"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take(waiting: deque[About | Future[About]], pieces: list[About]) -> None:
    one = waiting.popleft()
    pieces.append(one.result() if isinstance(one, Future) else one)


_worker: dict[str, Any] = {}


def _start_worker(writer: StoreWriter, encode: Encode) -> None:
    _worker.update(writer=writer, encode=encode)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool does not notice that its parent was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_one(number: int, block: Any) -> About:
    columns, about = _worker["encode"](block)
    _worker["writer"].put(number, columns, about)
    return about
