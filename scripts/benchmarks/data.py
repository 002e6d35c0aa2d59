"""`benchmark data`: first and second start on data of real size: CPU, memory, tokens a second.

Makes its data from the corpora under `data/` (Bible verses en-es, Tatoeba en-fr, Multi30k en-de),
with a number word in each sentence so that no two are alike: by default a twentieth of WMT14's size
(4.5 million pairs) and of 2 GB of text, with `--share 1` the whole. A start is what a training does
before its first step: the tokenizer, the token store, the plan and its first batch, in a process of
its own. CPU seconds are those of all processes; memory is the largest anonymous memory (RssAnon) of
one process; "opened" are the CPU seconds of the process itself until its plan is there, without
imports, and "step 10^6" those of its batch at step 1,000,000.
"""

import argparse
import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from child_process import environment

PAIRS = 4_500_000
TEXT_BYTES = 2_000_000_000
# Files of a corpus, and how many of its sentences are put together.
CORPORA = (
    (("data/bible-en-es/train.tsv.gz",), 1),
    (("data/tatoeba-en-fr/train.tsv.gz",), 3),
    (("data/multi30k/raw/train.en.gz", "data/multi30k/raw/train.de.gz"), 1),
)


def add_parser(workloads: Any, positive: Any) -> None:
    """The command line of `benchmark data`."""
    parser = workloads.add_parser(
        "data",
        help="starts on millions of pairs, and on gigabytes of text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--share", type=float, default=0.05, help="of the sizes (default: 0.05)")
    parser.add_argument("--kinds", nargs="+", choices=("pairs", "text"), default=["pairs", "text"])
    parser.add_argument("--workers", type=int, help="that tokenize (default: one for each core)")
    parser.add_argument("--folder", type=Path, help="keep data and stores here, and use them again")


