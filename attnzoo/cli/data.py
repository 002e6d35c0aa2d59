"""`data build|show|verify|clean|get`: data sets and their token stores."""

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import add_trust, run
from attnzoo.errors import UserError

DAY = 86_400


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="data", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="do what a training does with its data before step 1")
    build.add_argument("config", type=Path, help="a YAML file, see configs/")
    build.add_argument("overrides", nargs="*", metavar="key=value", help="as for train")
    add_trust(build)
    helps = {
        "show": "list the token stores: what they hold, of which files, and how large they are",
        "verify": "read every token store and compare its digests; exit status 1: one is damaged",
        "clean": "remove stores of files that have changed or are gone, and builds left unfinished",
    }
    for name, text in helps.items():
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "--cache", type=Path, metavar="FOLDER", help="(default: cache.path of a config)"
        )
        if name == "clean":
            action.add_argument("--all", action="store_true", help="remove every store")
            action.add_argument("--dry-run", action="store_true", help="remove nothing, say what")
    get = actions.add_parser("get", help="data sets by name: where they are, or how to get them")
    get.add_argument("name", nargs="?", help="(default: a list of all)")
    get.add_argument("--into", type=Path, default=Path("data"), help="folder (default: data)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: a store is damaged; 2: something to mend."""
    arguments = parse(argv)
    return run(lambda: ACTIONS[arguments.action](arguments))


def _build(arguments: argparse.Namespace) -> int:
    from attnzoo.config.experiment import ExperimentConfig
    from attnzoo.config.external import runs_are_trusted
    from attnzoo.config.loader import load
    from attnzoo.tasks import task_class

    of_a_run = (arguments.config.parent / "checkpoints").is_dir()
    trust = not of_a_run or runs_are_trusted()
    config = load(ExperimentConfig, arguments.config, arguments.overrides, trust_code=trust)
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
    print(f"{len(stores)} stores, {total / 1e6:,.1f} MB in {_cache(arguments)}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from attnzoo.data.store import Store

    damaged = 0
    for found in _stores(arguments):
        if found.ledger is None:
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
            found.folder.with_name(f"{found.folder.name}.lock").unlink(missing_ok=True)
    print(f"{freed / 1e6:,.1f} MB {'would be ' if arguments.dry_run else ''}freed")
    return 0


@dataclasses.dataclass(frozen=True)
class _Found:
    """A store or a tokenizer of the cache; `ledger` is None for one that is not finished."""

    folder: Path
    size: int
    ledger: dict[str, Any] | None

    @property
    def is_pictures(self) -> bool:
        """True for encoded pictures and their index (`picture_files`)."""
        return (self.folder / "index.npz").exists()

    def line(self) -> str:
        """Describe it in one line."""
        if self.ledger is None:
            what = "pictures" if self.is_pictures else "unfinished"
            return f"{self.folder.name}: {what}, {self.size / 1e6:,.1f} MB"
        columns = self.ledger["columns"]
        counts = [f"{c['count']:,} {name}" for name, c in columns.items() if "ids" in name]
        files = ", ".join(Path(str(f.get("path") or f["url"])).name for f in self._files()[:3])
        made = time.strftime("%Y-%m-%d", time.localtime(self.ledger["about"]["made"]))
        return (
            f"{self.folder.name}: {', '.join(counts)}, {self.size / 1e6:,.1f} MB, of {files}, "
            f"made {made} in {self.ledger['about']['seconds']:,.0f} s"
        )

    def useless(self) -> str | None:
        """Return why nothing would open it again, None if something may."""
        if self.is_pictures:
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
        if path.is_dir() and path.name.startswith(("pairs-", "text-", "images-")):
            ledger = read_ledger(path) if (path / LEDGER).exists() else None
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(_Found(path, size, ledger))
    return found


def _get(arguments: argparse.Namespace) -> int:
    from attnzoo.data.named import NAMED, OWN, get

    if arguments.name is None:
        for name, entry in NAMED.items():
            print(f"{name:<16} {entry.what}; configs {entry.configs}")
            print(f"{'':<16} {entry.source}; licence: {entry.licence}")
        for name, where in OWN.items():
            print(f"{name:<16} not offered as it is; for {where}")
        return 0
    for line in get(arguments.name, arguments.into):
        print(line)
    return 0


ACTIONS = {"build": _build, "show": _show, "verify": _verify, "clean": _clean, "get": _get}
