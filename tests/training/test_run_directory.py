"""One writer per run, and never a dead one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnzoo.errors import UserError
from attnzoo.training.run_directory import (
    FOREIGN_STALE_SECONDS,
    Owner,
    RunDirectory,
    read_owner,
    write_durably,
)

HOLDER = """
import sys, time
from attnzoo.errors import UserError
from attnzoo.training.run_directory import RunDirectory
try:
    with RunDirectory.create(sys.argv[1], resume=True).lock():
        print("held", flush=True)
        time.sleep(60)
except UserError as error:
    print(f"error: {error}", flush=True)
    sys.exit(2)
"""


def holder(run: RunDirectory) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.create(tmp_path / "run")
    write_durably(run.config, "seed: 1\n")
    return run


def test_a_second_writer_is_refused_by_name_and_a_killed_one_leaves_no_lock(
    run: RunDirectory,
) -> None:
    with holder(run) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        started = time.monotonic()
        who = f"process {first.pid} on host {Owner.here().host}"
        with pytest.raises(UserError, match=who) as caught, run.lock():
            pass
        assert time.monotonic() - started < 5
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=f"holds a run already .*{who}"):
            RunDirectory.create(run.path)
        assert read_owner(run.lock_file) == Owner(
            first.pid, Owner.here().host, Owner.here().boot_id
        )
        first.send_signal(signal.SIGKILL)
    assert run.lock_file.exists()
    with run.lock():
        assert read_owner(run.lock_file) == Owner.here()
    assert not run.lock_file.exists()


def test_of_several_that_start_at_once_one_holds(run: RunDirectory) -> None:
    processes = [holder(run) for _ in range(6)]
    lines = [p.stdout.readline() for p in processes if p.stdout is not None]
    for process in processes:
        process.kill()
        process.communicate()
    assert sum(line == "held\n" for line in lines) == 1
    assert sum("is writing into this run" in line for line in lines) == 5


def test_the_same_process_cannot_enter_twice(run: RunDirectory) -> None:
    with run.lock():
        with pytest.raises(UserError, match="is writing into this run"), run.lock():
            pass
        assert read_owner(run.lock_file) == Owner.here()


def test_the_lock_is_released_by_an_error(run: RunDirectory) -> None:
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    assert not run.lock_file.exists()


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}'])
def test_a_lock_cut_off_while_written_is_stale(run: RunDirectory, content: str) -> None:
    run.lock_file.write_text(content)
    with run.lock():
        assert read_owner(run.lock_file) == Owner.here()


def test_another_host_holds_its_lock_as_long_as_it_touches_it(run: RunDirectory) -> None:
    other = {"pid": 7, "host": "elsewhere", "boot_id": "another"}
    run.lock_file.write_text(json.dumps(other))
    with pytest.raises(UserError, match="process 7 on host elsewhere"), run.lock():
        pass
    assert json.loads(run.lock_file.read_text()) == other
    past = time.time() - FOREIGN_STALE_SECONDS - 1
    os.utime(run.lock_file, (past, past))
    with run.lock():
        assert read_owner(run.lock_file) == Owner.here()


def test_create_refuses_a_run_unless_it_is_resumed(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="continue it with --resume"):
        RunDirectory.create(run.path)
    assert RunDirectory.create(run.path, resume=True) == run
    with pytest.raises(UserError, match="no run to resume"):
        RunDirectory.create(tmp_path / "new", resume=True)
    with pytest.raises(UserError, match="not a run directory"):
        RunDirectory.open(tmp_path / "new")


def test_a_run_that_died_before_its_config_may_be_started_again(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run")
    assert RunDirectory.create(tmp_path / "run").path == tmp_path / "run"


def test_a_path_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the run directory"):
        RunDirectory.create(tmp_path / "file" / "run")


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunDirectory.create("run").checkpoints == tmp_path / "run" / "checkpoints"
