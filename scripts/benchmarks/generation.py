"""`benchmark generation`: greedy text from GPT-2 beside transformers' ``generate``.

Both have the same weights and must write the same tokens before anything is timed. Each lives in
its own process on one core; they take turns call by call. What is reported is new tokens per CPU
second, medians over rounds, the reading of the prompt included and compilation excluded.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attnzoo.errors import UserError
from benchmarks.attention import Worker

WARM_UP = 1
Generate = Callable[[int], list[list[int]]]


def add_parser(workloads: Any, positive: Callable[[str], int]) -> None:
    """The command line."""
    parser = workloads.add_parser(
        "generation",
        help="greedy text from GPT-2 against transformers",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--layers", type=positive, default=6)
    parser.add_argument("--width", type=positive, default=384)
    parser.add_argument("--heads", type=positive, default=6)
    parser.add_argument("--vocabulary", type=positive, default=8192)
    parser.add_argument("--prompt", type=positive, default=16, help="tokens that are given")
    parser.add_argument("--tokens", type=positive, default=112, help="tokens that are generated")
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 8], help="rows at once")
    parser.add_argument("--rounds", type=positive, default=7, help="timed calls of each peer")


def measure(arguments: argparse.Namespace, cores: list[int], allocator: Mapping[str, str]) -> int:
    """Compare, time in turns, print the table."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "settings.json").write_text(json.dumps({**vars(arguments), "cores": cores}))
        workers: list[Worker] = []
        peers = ["ours", *(["theirs"] if importlib.util.find_spec("transformers") else [])]
        try:
            # Ours writes the weights that theirs reads.
            for name in peers:
                worker = Worker(name, directory, allocator, module=__name__)
                workers.append(worker)
            print(
                f"GPT-2 of {arguments.layers} layers, width {arguments.width}, vocabulary "
                f"{arguments.vocabulary}, float32; {arguments.prompt} + {arguments.tokens} tokens, "
                f"one core, {arguments.rounds} rounds\n"
            )
            print(f"{'batch':>5}  {'':<36}{'tokens/CPU s':>13}{'lowest':>9}{'highest':>9}")
            for batch in arguments.batches:
                _rows(batch, workers, arguments)
        finally:
            for worker in workers:
                worker.close()
    if len(peers) == 1:
        print("\ntransformers is not installed, so ours ran alone: pip install 'attnzoo[hf]'")
    return 0


def _rows(batch: int, workers: list[Worker], arguments: argparse.Namespace) -> None:
    written = [worker.ask(f"tokens {batch}") for worker in workers]
    if len(written) > 1 and written[0] != written[1]:
        pairs = zip(*map(itertools.chain.from_iterable, written))
        same = sum(one == other for one, other in pairs)
        raise UserError(
            f"the peers disagree: {same} of {batch * arguments.tokens} tokens are the same; their "
            "times say nothing"
        )
    seconds: list[list[float]] = [[] for _ in workers]
    for count in range(WARM_UP + arguments.rounds):
        for worker, times in zip(workers, seconds, strict=True):
            spent = worker.ask(f"time {batch}")
            if count >= WARM_UP:
                times.append(spent)
    total = batch * arguments.tokens
    for worker, times in zip(workers, seconds, strict=True):
        rates = [total / one for one in times]
        print(
            f"{batch:>5}  {worker.label:<36}{total / statistics.median(times):>13.0f}"
            f"{min(rates):>9.0f}{max(rates):>9.0f}"
        )
    if len(seconds) > 1:
        ratio = statistics.median(seconds[1]) / statistics.median(seconds[0])
        print(f"{batch:>5}  ratio ours / transformers: {ratio:.2f} (above 1: ours is faster)")


def ours(settings: Mapping[str, Any], directory: Path) -> tuple[str, Generate]:
    """Our compiled loop; it also writes the weights for the other."""
    import jax
    import numpy as np
    from flax import nnx

    from attnzoo import pretrained
    from attnzoo.config import gpt2
    from attnzoo.config.attention import MultiHeadConfig
    from attnzoo.decoding.generate import generate
    from attnzoo.models.gpt2 import GPT2

    config = gpt2.GPT2Config(
        attention=MultiHeadConfig(num_heads=settings["heads"]),
        dim=settings["width"],
        layers=settings["layers"],
        max_length=settings["prompt"] + settings["tokens"],
        dropout=0.0,
        attention_dropout=0.0,
    )
    model = GPT2(config, settings["vocabulary"], rngs=nnx.Rngs(0))
    # Freshly drawn, a tied model repeats its last token; such weights write something.
    random = np.random.default_rng(0)

    def grown(x: Any) -> Any:
        return 4 * x if x.ndim == 2 else x + 0.1 * random.standard_normal(x.shape, np.float32)

    nnx.update(model, jax.tree.map(grown, nnx.state(model, nnx.Param)))
    pretrained.save(model, directory / "gpt2")

    def run(batch: int) -> list[list[int]]:
        found = generate(model, _prompts(settings, batch), max_new_tokens=settings["tokens"])
        return found.tokens[:, 0].tolist()

    return f"attnzoo on jax {jax.__version__}", run


def theirs(settings: Mapping[str, Any], directory: Path) -> tuple[str, Generate]:
    """``generate`` of transformers with its cache, as it comes."""
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.GPT2LMHeadModel.from_pretrained(directory / "gpt2").eval()
    tokens = settings["tokens"]
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}

    def run(batch: int) -> list[list[int]]:
        ids = torch.from_numpy(_prompts(settings, batch)).long()
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), eos_token_id=None, **options
            )
        return out[:, ids.shape[1] :].tolist()

    label = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"
    return label.removesuffix("+cpu"), run


def _prompts(settings: Mapping[str, Any], batch: int) -> Any:
    import numpy as np

    shape = batch, settings["prompt"]
    return np.random.default_rng(1).integers(0, settings["vocabulary"], shape).astype(np.int32)


def work(peer: str, directory: Path) -> None:
    """Answer the parent line by line until it closes stdin."""
    settings = json.loads((directory / "settings.json").read_text())
    if settings["cores"] and hasattr(os, "sched_setaffinity"):  # before jax and torch count them
        os.sched_setaffinity(0, settings["cores"])
    label, generate = {"ours": ours, "theirs": theirs}[peer](settings, directory)
    print(json.dumps(label), flush=True)
    for line in sys.stdin:
        command, batch = line.split()
        start = time.process_time()
        tokens = generate(int(batch))
        spent = time.process_time() - start
        print(json.dumps(tokens if command == "tokens" else spent), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
