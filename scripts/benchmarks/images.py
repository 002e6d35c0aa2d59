"""`benchmark images`: starting from pictures in folders, tar and parquet files, and decoding them.

JPEG files of 256 x 256 pixels are made: a folder, a tar, and a parquet file for every 10,000. For
each kind a new process reads them as a training does, twice: the first start may list and copy, the
second finds that in the cache. Printed are CPU seconds until the first batch could be made (without
imports), the share of listing and copying in them, the anonymous memory of the process at its end,
and pictures decoded in a CPU second.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from child_process import environment

DISTINCT = 5000
SIDE = 256
SHARD = 10_000
CLASSES = 100


def add_parser(workloads: Any, positive: Any) -> None:
    """The command line of `benchmark images`."""
    parser = workloads.add_parser(
        "images",
        help="first and second start from encoded pictures, and decoding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--count", type=positive, default=DISTINCT, help="pictures (default: 5000, all different)"
    )
    parser.add_argument(
        "--batches", type=positive, default=16, help="of 128 pictures (default: 16)"
    )
    parser.add_argument(
        "--home", type=Path, help="directory for the files, on a disk (default: a temporary one)"
    )


def measure(arguments: argparse.Namespace) -> int:
    """Print one line for each start of each kind."""
    with tempfile.TemporaryDirectory(dir=arguments.home) as home:
        began = time.process_time()
        pictures = _pictures(min(arguments.count, DISTINCT))
        size = np.mean([len(data) for data in pictures])
        print(
            f"{arguments.count:,} JPEG of {SIDE} px, {size / 1e3:.0f} kB each, made in "
            f"{time.process_time() - began:.0f} CPU s"
        )
        print(f"{'':<10}{'':<8}{'start CPU s':>12}{'listing':>12}{'MB':>6}{'pictures / s':>14}")
        for kind, write in KINDS.items():
            write(Path(home), arguments.count, pictures)
            for start in ("first", "second"):
                found = _in_a_process(kind, Path(home), arguments.batches)
                print(
                    f"{kind:<10}{start:<8}{found['start']:>12.2f}{found['files']:>12.2f}"
                    f"{found['megabytes']:>6.0f}{found['rate']:>14,.0f}",
                    flush=True,
                )
    return 0


def _pictures(count: int) -> list[bytes]:
    """Return JPEG files with the detail of photographs: smooth colours and some noise."""
    from PIL import Image

    random = np.random.default_rng(0)
    scenes = []
    for _ in range(16):
        smooth = Image.fromarray(random.integers(0, 256, (12, 12, 3)).astype(np.uint8))
        noise = Image.fromarray(random.integers(0, 256, (512, 512, 3)).astype(np.uint8))
        scenes.append(Image.blend(smooth.resize((512, 512)), noise, 0.15))
    files = []
    for number in range(count):
        left, top = random.integers(0, SIDE, 2).tolist()
        buffer = io.BytesIO()
        scene = scenes[number % len(scenes)].crop((left, top, left + SIDE, top + SIDE))
        scene.save(buffer, "JPEG", quality=85)
        files.append(buffer.getvalue())
    return files


def _named(count: int, pictures: list[bytes]) -> Iterator[tuple[str, str, bytes]]:
    for number in range(count):
        label = f"c{number % CLASSES:03}"
        yield label, f"{number:07}.jpg", pictures[number % len(pictures)]


def _folder(home: Path, count: int, pictures: list[bytes]) -> None:
    for label, name, data in _named(count, pictures):
        (home / "folder" / label).mkdir(parents=True, exist_ok=True)
        (home / "folder" / label / name).write_bytes(data)


def _tar(home: Path, count: int, pictures: list[bytes]) -> None:
    with tarfile.open(home / "all.tar", "w") as archive:
        for label, name, data in _named(count, pictures):
            info = tarfile.TarInfo(f"{label}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _parquet(home: Path, count: int, pictures: list[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = list(_named(count, pictures))
    for start in range(0, count, SHARD):
        some = named[start : start + SHARD]
        columns = {
            "image": [{"bytes": data, "path": name} for _, name, data in some],
            "label": [label for label, *_ in some],
        }
        path = home / f"{start // SHARD:05}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=100)


KINDS: dict[str, Callable[[Path, int, list[bytes]], None]] = {
    "folder": _folder,
    "tar": _tar,
    "parquet": _parquet,
}


def _in_a_process(kind: str, home: Path, batches: int) -> dict[str, float]:
    program = "import sys; from benchmarks.images import child; child(*sys.argv[1:])"
    ran = subprocess.run(
        [sys.executable, "-c", program, kind, str(home), str(batches)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


def child(kind: str, home: str, batches: str) -> None:
    """Read the files of a kind as a training does, and print the measurements as JSON."""
    from attnzoo.config.images import ImageFolderConfig, ImagesConfig, ShardsConfig
    from attnzoo.data.images import ImagePlan, channel_statistics, load_images

    sources = {
        "folder": ImageFolderConfig(path=Path(home, "folder")),
        "tar": ImageFolderConfig(path=Path(home, "all.tar")),
        "parquet": ShardsConfig(train=(Path(home, "*.parquet"),)),
    }
    config = ImagesConfig(source=sources[kind])
    began = time.process_time()
    splits = load_images(config, Path(home, "cache"))
    files = time.process_time() - began
    plan = ImagePlan(splits.train, 128)
    splits.fingerprint()
    channel_statistics(splits.train.images)
    start = time.process_time() - began
    began = time.process_time()
    for step in range(int(batches)):
        plan.batch(step)
    seconds = time.process_time() - began
    status = Path("/proc/self/status")
    memory = status.read_text().split("RssAnon:")[1].split()[0] if status.exists() else "nan"
    found = {
        "start": start,
        "files": files,
        "megabytes": float(memory) / 1024,
        "rate": 128 * int(batches) / seconds,
    }
    print(json.dumps(found))
