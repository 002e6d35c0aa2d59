"""Starting is quick: help without jax, and a compilation cache that holds small programs too."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIG = """
name: tiny
data: {kind: synthetic, task: copy, symbols: 5, max_length: 4, train: 40, validation: 8, test: 8}
tokenizer: word
model: {kind: bahdanau, attention: additive, hidden: 6, embedding: 5, maxout: 3}
training: {steps: 50, batch_size: 4, buckets: [5], tensorboard: false}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("command", ["train", "export", "convert"])
def test_help_comes_at_once_and_without_jax(command: str) -> None:
    program = (
        "import sys\nfrom attnzoo.cli import main\ntry:\n    main([sys.argv[1], '--help'])\n"
        "finally:\n    heavy = ('jax', 'flax', 'numpy', 'orbax', 'matplotlib', 'tensorstore')\n"
        "    print([x for x in heavy if x in sys.modules], file=sys.stderr)"
    )
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", program, command], capture_output=True, text=True, timeout=60
    )
    # 0.2 s on a machine that does nothing else.
    assert time.monotonic() - began < 10
    assert ran.returncode == 0, ran.stderr
    assert "usage" in ran.stdout
    if command == "train":
        assert ran.stderr == "[]\n"
    else:
        assert "'jax'" not in ran.stderr


def test_the_second_start_compiles_nothing(config: Path, tmp_path: Path) -> None:
    """Every program of a training is found in the cache that the first one filled."""
    program = (
        "import sys, jax\nfrom attnzoo.cli import main\n"
        "counts = {}\n"
        "def count(name, **more):\n    counts[name] = counts.get(name, 0) + 1\n"
        "jax.monitoring.register_event_listener(count)\n"
        "main(['train', *sys.argv[1:], 'training.steps=2'])\n"
        "for name in ('hits', 'misses'):\n"
        "    print(counts.get(f'/jax/compilation_cache/cache_{name}', 0))"
    )
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    # What the tests are run with, not what users have.
    del environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]
    seen = []
    for name in ("first", "second"):
        command = [sys.executable, "-c", program, str(config), "--run-dir", str(tmp_path / name)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        assert ran.returncode == 0, ran.stderr
        seen.append(tuple(map(int, ran.stdout.split())))
    (_, compiled), (read, again) = seen
    assert compiled > 2
    assert (read >= compiled, again) == (True, 0)


ROOT = Path(__file__).resolve().parents[2]
