"""A resume names what is no longer the same."""

import pytest

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.schema import plain
from attnzoo.errors import UserError
from attnzoo.training.fingerprint import check_fingerprint, first_difference, notes_on_bits
from attnzoo.training.origin import with_defaults

SAVED = {"seed": 1, "data": {"hash": "ab", "workers": 0}, "scale": float("nan"), "shape": [1, 2]}


def test_equal_fingerprints_pass_also_with_tuples_and_nan() -> None:
    check_fingerprint(SAVED, SAVED | {"shape": (1, 2), "scale": float("nan")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "resume: seed was 1 when the checkpoint was saved and is 2 now"),
        ({"seed": 1.0}, "resume: seed was 1 .* and is 1.0 now"),
        ({"seed": True}, "resume: seed was 1 .* and is True now"),
        ({"data": {"hash": "cd", "workers": 0}}, "resume: data.hash was 'ab'"),
        ({"data": {"hash": "ab"}}, r"resume: data.workers was 0 .* and is '\(absent\)' now"),
        ({"batch": 4}, r"resume: batch was '\(absent\)'"),
    ],
)
def test_the_first_difference_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_fingerprint(SAVED, SAVED | change)


def test_a_difference_may_be_allowed_by_its_key_or_its_section() -> None:
    changed = SAVED | {"data": {"hash": "cd", "workers": 2}}
    check_fingerprint(SAVED, changed, allow=["data"])
    check_fingerprint(SAVED, changed, allow={"data.hash", "data.workers"})
    with pytest.raises(UserError, match=r"data\.workers"):
        check_fingerprint(SAVED, changed, allow=["data.hash", "dat"])


def test_what_was_changed_is_named_before_what_follows_from_it() -> None:
    saved = {"batches": {"data": "a1"}, "config": {"data": {"train": 400}}}
    now = {"batches": {"data": "b2"}, "config": {"data": {"train": 300}}}
    with pytest.raises(UserError, match=r"resume: config\.data\.train was 400"):
        check_fingerprint(saved, now)
    with pytest.raises(UserError, match=r"resume: batches\.data was 'a1'"):
        check_fingerprint(saved, now, allow=["config"])


def test_a_setting_newer_than_the_checkpoint_had_its_default() -> None:
    config = load(ExperimentConfig, None, ["name=x", "training={steps: 1, ema: 0.9}"])
    saved = plain(config)
    del saved["start_fresh"], saved["training"]["max_skipped"], saved["training"]["ema"]
    filled = with_defaults(saved, config)
    assert first_difference(filled, plain(config)) == ("training.ema", "(absent)", 0.9)
    assert "start_fresh" not in saved


@pytest.mark.parametrize(
    ("before", "now", "note"),
    [
        (("1 cpu", "1"), ("1 cpu", "1"), None),
        (("1 cpu", "1"), ("1 cpu", "2"), "cores: 1 before, 2 now; the last bits"),
        (("1 cpu", "1"), ("8 cpu", "1"), "devices: 1 cpu before, 8 cpu now; the last bits"),
        (("1 H200", "1"), ("1 H200", "2"), None),
    ],
)
def test_other_counts_of_devices_and_cores_are_told(
    before: tuple[str, str],
    now: tuple[str, str],
    note: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NPROC", now[1])  # read by XLA, and by us
    saved = {"fingerprint": {"devices": before[0]}, "cores": int(before[1])}
    told = notes_on_bits(saved, {"devices": now[0]})
    assert [line.startswith(note) for line in told if note] == [True] * len(told)
    assert bool(told) == bool(note)
    assert notes_on_bits({"fingerprint": {"devices": now[0]}}, {"devices": now[0]}) == []
