"""A run directory: where each file of a run lies, and the lock that keeps a second writer out."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path

from attnzoo.errors import UserError

LOCK_FILE = "run.lock"
HEARTBEAT_SECONDS = 10.0
FOREIGN_STALE_SECONDS = 120.0
"""A lock of another host that was not touched for this long belongs to a dead run."""


def fsync_directory(path: Path) -> None:
    """Make the names in a directory survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: Path) -> None:
    """Make every file and directory under `path`, and its own name, survive a power failure."""
    for directory, _, files in os.walk(path, topdown=False):
        for name in files:
            descriptor = os.open(Path(directory) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_directory(Path(directory))
    fsync_directory(path.parent)


def write_durably(path: Path, text: str) -> None:
    """Replace a small text file; after a crash too, a reader sees the old or the new one whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The layout of one run: `path` is absolute; every other path is derived from it."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, *, resume: bool = False) -> "RunDirectory":
        """Make the directory of a new run, or (`resume`) open that of an earlier one.

        Raises:
          UserError: without `resume` it holds a run already (naming the process that is writing
            there, if one is); with `resume` there is no run; or it cannot be created.
        """
        run = cls(Path(path).expanduser().resolve())
        started = run.config.exists() or any(run.checkpoints.glob("*"))
        if started and not resume:
            owner = read_owner(run.lock_file)
            holder = f" (its lock names {owner})" if owner else ""
            raise UserError(
                f"{run.path}: holds a run already{holder}; continue it with --resume or choose "
                "another directory"
            )
        if resume and not started:
            raise UserError(
                f"{run.path}: there is no run to resume (no config.yaml, no checkpoint)"
            )
        try:
            for directory in (run.path, run.checkpoints, run.best, run.figures):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{run.path}: cannot make the run directory: {error}") from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """An existing run, to read from; nothing is written and no lock is taken.

        Raises:
          UserError: there is no run in `path`.
        """
        run = cls(Path(path).expanduser().resolve())
        if not run.config.exists():
            raise UserError(f"{run.path}: not a run directory (it has no config.yaml)")
        return run

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The newest steps."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The step with the best validation metric."""
        return self.path / "best"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def figures(self) -> Path:
        """Pictures made while training."""
        return self.path / "figures"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def lock_file(self) -> Path:
        """Names the process that writes here; absent when there is none."""
        return self.path / LOCK_FILE

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Hold the right to write into this run; a dead writer's lock is taken over.

        The lock is a file made exclusively, held by flock, that names process, host and boot. The
        kernel drops flock with its process, so on one host a stale lock is recognised at once. A
        lock of another host, where flock may not reach, counts as stale only when its holder has
        not touched it for `FOREIGN_STALE_SECONDS`.

        Raises:
          UserError: another process is writing into this run, named with its host.
        """
        descriptor = _acquire(self.lock_file)
        stop = threading.Event()
        beat = threading.Thread(target=_heartbeat, args=(descriptor, stop), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            # Unlinked while still held: whoever opened the old file meanwhile sees that its
            # inode is no longer the one on disk, and starts over.
            self.lock_file.unlink(missing_ok=True)
            os.close(descriptor)


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who wrote a lock file."""

    pid: int
    host: str
    boot_id: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host}"

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        boot_id = Path("/proc/sys/kernel/random/boot_id")
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            boot_id=boot_id.read_text(encoding="ascii").strip() if boot_id.exists() else "",
        )


def read_owner(lock_file: Path) -> Owner | None:
    """Whom a lock file names; None when there is none or it was not written to its end."""
    try:
        return Owner(**json.loads(lock_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _acquire(path: Path) -> int:
    """Return a descriptor that holds the lock, or raise UserError."""
    while True:
        try:
            descriptor, created = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), True
        except FileExistsError:
            try:
                descriptor, created = os.open(path, os.O_RDWR), False
            except FileNotFoundError:
                continue
        except OSError as error:
            raise UserError(f"{path}: cannot make the lock of this run: {error}") from error
        try:
            flocked = _flock(descriptor)
            try:
                current = path.stat().st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                current = False
            if current and not created and not (flocked and _of_this_boot(path)) and _alive(path):
                raise _refusal(path)
            if current:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(dataclasses.asdict(Owner.here())).encode())
                os.fsync(descriptor)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise _refusal(path) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int) -> bool:
    """Lock or raise BlockingIOError; False where the file system knows no flock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _of_this_boot(path: Path) -> bool:
    """Whether the kernel that dropped the holder's flock is ours; an unfinished file counts."""
    owner = read_owner(path)
    return owner is None or owner.boot_id == Owner.here().boot_id


def _alive(path: Path) -> bool:
    """Whether the holder of a lock that flock cannot vouch for touched it lately."""
    # The file server's clock, not ours, wrote the lock's time: ask it for the time now.
    probe = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    return now - path.stat().st_mtime < FOREIGN_STALE_SECONDS


def _refusal(path: Path) -> UserError:
    # The holder creates the file first and writes its name a moment later.
    deadline = time.monotonic() + 1.0
    while (owner := read_owner(path)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    who = owner or "a process that did not write its name"
    return UserError(
        f"{path.parent}: {who} is writing into this run; stop it or wait for it (a lock left by a "
        f"dead process is taken over, at the latest {FOREIGN_STALE_SECONDS:.0f} s after its end)"
    )


def _heartbeat(descriptor: int, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(descriptor)
