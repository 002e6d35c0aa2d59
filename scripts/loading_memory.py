"""`loading_memory.py`: peak host memory while a sharded Llama is read onto a mesh of CPU devices.

A random model of about --gigabytes is written in --shards files and loaded by another process, each
parameter split over the devices. Devices are this CPU's, so the parameters themselves are in host
memory too: their bytes are subtracted from the peak of anonymous memory. Pages of the files, which
the system maps and may drop at any time, are counted apart.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="loading_memory.py", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of float32 (default: 1)")
    parser.add_argument("--shards", type=int, default=5, help="files of weights (default: 5)")
    parser.add_argument("--devices", type=int, default=4, help="of the mesh (default: 4)")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def write(folder: Path, gigabytes: float, shards: int) -> None:
    """Write a random Llama, tensor by tensor."""
    import numpy as np
    from flax import nnx

    from attnzoo.config.llama import LlamaConfig
    from attnzoo.models import Llama
    from attnzoo.pretrained import FAMILIES, convert, files

    vocab, layers = 32_000, 12
    dim = max(int((gigabytes * 2**30 / 4 / (12 * layers)) ** 0.5) // 128 * 128, 128)
    config = dataclasses.replace(LlamaConfig.tiny(), dim=dim, layers=layers, hidden=3 * dim)
    abstract = nnx.eval_shape(lambda: Llama(config, vocab, rngs=nnx.Rngs(0)))
    family = FAMILIES["llama"]
    table, leaves = family.table(config, (vocab,)), convert.parameters(abstract)
    parts = [part for parts in convert._plan(table, leaves) for part in parts]
    shapes = {part.theirs: part.form.shape(part.shapes(leaves)) for part in parts}
    sizes = [(name, 4 * int(np.prod(shape))) for name, shape in shapes.items()]
    random = np.random.default_rng(0)
    tensors = ((name, random.random(shapes[name], np.float32)) for name in shapes)
    most = sum(size for _, size in sizes) // shards + 1
    files.write_tensors(folder, sizes, tensors, max_file_bytes=most)
    files.write_json(folder / "config.json", family.write(config, (vocab,)))


class Memory:
    """Peaks of this process's anonymous memory and of mapped files, in bytes."""

    def __init__(self) -> None:
        self.anonymous = self.mapped = 0
        self.first = self._now()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopped.set()
        self._thread.join()

    def _now(self) -> tuple[int, int]:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        found = dict(re.findall(r"Rss(Anon|File):\s+(\d+) kB", status))
        return int(found["Anon"]) * 1024, int(found["File"]) * 1024

    def _watch(self) -> None:
        while not self._stopped.wait(0.002):
            anonymous, mapped = self._now()
            self.anonymous = max(self.anonymous, anonymous - self.first[0])
            self.mapped = max(self.mapped, mapped - self.first[1])


def load(folder: Path) -> dict[str, Any]:
    """Load a folder onto all devices of this process, and return what was seen."""
    import jax
    import numpy as np

    from attnzoo import pretrained
    from attnzoo.pretrained import convert

    count = len(jax.devices())
    mesh = jax.make_mesh((count,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    def sharding(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        axis = next((i for i, size in enumerate(shape) if size % count == 0), None)
        names = [None] * len(shape) if axis is None else [*[None] * axis, "fsdp"]
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names))

    jax.device_put(np.zeros(count), jax.devices()[0]).block_until_ready()
    memory, start = Memory(), time.perf_counter()
    model = pretrained.load(folder, sharding=sharding)
    leaves = convert.parameters(model).values()
    jax.block_until_ready(list(leaves))
    seconds = time.perf_counter() - start
    memory.stop()
    whole = sum(leaf.nbytes for leaf in leaves)
    shards = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return {
        "model": whole,
        "on each device": sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves),
        "largest shard": max(shards),
        "shards": len(shards),
        "largest tensor": max(leaf.nbytes for leaf in leaves),
        "peak beside the model": max(memory.anonymous - whole, 0),
        "mapped pages of files": memory.mapped,
        "seconds": round(seconds, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was seen; exit code 1: more memory than a shard and a tensor."""
    arguments = parse(argv)
    if arguments.load is not None:
        print(json.dumps(load(arguments.load)))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory), arguments.gigabytes, arguments.shards)
        flags = f"--xla_force_host_platform_device_count={arguments.devices}"
        told = subprocess.run(
            [sys.executable, __file__, "--load", directory],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    seen = json.loads(told.splitlines()[-1])
    for name, value in seen.items():
        print(f"{name:<24} {value if value < 10_000 else f'{value / 1e6:,.1f} MB'}")
    bound = 1.2 * (seen["largest shard"] + seen["largest tensor"])
    print(f"{'1.2 (shard + tensor)':<24} {bound / 1e6:,.1f} MB")
    return int(seen["peak beside the model"] > bound)


if __name__ == "__main__":
    raise SystemExit(main())
