"""The benchmark's help, and that peers which compute different things are not timed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.main import _difference, _write_batch, parse
from child_process import environment


def test_help_loads_neither_jax_nor_torch(root: Path) -> None:
    program = (
        "import sys\nfrom benchmarks.main import main\n"
        "try: main(['seq2seq', '--help'])\n"
        "except SystemExit as end:\n"
        "    print(end.code, [x for x in ('jax', 'torch') if x in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert "--vocabulary" in ran.stdout, ran.stderr
    assert ran.stdout.endswith("0 []\n")


@pytest.mark.parametrize("text", ["0", "-3", "many"])
def test_sizes_are_positive(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["seq2seq", "--rounds", text])
    assert "--rounds" in capsys.readouterr().err


def test_the_largest_difference_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(first, loss=np.float32(2), kernel=np.array([3.0, 4.0]))
    np.savez(second, loss=np.float32(2), kernel=np.array([3.0, 4.5]))
    difference, where = _difference(second, first)
    assert where == "kernel"
    assert difference == pytest.approx(0.1)
    np.savez(second, loss=np.float32(2), kernel=np.array([np.nan, 4.0]))
    assert _difference(second, first) == (float("inf"), "kernel")
    np.savez(second, loss=np.float32(2))
    assert _difference(second, first)[0] == float("inf")


def test_a_batch_is_padded_behind_its_sentences(tmp_path: Path) -> None:
    _write_batch(tmp_path / "batch.npz", parse(["seq2seq", "--batch", "7", "--length", "11"]))
    with np.load(tmp_path / "batch.npz") as batch:
        source, target = batch["source"], batch["target"]
    assert (source.shape, target.shape) == ((7, 11), (7, 12))
    assert np.all(source[0] > 0)
    assert np.any(source == 0)
    assert np.all(source[:, :8] > 0)
    assert np.all((source > 0)[:, 1:] <= (source > 0)[:, :-1])
