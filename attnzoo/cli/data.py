"""`data ACTION ...`: data sets by name, and the token stores of large ones.

actions:
  build CONFIG [key=value ...]   do what a training does with its data before step 1
  show                           list the stores: what they hold, of which files, how large
  verify                         read every store and compare its digests; status 1: damage
  clean                          remove stores of files that changed or are gone (--all: everything)
  get [NAME]                     download a data set of the example configs, or list them
"""

import argparse
import contextlib
import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import add_trust, run
from attnzoo.errors import UserError

DAY = 86_400
STORES = ("pairs-", "text-", "rows-", "images-")
"""First words of the names of stores; rows are those packed from a text."""
FILES = ("tokenizer-", "cldr-")
"""First words of the names of other files in the cache: tokenizers, the embedded corpus."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", help=f"one of {', '.join(ACTIONS)}")
    parser.add_argument("what", nargs="*", help="CONFIG and key=value for build, NAME for get")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="folder of the stores (default: cache.path)"
    )
    parser.add_argument("--all", action="store_true", help="clean: remove every store")
    parser.add_argument("--dry-run", action="store_true", help="clean: remove nothing, say what")
    parser.add_argument(
        "--into",
        type=Path,
        default=Path("data"),
        metavar="FOLDER",
        help="get: where (default: data)",
    )
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: a store is damaged; 2: something to mend."""
    return run(lambda: _data(parse(argv)))


