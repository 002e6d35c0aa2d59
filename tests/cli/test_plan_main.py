"""The plan program: tables, JSON, exit statuses, and one line for what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attnzoo.cli.plan import main

CONFIG = """name: planned
task: {kind: causal_lm, context: 32}
data: {kind: text, train: [not-there.txt], validation_share: 0.1}
tokenizer: {kind: byte_bpe, vocab_size: 512}
model:
  kind: gpt2
  attention: {kind: multi_head, num_heads: 2}
  dim: 16
  layers: 1
  max_length: 32
training: {steps: 3, batch_size: 16, optimizer: adamw}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "planned.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_a_plan_needs_neither_data_nor_device(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [config, "--mesh", "data=4,fsdp=2", "--device", "h200", "--no-compile"]
    assert main(asked) == 0
    table = capsys.readouterr().out
    assert "8 x NVIDIA H200 SXM: data 4 x fsdp 2\nby formulas alone: not asked for" in table
    assert "vocabulary of 512, as tokenizer.vocab_size says" in table
    assert main([*asked, "--json", "model.layers=2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["data"] is None  # its file is not here
    D = 16
    assert plan["parameters"] == (512 + 32) * D + 2 * (12 * D * D + 13 * D) + 2 * D
    assert plan["mesh"] == {"data": 4, "fsdp": 2, "sequence": 1, "tensor": 1}
    assert {message["kind"] for message in plan["messages"]} == {
        "all-gather",
        "reduce-scatter",
        "all-reduce",
    }


def test_no_is_one_line_and_status_1(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    wide = ["model.dim=16384", "model.layers=2", "model.scan=true", "model.remat=full"]
    assert main([config, *wide, "--device", "v5e", "--mesh", "data=4", "--no-compile"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("no: planned does not fit: ")
    assert "on each of 4 TPU v5e, which has 14.7 GB to fill of 16 GB" in said.err
    assert "\nwould fit: mesh." in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "v9"], "--device v9: unknown; wanted one of cpu, v5e, v6e, h100, h200"),
        (["--mesh", "dta=4"], "--mesh 'dta=4': wanted data=N, fsdp=N, sequence=N or tensor=N"),
        (["--mesh", "data=4", "--devices", "8"], "--devices 8: the mesh has 4; leave out one"),
        (["--mesh", "fsdp=4", "--devices", "6"], "wants a multiple of 4"),
        (["--mesh", "data=x"], "mesh.data: "),
        (["--mesh", "tensor=4"], "mesh.tensor=4 does not divide the 2 key/value heads"),
        (["--mesh", "data=3"], "training.batch_size=16 is not a multiple of 3"),
        (["--efficiency", "2"], "--efficiency 2.0: wanted more than 0, at most 1"),
        (["model.dim=15"], "model: "),
        (["model.layrs=2"], "layrs"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], said: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    device = [] if "--device" in arguments else ["--device", "h100"]
    assert main([config, "--no-compile", *device, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_help_does_not_load_jax(root: Path) -> None:
    program = (
        "import sys\nfrom attnzoo.cli.plan import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('jax', 'flax', 'numpy') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert "--mesh" in ran.stdout
    assert ran.stdout.endswith("[]\n")
