"""Checkpoints with verified digests: the newest steps, the best step, and functions that read them.

A step is a directory named by its number (see `step_files`). Steps that are damaged or rolled back
are moved into a directory beside them; only `keep` and a better metric delete any.
"""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from attnzoo.errors import UserError
from attnzoo.training.leaves import Leaf, build, snapshot
from attnzoo.training.step_files import (
    COMMIT_FILE,
    DAMAGED,
    ROLLED_BACK,
    DamagedStepError,
    delete_step,
    open_for_writing,
    read_manifest,
    read_step,
    remove_unfinished,
    set_aside,
    steps,
    unfinished,
    write_step,
)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """Content of a saved step: its number, the arrays, and the JSON dictionary saved with them."""

    step: int
    state: Any
    meta: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StepReport:
    """Result of `verify` for one step: the leaves or files that differ, if any."""

    step: int
    path: Path
    problems: tuple[str, ...] = ()
    unfinished: bool = False
    """True if there is no commit file: the save is still running or was interrupted."""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Digests of the run's files that the step was trained with, by name."""

    @property
    def ok(self) -> bool:
        """True if no saved data is damaged."""
        return not self.problems


def restore(path: str | Path, abstract: Any = None, step: int | None = None) -> Restored:
    """Read a step without the run's lock, from a run directory, a directory of steps, or one step.

    Without `step` the newest valid one is read; damaged ones are skipped with a warning.
    Without `abstract` the state is nested dictionaries of numpy arrays as stored, tuples and
    lists as dictionaries with integer keys, typed random keys as their uint32 data. With it, see
    `CheckpointStore.restore_newest_valid`.

    Raises:
      UserError: no step, no valid step, the given step is damaged, or does not match `abstract`.
    """
    root = Path(path).expanduser().resolve()
    if (root / COMMIT_FILE).exists():
        return _restore_step(root, abstract)
    root = root / "checkpoints" if (root / "checkpoints").is_dir() else root
    if step is not None:
        if step not in steps(root):
            raise UserError(f"{root}: there is no step {step}; the steps are {steps(root)}")
        return _restore_step(root / str(step), abstract)
    tried: set[int] = set()
    # Listed again each time: a running training deletes old steps while we read.
    while remaining := [number for number in steps(root) if number not in tried]:
        tried.add(newest := max(remaining))
        try:
            leaves, meta = read_step(root / str(newest))
        except DamagedStepError as error:
            logger.warning("%s: damaged, not used: %s", root / str(newest), error)
        else:
            where = str(root / str(newest))
            return Restored(newest, build(leaves, abstract, where), meta)
    count = f"{len(tried)} damaged, {len(unfinished(root))} not completely written"
    raise UserError(f"{root}: no valid checkpoint ({count})")


def verify(path: str | Path) -> list[StepReport]:
    """Read every step of a run directory, of a directory of steps, or one step, and report.

    Raises:
      UserError: there is no step in `path`.
    """
    root = Path(path).expanduser().resolve()
    if (root / COMMIT_FILE).exists():
        candidates = [root]
    else:
        homes = [home for home in (root / "checkpoints", root / "best") if home.is_dir()] or [root]
        candidates = [p for home in homes if home.is_dir() for p in home.iterdir()]
        candidates = [p for p in candidates if p.name.isdecimal() and p.is_dir()]
    if not candidates:
        raise UserError(f"{root}: there is no checkpoint to verify")
    return [_report(p) for p in sorted(candidates, key=lambda p: (p.parent, int(p.name)))]


def save_shards(home: Path, step: int, state: Any) -> None:
    """Send this process's parts of the arrays while the first process saves a step.

    All other processes must call it, since orbax waits for them.
    """
    write_step(home / str(step), step, snapshot(state), {})


