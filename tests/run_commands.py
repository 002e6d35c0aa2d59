"""Every command on a finished run, before and after its data changed: the run's files stay."""

import shutil
from pathlib import Path

import pytest

from attnzoo import cli
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.errors import UserError
from attnzoo.tasks import task_class
from attnzoo.training.loop import train
from attnzoo.training.manifest import MANIFEST

COMMANDS: dict[str, list[str]] = {
    "translate": ["RUN", "FILE"],
    "evaluate": ["RUN", "--split", "validation", "--limit", "2"],
    "align": ["RUN", "--split", "validation", "--limit", "2"],
    "explain": ["RUN", "the cat", "--methods", "none"],
    "generate": ["RUN", "--prompt", "the", "--max-new-tokens", "2"],
    "predict": ["RUN", "FILE"],
    "recommend": ["RUN", "FILE"],
    "convert": ["RUN", "OUT/converted"],
    "export": ["RUN", "--out", "OUT/exported", "--platforms", "none"],
    "verify": ["RUN"],
    "train": ["RUN", "--resume", "training.seed=5"],
}
"""Arguments for each command that a run is given to; long computations are refused, but late."""

WITHOUT_RUN = {"plan", "data"}


def own_files(run: Path) -> dict[str, bytes]:
    """Return the files of a run but the lock and what commands write: scores, figures."""
    written = ("run.lock", "*.scores.json", "*.hypotheses.txt", "explain/*", "figures/*")
    files = {path.relative_to(run): path for path in sorted(run.rglob("*")) if path.is_file()}
    return {
        str(inner): path.read_bytes()
        for inner, path in files.items()
        if not any(inner.match(pattern) for pattern in written)
    }


def commands_leave(run: Path, out: Path, *commands: str) -> dict[str, int]:
    """Give a run to commands (none: to all), which must leave its own files as they were.

    Returns their exit codes.
    """
    assert set(COMMANDS) | WITHOUT_RUN == set(cli.COMMANDS)
    before = own_files(run)
    config = load(ExperimentConfig, run / "config.yaml")
    names = {file.name for file in task_class(config.task).run_files(config).values()}
    assert {MANIFEST, "config.yaml"} | names <= set(before)
    (out / "lines").write_text("a cat\n")
    places = {"RUN": str(run), "OUT": str(out), "FILE": str(out / "lines")}
    codes = {}
    for written in ("converted", "exported"):
        shutil.rmtree(out / written, ignore_errors=True)
    for command in commands or COMMANDS:
        arguments = []
        for argument in COMMANDS[command]:
            first, slash, rest = argument.partition("/")
            arguments.append(places.get(first, first) + slash + rest)
        codes[command] = cli.main([command, *arguments])
        assert codes[command] in (0, 2), command
        assert own_files(run) == before, command
    return codes


def edited_data_is_named(run: Path, data: Path, out: Path) -> None:
    """Change all data files: no command follows them, and a resume names the file."""
    before = own_files(run)
    with (data / "text").open("a") as text:
        text.write("zebras quietly jump .\n" * 5)
    with (data / "tsv").open("a") as tsv:
        tsv.write("a bear sat\tanother\n" * 5)
    with (data / "pairs").open("a") as pairs:
        pairs.write("a bear\tbear a\t0-1 1-0\n" * 5)
    with (data / "conll").open("a") as conll:
        conll.write("\n" + "bears ANOTHER\n\n" * 5)
    with (data / "interactions").open("a") as interactions:
        interactions.write("".join(f"u{i}\tanother\t99\n" for i in range(7)))
    shutil.copy(data / "spoken" / "low_ann_1.wav", data / "spoken" / "low_ann_0.wav")
    for squad in (data / "squad.json", data / "babi"):
        squad.write_text(squad.read_text().replace("mat", "sofa"))
    with (data / "captions.csv").open("a") as captions:
        captions.write("a.png,zebras quietly jump\n" * 5)
    boxes = (data / "boxes.json").read_text().replace('"patch"', '"another"')
    (data / "boxes.json").write_text(boxes)
    images = data / "images" / "train"
    shutil.copytree(images / "dark", images / "another")
    # A class that the run does not know is of no matter to the part that is scored.
    assert commands_leave(run, out, "evaluate")["evaluate"] == 0
    named = f"resume: the data .*{data}.* then, .* now"
    unknown = "class 'another', which the run does not know|class 'an.*' is none of"
    with pytest.raises(UserError, match=rf"(?i){named}|{unknown}"):
        train(load(ExperimentConfig, run / "config.yaml"), resume=True)
    assert own_files(run) == before


def training_data_is_not_needed(run: Path, data: Path, out: Path) -> None:
    """Remove the training part: every command ends as before; it has what it needs in the run."""
    before = commands_leave(run, out)
    assert before["evaluate"] == 0
    tables = ("squad.json", "babi", "captions.csv", "boxes.json")
    for name in ("text", "tsv", "conll", "pairs", *tables):
        (data / name).unlink()
    shutil.rmtree(data / "images" / "train")
    assert commands_leave(run, out) == before