def measure(arguments: argparse.Namespace) -> int:
    """Make the data, start twice on each kind, and print a line of each start."""
    head = f"{'':<16}{'CPU s':>8}{'opened':>8}{'s':>8}{'GB a process':>14}{'tokens':>14}"
    print(f"{head}{'ms a batch':>12}{'step 10^6':>11}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = arguments.folder or Path(temporary)
        for kind in arguments.kinds:
            data = folder / f"{kind}-{arguments.share:g}"
            if not data.exists():
                data.mkdir(parents=True)
                {"pairs": _make_pairs, "text": _make_text}[kind](data, arguments.share)
            for start in ("first", "second"):
                told = _start(kind, data, Path(temporary) / "cache", arguments.workers)
                print(
                    f"{kind + ' ' + start:<16}{told['cpu']:>8.1f}{told['opened']:>8.2f}"
                    f"{told['seconds']:>8.1f}{told['memory'] / 1e9:>14.2f}{told['tokens']:>14,}"
                    f"{told['batch_ms']:>12.2f}{told['far']:>11.2f}",
                    flush=True,
                )
    return 0


def _start(kind: str, data: Path, cache: Path, workers: int | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.data", kind, str(data), str(cache)]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, json.dumps(workers)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    largest, stop = [0], threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, largest, stop))
    watcher.start()
    assert process.stdout is not None
    told = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    stop.set()
    watcher.join()
    return {
        **json.loads(told),
        # Of the process and of its children, which it has waited for.
        "cpu": usage.ru_utime + usage.ru_stime,
        "seconds": time.monotonic() - began,
        "memory": largest[0],
    }


def _watch(parent: int, largest: list[int], stop: threading.Event) -> None:
    while not stop.wait(0.05):
        tree = [parent]
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            tree += map(int, task.read_text().split())
        for pid in tree:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            anonymous = next((x for x in status.splitlines() if x.startswith("RssAnon")), "x 0")
            largest[0] = max(largest[0], 1024 * int(anonymous.split()[1]))


def _sentences() -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for paths, together in CORPORA:
        columns = [gzip.decompress(Path(path).read_bytes()).decode().split("\n") for path in paths]
        rows = (line.split("\t") for line in columns[0]) if len(columns) == 1 else zip(*columns)
        kept = [(row[0], row[1]) for row in rows if len(row) > 1 and row[0] and row[1]]
        groups = zip(*(kept[i::together] for i in range(together)))
        pairs += [tuple(" ".join(side) for side in zip(*group, strict=True)) for group in groups]
    return pairs


def _drawn(seed: int) -> Iterator[tuple[str, str]]:
    pairs, draw = _sentences(), random.Random(seed)
    while True:
        source, target = draw.choice(pairs)
        number = draw.randrange(1_100_000)
        yield f"{source} {number}", f"{target} {number}"


def _make_pairs(folder: Path, share: float) -> None:
    with (folder / "train.en").open("w") as sources, (folder / "train.xx").open("w") as targets:
        for source, target in itertools.islice(_drawn(0), int(PAIRS * share)):
            sources.write(source + "\n")
            targets.write(target + "\n")
    for side in ("en", "xx"):
        with (folder / f"train.{side}").open() as lines:
            (folder / f"valid.{side}").write_text("".join(itertools.islice(lines, 1000)))


def _make_text(folder: Path, share: float) -> None:
    draw, written = random.Random(1), 0
    sentences = (source for source, _ in _drawn(1))
    with (folder / "train.txt").open("w") as file:
        while written < TEXT_BYTES * share:
            written += file.write(" ".join(itertools.islice(sentences, draw.randint(1, 60))) + "\n")


def _tell(kind: str, data: Path, cache: Path, workers: int | None) -> dict[str, Any]:
    """What a training does with its data before step one."""
    from attnzoo.config.cache import CacheConfig

    settings = CacheConfig(path=cache, workers=workers, memory=0)
    began = time.process_time()
    plan, tokens = {"pairs": _plan_pairs, "text": _plan_text}[kind](data, settings)
    opened = time.process_time() - began
    plan.batch(0)
    began = time.process_time()
    for step in range(1, 101):
        plan.batch(step)
    batch = (time.process_time() - began) / 100
    began = time.process_time()
    plan.batch(1_000_000)
    far = time.process_time() - began
    assert "jax" not in sys.modules
    return {"tokens": tokens, "batch_ms": 1e3 * batch, "opened": opened, "far": far}


def _plan_pairs(data: Path, settings: Any) -> tuple[Any, int]:
    from attnzoo.config.data import BpeTokenizerConfig, FilePartConfig, FilesConfig
    from attnzoo.data.batching import BatchPlan
    from attnzoo.data.parallel import PairData

    train, valid = (
        FilePartConfig(source=data / f"{name}.en", target=data / f"{name}.xx")
        for name in ("train", "valid")
    )
    pairs = PairData(FilesConfig(train=train, validation=valid), settings)
    both = pairs.tokenizers(BpeTokenizerConfig(vocab_size=32_000))
    tokens, _ = pairs.tokens("train", *both, 100)
    pairs.tokens("validation", *both, 200)
    return BatchPlan(tokens, 128), len(tokens.source_ids) + len(tokens.target_ids)


def _plan_text(data: Path, settings: Any) -> tuple[Any, int]:
    from attnzoo.config.data import ByteBpeTokenizerConfig, TextConfig
    from attnzoo.data.text import StreamPlan
    from attnzoo.data.text_data import TextData

    config = TextConfig(train=(data / "train.txt",), documents="lines")
    text = TextData(config, settings)
    tokenizer = text.tokenizer(ByteBpeTokenizerConfig(vocab_size=32_000))
    train = text.tokens("train", tokenizer, tokenizer.special("eos"))
    return StreamPlan(train.stream(tokenizer.special("eos")), 32, 1024), len(train.ids)


if __name__ == "__main__":
    kind, data, cache, workers = sys.argv[1:]
    print(json.dumps(_tell(kind, Path(data), Path(cache), json.loads(workers))))
