"""The eflomal wrapper: what it says when the package is missing, what it returns when it is not."""

import importlib.util
import sys

import pytest

from attnzoo.alignment import eflomal
from attnzoo.errors import UserError

INSTALLED = importlib.util.find_spec("eflomal") is not None
WORDS = {"red": "rouge", "dog": "chien", "cat": "chat", "big": "grand", "old": "vieux"}


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="2 source lines for 1 target lines"):
        eflomal.align(["a", "b"], ["a"])


def test_missing_package_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eflomal", None)
    with pytest.raises(UserError, match="pip install eflomal"):
        eflomal.align(["a"], ["b"])


@pytest.mark.skipif(not INSTALLED, reason="eflomal is not installed")
def test_finds_the_word_order_of_a_tiny_language():
    # Every ordered pair of words, the translation the other way round, and an empty line.
    source = [f"{a} {b}" for a in WORDS for b in WORDS if a != b]
    target = [" ".join(WORDS[word] for word in reversed(line.split())) for line in source]
    source.insert(3, "  ")
    target.insert(3, "vide")
    forward, reverse = eflomal.align(source * 10, target * 10)
    assert len(forward) == len(reverse) == len(source) * 10
    assert forward[3] == reverse[3] == set()
    crossed = {(0, 1), (1, 0)}
    # A sampler without a seed: nearly all, not all.
    assert sum(links == crossed for links in forward) > 0.8 * len(forward)