class CheckpointStore:
    """The writer of a directory of steps; enter it under the run's lock.

    A save copies the arrays to the host and returns. A background thread writes and syncs them to
    the disk, and only then deletes steps beyond the newest `keep`. Entering the context removes
    saves that an earlier process did not finish; leaving it waits for the last save. Errors of a
    save are raised by the next `poll`, `wait` or `save`.
    """

    def __init__(self, path: str | Path, *, keep: int = 2) -> None:
        """Open `path`, made if absent.

        Raises:
          UserError: `path` cannot be written to.
        """
        if keep < 1:
            raise ValueError(f"keep={keep} must be at least 1")
        self.path = open_for_writing(path)
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "CheckpointStore":
        remove_unfinished(self.path)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except UserError as failure:
            if error is None:
                raise
            error.add_note(str(failure))
        finally:
            self._thread.shutdown()

    @property
    def steps(self) -> list[int]:
        """The committed steps, ascending."""
        return steps(self.path)

    def newest_meta(self) -> dict[str, Any] | None:
        """Return the dictionary saved with the newest step that has a readable one."""
        for step in reversed(self.steps):
            with contextlib.suppress(DamagedStepError):
                return read_manifest(self.path / str(step))["meta"]
        return None

    def save(self, step: int, state: Any, meta: dict[str, Any], *, wait: bool = False) -> None:
        """Save a tree of arrays and a JSON dictionary as `step`, in the background.

        Waits for an earlier save first. The arrays may be donated or changed as soon as this
        returns. Leaves may be jax or numpy arrays or typed random keys.

        Args:
          step: larger than every step saved here; see `rollback`.
          state: dictionaries, tuples, lists and NamedTuples of arrays.
          meta: other data for resuming: data position, fingerprint, metrics.
          wait: return only when the step is on disk.

        Raises:
          UserError: this (with `wait`) or the earlier save could not be written.
          ValueError: `step` is not newer than those on disk, or a leaf is not an array.
        """
        self.wait()
        if (existing := self.steps) and step <= existing[-1]:
            raise ValueError(
                f"step={step} must be larger than the newest saved step {existing[-1]}; "
                "rollback() moves newer steps aside"
            )
        leaves, meta = snapshot(state), json.loads(json.dumps(meta))
        self._pending = self._thread.submit(self._commit, step, leaves, meta)
        if wait:
            self.wait()

    def poll(self) -> None:
        """Raise the error of the last save if it has already failed; never wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save is on disk; raise its error (UserError)."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore_newest_valid(
        self, abstract: Any = None, check: Callable[[dict[str, Any]], None] | None = None
    ) -> Restored | None:
        """Restore the newest step with valid digests; None if nothing was ever saved.

        Damaged newer steps are reported as warnings and, once an older step has proved valid, moved
        into `damaged/`. A leaf is restored as a numpy array if its leaf in `abstract` is one, else
        as a jax array, with the sharding of the abstract leaf if it has one. `check` is called with
        the dictionary that was saved with the step, before anything is moved, and may refuse it.

        Raises:
          UserError: every step is damaged; or a path, shape or dtype is not that of `abstract`.
        """
        self.wait()
        damaged: list[int] = []
        for step in reversed(self.steps):
            where = self.path / str(step)
            try:
                leaves, meta = read_step(where)
            except DamagedStepError as error:
                logger.warning("%s: damaged, set aside: %s", where, error)
                damaged.append(step)
                continue
            if check is not None:
                check(meta)
            state = build(leaves, abstract, str(where))
            for bad in damaged:
                set_aside(self.path / str(bad), DAMAGED)
            return Restored(step, state, meta)
        if damaged:
            raise UserError(f"{self.path}: no valid checkpoint, all of {damaged[::-1]} are damaged")
        return None

    def rollback(self, step: int) -> None:
        """Make `step` the newest: move later ones into `rolled_back/`; saving can then continue."""
        self.wait()
        if step not in self.steps:
            raise UserError(f"{self.path}: there is no step {step}; the steps are {self.steps}")
        for newer in self.steps[self.steps.index(step) + 1 :]:
            set_aside(self.path / str(newer), ROLLED_BACK)

    def _commit(self, step: int, leaves: list[Leaf], meta: dict[str, Any]) -> None:
        write_step(self.path / str(step), step, leaves, meta)
        for old in self.steps[: -self._keep]:
            delete_step(self.path / str(old))


class BestCheckpoint:
    """Writer of the step with the best metric; enter under the run's lock."""

    def __init__(self, path: str | Path) -> None:
        """Open `path`, made if absent. Raises UserError if it cannot be written to."""
        self.path = open_for_writing(path)

    @property
    def current(self) -> tuple[int, float] | None:
        """Step and metric of the best so far; None if there is none with a valid manifest."""
        found = self._found()
        return (found[2], found[3]) if found else None

    def _found(self) -> tuple[float, float, int, float] | None:
        found = []
        for step in steps(self.path):
            try:
                best = read_manifest(self.path / str(step))["meta"]["best"]
            except DamagedStepError as error:
                logger.warning("%s: damaged, set aside: %s", self.path / str(step), error)
                set_aside(self.path / str(step), DAMAGED)
            else:
                signed = best["sign"] * best["metric"]
                found.append((signed, best.get("loss", math.inf), step, best["metric"]))
        # Two only if a process died after writing the better one.
        return min(found) if found else None

    def wants(
        self, metric: float, mode: Literal["min", "max"] = "min", loss: float = math.inf
    ) -> bool:
        """Return whether a step would be kept: its metric is finite, and better than the best.

        Of equal metrics, such as accuracies of 100 %, the one with the lower ``loss`` is better.
        """
        signed, found = {"min": 1, "max": -1}[mode] * metric, self._found()
        return math.isfinite(metric) and not (found and (signed, loss) >= found[:2])

    def offer(
        self,
        step: int,
        state: Any,
        metric: float,
        mode: Literal["min", "max"] = "min",
        meta: dict[str, Any] | None = None,
        loss: float = math.inf,
    ) -> bool:
        """Save this step if it is better than the best so far; return whether it was saved.

        The earlier best is deleted only when the new one is on disk. A metric that is not finite
        is never kept; ``loss`` decides between equal ones. Returns when the step is written.

        Raises:
          UserError: the step could not be written; the earlier best is unchanged.
        """
        if not self.wants(metric, mode, loss):
            return False
        metric, sign = float(metric), {"min": 1, "max": -1}[mode]
        home = self.path / str(step)
        remove_unfinished(self.path)
        if home.exists():
            set_aside(home, ROLLED_BACK)
        told = {"metric": metric, "sign": sign} | ({"loss": loss} if math.isfinite(loss) else {})
        meta = json.loads(json.dumps(meta or {})) | {"best": told}
        write_step(home, step, snapshot(state), meta)
        for old in steps(self.path):
            if old != step:
                delete_step(self.path / str(old))
        return True


def _restore_step(path: Path, abstract: Any) -> Restored:
    try:
        leaves, meta = read_step(path)
    except DamagedStepError as error:
        raise UserError(f"{path}: damaged: {error}") from error
    return Restored(read_manifest(path)["step"], build(leaves, abstract, str(path)), meta)


def _report(path: Path) -> StepReport:
    if not (path / COMMIT_FILE).exists():
        return StepReport(int(path.name), path, unfinished=True)
    try:
        _, meta = read_step(path)
    except DamagedStepError as error:
        return StepReport(int(path.name), path, error.problems)
    return StepReport(int(path.name), path, files=meta.get("files", {}))