def _data(arguments: argparse.Namespace) -> int:
    if arguments.action not in ACTIONS:
        raise UserError(f"data {arguments.action!r}: wanted one of {', '.join(ACTIONS)}")
    least, most = {"build": (1, math.inf), "get": (0, 1)}.get(arguments.action, (0, 0))
    if not least <= len(arguments.what) <= most:
        raise UserError(
            f"data {arguments.action}: wanted {'a config' if least else 'nothing more'}, got "
            f"{' '.join(arguments.what)!r}"
        )
    return ACTIONS[arguments.action](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from attnzoo.config.experiment import ExperimentConfig
    from attnzoo.config.external import runs_are_trusted
    from attnzoo.config.loader import load
    from attnzoo.tasks import task_class

    path, *overrides = arguments.what
    of_a_run = (Path(path).parent / "checkpoints").is_dir()
    trust = not of_a_run or runs_are_trusted()
    config = load(ExperimentConfig, Path(path), overrides, trust_code=trust)
    with tempfile.TemporaryDirectory() as directory:
        task = task_class(config.task).create(config, Path(directory), resume=False)
    for note in task.notes:
        print(note)
    print(task.introduction())
    return 0


def _show(arguments: argparse.Namespace) -> int:
    stores = _stores(arguments)
    for found in stores:
        print(found.line())
    total = sum(found.size for found in stores)
    count = sum(found.folder.is_dir() for found in stores)
    kinds = f"stores: {count}, other files: {len(stores) - count}"
    print(f"{kinds}, {total / 1e6:,.1f} MB in {_cache(arguments)}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from attnzoo.data.store import Store

    damaged = 0
    for found in _stores(arguments):
        if found.ledger is None and not found.problem:
            continue
        try:
            Store.open(found.folder).verify()
            print(f"{found.folder.name}: ok")
        except UserError as error:
            damaged += 1
            print(f"{found.folder.name}: DAMAGED: {error}")
    return 1 if damaged else 0


def _clean(arguments: argparse.Namespace) -> int:
    freed = 0
    for found in _stores(arguments):
        reason = "all" if arguments.all else found.useless()
        if reason is None:
            continue
        print(f"{found.folder.name}: {reason} ({found.size / 1e6:,.1f} MB)")
        freed += found.size
        if not arguments.dry_run:
            if found.folder.is_dir():
                shutil.rmtree(found.folder)
            else:
                found.folder.unlink()
    if not arguments.dry_run:
        _remove_locks(_cache(arguments))
    print(f"{freed / 1e6:,.1f} MB {'would be ' if arguments.dry_run else ''}freed")
    return 0


def _remove_locks(cache: Path) -> None:
    """Remove the locks of what is no longer in the cache, but those that a process holds."""
    from attnzoo.data.store import only_writer

    def held() -> None:
        raise UserError("it is being made")

    for lock in cache.glob("*.lock"):
        made = lock.with_suffix("")
        if not made.exists():
            with contextlib.suppress(UserError), only_writer(made, held):
                lock.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Found:
    """A store or another file of the cache; `ledger` is None for one that is not finished."""

    folder: Path
    size: int
    ledger: dict[str, Any] | None
    problem: str = ""

    @property
    def is_pictures(self) -> bool:
        """True for encoded pictures and their index (`picture_files`)."""
        return (self.folder / "index.npz").exists()

    def line(self) -> str:
        """Describe it in one line."""
        if self.problem:
            return f"{self.folder.name}: DAMAGED: {self.problem}"
        if self.ledger is None:
            what = "pictures" if self.is_pictures else "unfinished"
            what = f"{what}, " if self.folder.is_dir() else ""
            return f"{self.folder.name}: {what}{self.size / 1e6:,.1f} MB"
        shown = {"packed": "documents", "firsts": "rows"}
        columns = self.ledger["columns"]
        counts = [
            f"{c['count']:,} {shown.get(name, name)}"
            for name, c in columns.items()
            if "ids" in name or name in shown
        ]
        files = ", ".join(
            Path(str(f.get("path") or f.get("url") or f.get("table"))).name
            for f in self._files()[:3]
        )
        line = f"{self.folder.name}: {', '.join(counts)}, {self.size / 1e6:,.1f} MB, of {files}"
        about = self.ledger["about"]
        if "made" in about:
            made = time.strftime("%Y-%m-%d", time.localtime(about["made"]))
            line += f", made {made} in {about.get('seconds', 0):,.0f} s"
        return line

    def useless(self) -> str | None:
        """Return why nothing would open it again, None if something may."""
        if self.problem:
            return "its ledger cannot be read"
        if self.is_pictures or not self.folder.is_dir():
            return None
        if self.ledger is None:
            old = time.time() - self.folder.stat().st_mtime > DAY
            return "unfinished for more than a day" if old else None
        from attnzoo.data.locations import identity

        for file in self._files():
            try:
                if "path" in file and identity(str(file["path"])) != file:
                    return f"{file['path']} has changed"
            except UserError:
                return f"{file['path']} is gone"
        return None

    def _files(self) -> list[dict[str, Any]]:
        return (self.ledger or {}).get("key", {}).get("files", [])


def _cache(arguments: argparse.Namespace) -> Path:
    from attnzoo.config.cache import CacheConfig

    return (arguments.cache or CacheConfig().path).expanduser().resolve()


def _stores(arguments: argparse.Namespace) -> list[_Found]:
    """Return what is in the cache, in the order of names."""
    from attnzoo.data.store import LEDGER, read_ledger

    cache, found = _cache(arguments), []
    for path in sorted(cache.iterdir()) if cache.is_dir() else []:
        if path.name.startswith(FILES) and path.suffix == ".json":
            found.append(_Found(path, path.stat().st_size, None))
        if path.is_dir() and path.name.startswith(STORES):
            ledger, problem = None, ""
            try:
                ledger = read_ledger(path) if (path / LEDGER).exists() else None
            except UserError as error:
                problem = str(error)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(_Found(path, size, ledger, problem))
    return found


def _get(arguments: argparse.Namespace) -> int:
    from attnzoo.data.named import NAMED, OWN, get

    if not arguments.what:
        for name, entry in NAMED.items():
            print(f"{name:<16} {entry.what}; configs {entry.configs}")
            print(f"{'':<16} {entry.source}; licence: {entry.licence}")
        for name, where in OWN.items():
            print(f"{name:<16} not offered as it is; for {where}")
        return 0
    for line in get(arguments.what[0], arguments.into):
        print(line)
    return 0


ACTIONS = {"build": _build, "show": _show, "verify": _verify, "clean": _clean, "get": _get}
