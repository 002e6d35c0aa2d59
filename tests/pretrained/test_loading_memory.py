"""A sharded model is read onto a mesh with a shard's and a tensor's memory beside it."""

import pytest

import loading_memory


def test_peak_memory_of_loading(capsys: pytest.CaptureFixture[str]) -> None:
    assert loading_memory.main(["--gigabytes", "0.1", "--shards", "4"]) == 0
    shards = next(n for n in capsys.readouterr().out.splitlines() if n.startswith("shards"))
    assert int(shards.split()[1]) >= 4
