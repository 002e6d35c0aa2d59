"""ops.check_kernels: what is right is remembered and chosen, what is not is not."""

import jax
import jax.numpy as jnp
import pytest

from attnzoo import ops
from attnzoo.ops import choice, kernel_check, masks, score_mods
from attnzoo.ops.choice import Implementation
from attnzoo.ops.kernels import interpret, reference
from attnzoo.ops.kernels.verified import is_checked, remember, seen_path
from benchmarks.main import main


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def one_case(monkeypatch):
    case = ("window, ALiBi", (17, 40, 2, 2, 16))
    settings = {"mask_mod": masks.sliding_window(9).offset(23), "score_mod": score_mods.alibi(2)}
    monkeypatch.setattr(kernel_check, "_cases", lambda: iter([(*case, settings)]))


def on_a_tpu(monkeypatch):
    """What would be chosen, said of the long attention of a TPU whose kernels are interpreted."""
    x = jax.ShapeDtypeStruct((1, 8192, 4, 64), jnp.float32)
    with monkeypatch.context() as patch, interpret():
        patch.setattr(choice.jax, "default_backend", lambda: "tpu")
        return ops.explain_choice(x, x, x, score_mod=score_mods.alibi(4))


def test_what_is_right_is_chosen(one_case, monkeypatch):
    before = on_a_tpu(monkeypatch)
    assert before.name == "reference"
    assert before.others["mosaic_tpu"].startswith("would do; ops.check_kernels() has not seen it")
    with interpret():
        (check,) = ops.check_kernels(["mosaic_tpu"], ["float32"])
    assert check.is_right
    assert 0 < check.error < 1e-5
    assert is_checked("mosaic_tpu", "float32")
    assert not is_checked("mosaic_tpu", "bfloat16")
    after = on_a_tpu(monkeypatch)
    assert (after.name, after.differentiated) == ("mosaic_tpu", "mosaic_tpu")
    assert "seen to be right" in after.reason


def test_what_is_wrong_is_not(one_case, monkeypatch):
    def nearly(q, k, v, *rest):
        out, lse = reference.attend(q, k, v, *rest)
        return out, lse + 1e-3

    remember({"mosaic_tpu": ["float32"], "mosaic_gpu": ["bfloat16"]})
    wrong = Implementation(nearly, lambda call: None)
    monkeypatch.setitem(choice.IMPLEMENTATIONS, "mosaic_tpu", wrong)
    (check,) = ops.check_kernels(["mosaic_tpu"], ["float32"])
    assert not check.is_right
    assert check.what == "lse, window, ALiBi"
    assert not is_checked("mosaic_tpu", "float32")  # it was, by an older note
    assert is_checked("mosaic_gpu", "bfloat16")  # which still holds for what was not checked

    def fails(*_):
        raise RuntimeError("no such register\nand more")

    monkeypatch.setitem(choice.IMPLEMENTATIONS, "mosaic_tpu", wrong._replace(attend=fails))
    (check,) = ops.check_kernels(["mosaic_tpu"], ["float32"])
    assert (check.error, check.what) == (float("inf"), "window, ALiBi: no such register")


def test_every_case_leaves_room_for_rounding(monkeypatch):
    """Of the implementation that rounds the result alone, under the name of another."""
    monkeypatch.setitem(choice.IMPLEMENTATIONS, "mosaic_tpu", choice.IMPLEMENTATIONS["reference"])
    (check,) = ops.check_kernels(["mosaic_tpu"], ["bfloat16"])
    assert check.is_right
    assert 1e-3 < check.error < 3e-3


def test_off_their_devices_all_are_refused(capsys):
    assert main(["attention", "--check-kernels"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("cannot take implementation") == 4
    assert str(seen_path()) in printed


def test_a_note_that_is_none_is_ignored():
    seen_path().parent.mkdir(parents=True)
    seen_path().write_text("[1]")
    with pytest.warns(UserWarning, match="says of no kernel that it was seen"):
        assert not is_checked("mosaic_tpu", "float32")
