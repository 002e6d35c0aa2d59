# Over 400 lines: damage of every kind to the same small run.
"""Whatever comes from outside, a command ends with a status of the docs and says why in a line."""

import argparse
import importlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from attnzoo import cli
from attnzoo.cli import align_doors
from attnzoo.cli.common import FAULT, INTERRUPTED, OUTPUT_CLOSED, run
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import dump, load
from attnzoo.config.schema import dotted_names
from attnzoo.config.tree import SHOWN
from attnzoo.errors import UserError
from attnzoo.tasks import task_class
from attnzoo.training.checkpoint import CheckpointStore, restore, verify
from attnzoo.training.logging import RunLog
from attnzoo.training.run_directory import RunDirectory
from attnzoo.training.signals import EXIT_STOPPED
from attnzoo.training.step_files import METADATA_FILE
from tests.test_files import LINKS, NO_FILES, make_kind
from tests.training.test_tasks import TASK, data, experiment

__all__ = ["data"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
FEW = settings(derandomize=True, deadline=None, database=None, max_examples=40)


def refused_in_lines(call: Callable[[], Any]) -> None:
    """Call something that may raise a UserError, with a line for each problem, and nothing else."""
    try:
        call()
    except UserError as error:
        lines = str(error).splitlines()
        assert 1 <= len(lines) <= SHOWN + 1
        assert all(line.strip() for line in lines)


# Configs

CONFIGS = [
    yaml.safe_load(dump(load(ExperimentConfig, path)))
    for path in sorted((ROOT / "configs").glob("*.yaml"))[::4]
]
NAMES = sorted(set(dotted_names(ExperimentConfig)))
KEYS = sorted({name.rpartition(".")[2] for name in NAMES})
scalars = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    st.sampled_from([0, -1, 10**9, 10**40, "dot", "multi_head", "none", "a:b", "\ud800", "\0"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a tree but the top."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in parts:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a tree with another value in one place."""
    copy = json.loads(json.dumps(tree))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


@FEW
@given(st.data())
def test_a_config_with_anything_anywhere(draw: st.DataObject) -> None:
    tree = draw.draw(st.sampled_from(CONFIGS))
    path = draw.draw(st.sampled_from(list(places(tree))))
    if isinstance(path[-1], str) and draw.draw(st.booleans()):
        path = (*path[:-1], draw.draw(st.sampled_from(KEYS)))
    tree = replaced(tree, path, draw.draw(values))
    refused_in_lines(lambda: load(ExperimentConfig, write("any.yaml", json.dumps(tree))))


FRAGMENTS = r"{ } [ ] : - ? &a *a !!int !x !< | > ' \" \\ \x \U %YAML --- ... # , 1e5 0x name <<"


@FEW
@given(st.lists(st.sampled_from([*FRAGMENTS.split(" "), " ", "\n", "\t", "\x85"]), max_size=30))
def test_a_config_of_any_text(parts: list[str]) -> None:
    refused_in_lines(lambda: load(ExperimentConfig, write("text.yaml", "".join(parts))))


@FEW
@given(st.sampled_from(NAMES) | st.text(max_size=6), st.text("=:", max_size=1), values)
def test_overrides_of_any_kind(name: str, equals: str, value: Any) -> None:
    given = [f"{name}{equals}{json.dumps(value)}"]
    refused_in_lines(lambda: load(ExperimentConfig, ROOT / "configs" / "demo.yaml", given))


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = Path.cwd()
    load(ExperimentConfig, ROOT / "configs" / "demo.yaml")  # imports what the first one does
    os.chdir(tmp_path_factory.mktemp("boundary"))
    yield
    os.chdir(before)


def write(name: str, text: str) -> Path:
    Path(name).write_text(text, encoding="utf-8", errors="surrogatepass")
    return Path(name)


ALIASES = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh"))
LARGE = {
    "aliases": (f"a: &a [x]\n{ALIASES}", "those of aliases counted each time"),
    "keys": ("".join(f"k{i}: 1\n" for i in range(20_000)), "more than 10,000 values"),
    "some keys": ("".join(f"k{i}: 1\n" for i in range(1000)), "... and 9"),
    "depth": ("a: " + "[" * 100_000, "nested too deeply"),
    "size": ("# " + "x" * 2**20, "more than 1 MiB"),
    "layers": ("name: x\nmodel: {kind: gpt2, layers: 1000000000}", "expected int > 0 and <= 10000"),
    "digits": (f"a: {'9' * 5000}", "has 5000 digits"),
    "no mapping below": ("base: list.yaml", "list.yaml:1:1: a mapping of keys"),
    "nothing below": ("base: empty.yaml", "empty.yaml: a mapping of keys"),
    "a pipe below": ("base: pipe.yaml", "pipe.yaml: is a named pipe"),
    "far below": ("base: 0.yaml", "base: more than 50 configs"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_config_that_is_too_much_is_refused_within_a_second(kind: str) -> None:
    text, message = LARGE[kind]
    write("list.yaml", "- 1\n")
    write("empty.yaml", "")
    for i in range(60 if kind == "far below" else 0):
        write(f"{i}.yaml", f"base: {i + 1}.yaml")
    if not Path("pipe.yaml").exists():
        os.mkfifo("pipe.yaml")
    began = time.process_time()
    with pytest.raises(UserError) as error:
        load(ExperimentConfig, write("large.yaml", text))
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= SHOWN + 1
    assert time.process_time() - began < 1.0


# Files of a run

DAMAGED = [b"", b'{"a": [1,', b"[]", b"{}", b"3", b'"x"', b"\xff\0", b"[" * 5000, b'["\\ud800"]']
WRONG = (None, -1, 10**12, "x", [], {}, [1], 1.5, True)
TRANSLATION = (
    "translation",
    "{kind: synthetic, symbols: 5, max_length: 4, train: 40, validation: 8, test: 8}",
    "{kind: bpe, vocab_size: 20}",
    "{kind: bahdanau, hidden: 6, embedding: 5, maxout: 3}",
)


@pytest.mark.parametrize("name", [*TASK, "translation"])
def test_damaged_files_of_a_run_are_one_line_each(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that a task keeps: no JSON, another shape of JSON, and not even a file."""
    monkeypatch.setitem(TASK, "translation", TRANSLATION)
    home = tmp_path / "run"
    home.mkdir()
    config = experiment(name, data, home)
    task = task_class(config.task)
    task.create(config, home, resume=False)
    kept = sorted(home.iterdir())
    assert kept
    for path in kept:
        good = path.read_bytes()
        tree = json.loads(good) if path.suffix == ".json" else None
        some = [
            p for p in (places(tree) if tree else ()) if p[-1] in (0, 1) or isinstance(p[-1], str)
        ]
        wrong = [replaced(tree, p, value) for p in some[:12] for value in WRONG]
        for content in (*DAMAGED, *(json.dumps(tree).encode() for tree in wrong)):
            path.write_bytes(content)
            one_problem(lambda: task.open(config, home))
        for kind in NO_FILES:
            path.unlink()
            make_kind(kind, path)
            one_problem(lambda: task.open(config, home), must=True)
            path.rmdir() if path.is_dir() else path.unlink()
            path.write_bytes(good)


def one_problem(call: Callable[[], Any], must: bool = False) -> None:
    """Call something that may, or must, raise a UserError of one line, and nothing else."""
    said = ""
    try:
        call()
    except UserError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    assert said or not must


@FEW
@given(st.lists(st.binary(max_size=20) | values.map(lambda v: json.dumps({"step": v}).encode())))
def test_any_line_of_metrics_may_be_damaged(lines: list[bytes]) -> None:
    whole = [b'{"step": %d}' % step for step in (1, 2, 3)]
    path = Path("metrics.jsonl")
    path.write_bytes(b"\n".join([whole[0], *lines, *whole[1:]]) + b"\n")
    with RunLog(Path(), start=2, total=9, tensorboard=False):
        pass
    kept = [json.loads(line)["step"] for line in path.read_bytes().splitlines()]
    assert kept[:1] == [1]
    assert kept[-1:] == [2]
    assert all(type(step) is int and step <= 2 for step in kept)


def test_the_lines_of_metrics_that_are_left_out_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = ["[1]", "5", '{"step": "x"}', "[" * 5000, '{"step": 1}', '{"st']
    Path("metrics.jsonl").write_text("\n".join(lines))
    with RunLog(Path(), start=2, total=9, tensorboard=False):
        pass
    said = capsys.readouterr().err
    assert said == "metrics.jsonl:1: cannot be read; such lines are left out, 5 here\n"
    with RunLog(Path(), start=2, total=9, tensorboard=False):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["run.lock", "metrics.jsonl", "config.yaml"])
@pytest.mark.parametrize("kind", sorted({*NO_FILES, *LINKS}))
def test_a_run_writes_through_no_link(name: str, kind: str, tmp_path: Path) -> None:
    from attnzoo.training.run_directory import write_durably

    run = RunDirectory.create(tmp_path / "run")
    make_kind(kind, run.path / name)
    target = run.path / "target"
    before = target.read_text() if target.exists() else None

    def use() -> None:
        with run.lock(), RunLog(run.path, start=0, total=9, tensorboard=False) as log:
            write_durably(run.config, "name: x\n")
            log.metrics(1, {}, part="train")

    assert command(use) in (0, 2)
    assert (target.read_text() if target.exists() else None) == before


@FEW
@given(st.binary(max_size=30) | values.map(lambda v: json.dumps(v).encode()))
def test_any_lock_left_behind_is_taken_or_refused(content: bytes) -> None:
    run = RunDirectory.create("locked", resume=False)
    run.lock_file.write_bytes(content)
    with run.lock():
        pass


def command(action: Callable[[], Any]) -> int:
    """The exit status of a command that does this."""
    return run(lambda: (action(), 0)[1])


# Command lines


class ParserError(Exception):
    """Carries a parser out of the function that made it."""


@pytest.fixture
def parser_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], argparse.ArgumentParser]:
    """The parser of a command, caught where it parses."""

    def caught(parser: argparse.ArgumentParser, _: Any) -> None:
        raise ParserError(parser)

    def catch(name: str) -> argparse.ArgumentParser:
        parse = importlib.import_module(f"attnzoo.cli.{name}").parse
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_intermixed_args", caught)
            with pytest.raises(ParserError) as error:
                parse([])
        return error.value.args[0]

    return catch


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_options_stand_before_between_and_after_arguments(
    name: str, parser_of: Callable[[str], argparse.ArgumentParser]
) -> None:
    parse = importlib.import_module(f"attnzoo.cli.{name}").parse
    actions = parser_of(name)._actions
    counts = {None: 1, "?": 1, "+": 2, "*": 2}
    arguments = [
        f"{action.dest}{i}=1"
        for action in actions
        if not action.option_strings
        for i in range(counts[action.nargs])
    ]
    arguments = arguments[:1] if name == "align" else arguments  # a run, or settings of --aligner
    options = [a for a in actions if a.option_strings and a.nargs is None]
    required = [part for a in options if a.required for part in (a.option_strings[0], "there")]
    for option in options:
        example = {int: "3", float: "0.5", Path: "there"}.get(option.type, "7")
        given = [option.option_strings[0], str([*(option.choices or []), example][0])]
        if name == "align" and option.dest in align_doors.PAIRS:
            given += ["--aligner", "hmm"]
        parsed = [
            vars(parse([*arguments[:place], *given, *arguments[place:], *required]))
            for place in range(len(arguments) + 1)
        ]
        assert parsed == [parsed[0]] * len(parsed), option.option_strings


ODD = ("", "nowhere", "x" * 5000, "/dev/null", "/dev/zero", "pipe", ".", "\udcff", "/proc/self/mem")


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "plan"])
def test_what_is_no_run_or_config_is_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("pipe").exists():
        os.mkfifo("pipe")
    more = {"export": ["--out", "new"], "convert": ["new"], "generate": ["--prompt", "x"]}
    more |= {"translate": ["pipe"], "explain": ["x"], "predict": ["x"]}
    for odd in ODD:
        assert cli.main([name, odd, *more.get(name, [])]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: "), odd
        assert said.count("\n") == 1, odd


# Exit statuses


def output_to(kind: str, monkeypatch: pytest.MonkeyPatch) -> io.TextIOBase:
    """Make standard output a pipe that nobody reads, a full disk, or a closed descriptor."""
    if kind == "full":
        stream = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    else:
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


@pytest.mark.parametrize(("kind", "status"), [("pipe", OUTPUT_CLOSED), ("full", 2)])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_output_that_cannot_be_written_has_its_status(
    name: str,
    kind: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with output_to(kind, monkeypatch) as stream:
        assert cli.main([name, "--help"]) == status
        stream.flush()  # nothing is left that could fail when Python ends
    wanted = "" if kind == "pipe" else "error: standard output: No space left on device\n"
    assert capsys.readouterr().err == wanted


def fault() -> int:
    return {}["a bug"]


def in_jax() -> int:
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")


def interrupted() -> int:
    raise KeyboardInterrupt


def wrong_argument() -> int:
    from attnzoo.decoding.sampling import Sampling

    Sampling(top_k=-1).check()
    return 0


@pytest.mark.parametrize(
    ("action", "status", "said"),
    [
        (lambda: 0, 0, ""),
        (lambda: 75, 75, ""),
        (interrupted, INTERRUPTED, "interrupted\n"),
        (lambda: load(ExperimentConfig, "nowhere"), 2, "error: nowhere: no such file\n"),
        (lambda: Path("nowhere").read_text(), 2, "error: nowhere: No such file or directory\n"),
        (wrong_argument, 2, "error: top_k=-1; wanted at least 1\n"),
        (in_jax, 2, "error: out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
        (lambda: "\u00e9".encode("ascii"), 2, "error: the output's encoding ascii has no '\\xe9'"),
        (lambda: np.int64(10**30), 2, "error: a number is too large: "),
        (fault, FAULT, "Traceback (most recent call last):"),
    ],
)
def test_each_kind_of_end_has_its_status(
    action: Callable[[], int], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(action) == status
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert ("Traceback" in error) == (status == FAULT)


def test_the_docs_list_every_status() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| (\d+) \|", text.partition("## Exit statuses")[2], re.M)
    assert [int(row) for row in rows] == sorted(
        {0, 1, 2, FAULT, EXIT_STOPPED, INTERRUPTED, OUTPUT_CLOSED}
    )


@pytest.mark.parametrize(
    "environment",
    [{"JAX_ENABLE_X64": "maybe"}, {"JAX_PLATFORMS": "cuda"}],
    ids=str,
)
def test_a_wrong_environment_is_one_line(environment: dict[str, str]) -> None:
    program = (
        "import sys\nfrom attnzoo.cli.common import compilation_cache, run\n"
        "def command():\n    compilation_cache()\n    import jax\n"
        "    return len(jax.devices()) - 1\n"
        "sys.exit(run(command))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ended.returncode in (0, 2), ended.stderr
    assert ended.stderr.count("\n") == (ended.returncode == 2), ended.stderr


def test_closed_streams_are_replaced(tmp_path: Path) -> None:
    """The next file that is opened does not become standard error."""
    program = (
        "import os, sys\nfrom attnzoo.cli.common import run\n"
        "def command():\n    file = open(sys.argv[1], 'w')\n    os.write(2, b'a message')\n"
        "    print('said', file=sys.stderr)\n    file.write('data')\n    file.close()\n"
        "    assert sys.stdin.read() == ''\n    return sys.argv[2:] and print('out') or 0\n"
        "sys.exit(run(command))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "x")]
    for more, status in (([], 0), (["print"], 2)):
        shell = 'exec "$@" <&- >&- 2>&-'
        ended = subprocess.run(["sh", "-c", shell, "sh", *command, *more], cwd=ROOT)
        assert ended.returncode == status
        assert (tmp_path / "x").read_text() == "data"


def test_a_training_outlives_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("metrics.jsonl").unlink(missing_ok=True)
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with RunLog(Path(), start=0, total=9, tensorboard=False) as log:
            log.say("x" * 100_000)
            log.progress(1, "loss", line=True)
            log.metrics(1, {"loss": 1.0}, part="train")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert json.loads(Path("metrics.jsonl").read_text())["loss"] == 1.0


def test_a_config_is_read_back_as_it_was_written() -> None:
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        config = load(ExperimentConfig, path)
        assert load(ExperimentConfig, write("again.yaml", dump(config))) == config


def test_a_manifest_of_another_shape_is_damage(tmp_path: Path) -> None:
    """Its digest is right, as that of a file made by hand."""
    with CheckpointStore(tmp_path / "checkpoints") as store:
        store.save(1, {"w": np.arange(6.0)}, {})
    path = tmp_path / "checkpoints" / "1" / METADATA_FILE
    whole = json.loads(path.read_text())
    within = ("custom_metadata", "manifest")
    for place in [p for p in places(whole) if p[:2] == within]:
        for value in (*WRONG, [10**9, 10**9]):
            changed = replaced(whole, place, value)
            custom = changed["custom_metadata"]
            manifest = json.dumps(custom["manifest"], sort_keys=True)
            custom["digest"] = xxhash.xxh3_128_hexdigest(manifest.encode())
            path.write_text(json.dumps(changed))
            one_problem(lambda: verify(tmp_path))
            one_problem(lambda: restore(tmp_path))
