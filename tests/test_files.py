"""Files and streams from outside: bounded, of the right kind, never through links."""

import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest

from attnzoo import files
from attnzoo.data import sources
from attnzoo.errors import UserError


def make_kind(kind: str, path: Path) -> None:
    """Put something in the place of a file."""
    target = path.with_name("target")
    match kind:
        case "a directory":
            path.mkdir()
        case "a named pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "a symbolic link":
            target.write_text("kept")
            path.symlink_to(target)
        case "a dangling link":
            path.symlink_to(target)
        case "a circle of links":
            path.symlink_to(path)
        case "hard links":
            target.write_text("kept")
            path.hardlink_to(target)


NO_FILES = ("a directory", "a named pipe", "a device", "a dangling link", "a circle of links")
LINKS = ("a symbolic link", "a dangling link", "a circle of links", "hard links")


def one_line(error: pytest.ExceptionInfo[UserError], *parts: object) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert str(part) in str(error.value)


@pytest.mark.parametrize("read", [files.read_bytes, files.read_text, files.read_json])
@pytest.mark.parametrize("kind", [*NO_FILES, "nothing"])
def test_what_is_no_file_is_refused_at_once(
    kind: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    make_kind(kind, tmp_path / "x")
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        read(tmp_path / "x")
    one_line(error, tmp_path / "x", kind if kind in NO_FILES[:3] else "")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("kind", [*NO_FILES[:2], *LINKS])
def test_nothing_is_written_through_links_or_into_what_is_no_file(
    kind: str, tmp_path: Path
) -> None:
    make_kind(kind, tmp_path / "x")
    for flags in (os.O_WRONLY | os.O_TRUNC, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        with pytest.raises((UserError, OSError)) as error:
            files.open_regular(tmp_path / "x", flags | os.O_CREAT)
        assert "\n" not in str(error.value)
    target = tmp_path / "target"
    assert target.exists() == (kind in ("a symbolic link", "hard links"))
    assert not target.exists() or target.read_text() == "kept"


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(10**12)  # a hole
    with pytest.raises(UserError) as error:
        files.read_bytes(tmp_path / "x", limit=1000)
    one_line(error, "more than 1,000 bytes")
    (tmp_path / "x").write_bytes(b"123")
    assert files.read_bytes(tmp_path / "x", limit=3) == b"123"
    with pytest.raises(UserError, match="null"):
        files.read_bytes("a\0b")


class Shape(TypedDict):
    names: list[str]
    mean: list[float]


@pytest.mark.parametrize(
    ("text", "wanted", "wrong"),
    [
        (b'{"a": [1]}', dict, None),
        (b"[1]", dict, "wanted an object, got a list"),
        (b"null", dict, "wanted an object, got a NoneType"),
        (b'["a", "b"]', list[str], None),
        (b'["a", 1]', list[str], "wanted list[str]"),
        (b"[true]", list[int], "wanted list[int]"),
        (b'{"a": {"b": "c"}}', dict[str, dict[str, str]], None),
        (b'{"a": {"b": 1}}', dict[str, dict[str, str]], "wanted dict"),
        (b'{"names": ["a"], "mean": [1, 0.5], "more": 0}', Shape, None),
        (b'{"names": ["a"]}', Shape, "wanted an object with names, mean"),
        (b'{"names": [1], "mean": []}', Shape, "wanted an object with names, mean"),
        (b"\xef\xbb\xbf{}", dict, None),
        (b"{", dict, "not JSON"),
        (b"\xff\xfe", dict, ":1: not UTF-8"),
        (b"[" * 100_000, list, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", list, "not JSON"),
        (b'["\\ud83d\\ude00"]', list[str], None),
        (b'["\\ud800"]', list[str], "surrogates not allowed"),
    ],
)
def test_json_has_the_type_that_is_wanted(
    text: bytes, wanted: Any, wrong: str | None, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(text)
    if wrong is None:
        files.read_json(tmp_path / "x", wanted)
        return
    with pytest.raises(UserError) as error:
        files.read_json(tmp_path / "x", wanted)
    one_line(error, tmp_path / "x", wrong)


# Streams


def test_lines_of_a_pipe_come_as_they_are_written() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        batches = sources.lines_as_they_come(stream, 4)
        os.write(writer, b"\xef\xbb")
        os.write(writer, b"\xbfone\r\ntw")
        assert next(batches) == [b"one"]  # though the pipe is open, and a line incomplete
        os.write(writer, b"o\n\n" + b"many\n" * 9)
        assert next(batches) == [b"two", b"", b"many", b"many"]
        assert next(batches) == [b"many"] * 4
        assert next(batches) == [b"many"] * 3
        os.write(writer, b"end")
        os.close(writer)
        assert list(batches) == [[b"end"]]


def test_a_trickle_of_lines_does_not_wait_for_a_full_batch() -> None:
    reader, writer = os.pipe()
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.005):
            os.write(writer, b"x\n")
        os.close(writer)

    thread = threading.Thread(target=trickle)
    thread.start()
    with os.fdopen(reader, "rb") as stream:
        first = next(sources.lines_as_they_come(stream, 10_000, wait=0.05))
        stop.set()
        thread.join()
    assert 1 <= len(first) < 100


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\nb", b"\xef\xbb\xbfa\r\n\n\nb\x0bc\n"])
def test_a_file_gives_full_batches_with_the_lines_of_the_reader_of_files(
    data: bytes, tmp_path: Path
) -> None:
    from attnzoo.data.sources import read_lines

    (tmp_path / "x").write_bytes(data)
    with (tmp_path / "x").open("rb") as stream:
        batches = list(sources.lines_as_they_come(stream, 2))
    assert [line for batch in batches for line in batch] == read_lines(tmp_path / "x")
    assert all(len(batch) == 2 for batch in batches[:-1])
    assert list(sources.lines_as_they_come(io.BytesIO(data), 2)) == batches


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnzoo.data.sources.LIMIT", 2**20)
    for data, told in (
        (b"\0" * 2**21, "not text"),
        (b"a" * 2**22, "a line of more than 1,048,576"),
    ):
        with pytest.raises(UserError) as error:
            next(sources.lines_as_they_come(io.BytesIO(data), 2))
        one_line(error, "standard input: ", told)


def test_messages_that_cannot_be_written_are_lost() -> None:
    with Path("/dev/full").open("w") as full:
        messages = files.Messages(full)
        print("x" * 100_000, file=messages, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    print("closed", file=messages, flush=True)
    assert not messages.isatty()
