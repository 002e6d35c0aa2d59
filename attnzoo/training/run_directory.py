"""Run directories: the paths of a run's files, and the lock against a second writer."""

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
from attnzoo.files import open_regular, read_json

LOCK_FILE = "run.lock"
HEARTBEAT_SECONDS = 10.0
FOREIGN_STALE_SECONDS = 120.0
"""Age in seconds at which a lock of another host counts as left by a dead run."""


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
    """Replace a small text file atomically: even after a crash, readers see the old or new text."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8", opener=open_regular) as file:
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
          UserError: without `resume` a run already exists (naming the process that writes to it, if
            any); with `resume` there is no run; or the directory cannot be created.
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
        """Open an existing run for reading; nothing is written and no lock is taken.

        Raises:
          UserError: there is no run in `path`.
        """
        run = cls(Path(path).expanduser().resolve())
        if not run.config.exists():
            raise UserError(f"{run.path}: not a run directory (it has no config.yaml)")
        return run

    @property
    def config(self) -> Path:
        """File of the resolved config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Directory of the newest steps."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Directory of the step with the best validation metric."""
        return self.path / "best"

    @property
    def metrics(self) -> Path:
        """File with one JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def figures(self) -> Path:
        """Directory of figures made during training."""
        return self.path / "figures"

    @property
    def tensorboard(self) -> Path:
        """Directory of TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def lock_file(self) -> Path:
        """File that names the process that writes here; absent if there is none."""
        return self.path / LOCK_FILE

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Hold the right to write into this run; a dead writer's lock is taken over.

        The lock is a file created exclusively and held by flock, with process, host and boot. The
        kernel drops flock with its process, so on one host a stale lock is recognised at once. A
        lock of another host, where flock may not work, counts as stale only when its holder has
        not touched it for `FOREIGN_STALE_SECONDS`.

        Raises:
          UserError: another process is writing into this run; the message names it and its host.
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
            # Unlinked while still held: a process that opened the old file meanwhile sees that
            # its inode is no longer the one on disk, and starts over.
            self.lock_file.unlink(missing_ok=True)
            os.close(descriptor)


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that wrote a lock file."""

    pid: int
    host: str
    boot_id: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host}"

    @classmethod
    def here(cls) -> "Owner":
        """Return the owner for this process."""
        boot_id = Path("/proc/sys/kernel/random/boot_id")
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            boot_id=boot_id.read_text(encoding="ascii").strip() if boot_id.exists() else "",
        )


def read_owner(lock_file: Path) -> Owner | None:
    """Return the owner of a lock file; None if it is missing or incomplete."""
    try:
        owner = Owner(**read_json(lock_file, limit=4096))
    except (UserError, TypeError):
        return None
    valid = isinstance(owner.pid, int) and f"{owner.host}{owner.boot_id}".isprintable()
    return owner if valid else None


def _acquire(path: Path) -> int:
    """Return a descriptor that holds the lock, or raise UserError."""
    while True:
        created = True
        try:
            try:
                descriptor = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                descriptor, created = open_regular(path, os.O_RDWR), False
        except FileNotFoundError:
            if created:  # no directory, rather than a lock released meanwhile
                raise UserError(
                    f"{path}: cannot make the lock of this run: no such folder"
                ) from None
            continue
        except OSError as error:
            raise UserError(
                f"{path}: cannot make the lock of this run: {error.strerror}"
            ) from error
        try:
            flocked = _flock(descriptor)
            try:
                current = os.path.samestat(path.lstat(), os.fstat(descriptor))
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
    """Lock or raise BlockingIOError; False if the file system does not support flock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _of_this_boot(path: Path) -> bool:
    """Return whether the lock was written since this boot of this host, or is incomplete."""
    owner = read_owner(path)
    return owner is None or owner.boot_id == Owner.here().boot_id


def _alive(path: Path) -> bool:
    """Return whether a lock that flock cannot check was touched recently."""
    # The lock's time is the file server's clock, not ours: ask it for the time now.
    probe = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    os.close(open_regular(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    os.utime(probe, follow_symlinks=False)
    now = probe.lstat().st_mtime
    probe.unlink()
    return now - path.lstat().st_mtime < FOREIGN_STALE_SECONDS


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
