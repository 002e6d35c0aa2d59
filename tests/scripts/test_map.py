"""The map of mechanisms is up to date, and what classes declare is what they do."""

import inspect
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import ATTENTIONS, GATES, SENTENCE_ATTENTIONS, Site, attention_class
from attnzoo.config import attention as kinds
from attnzoo.config.attention import AttentionConfig
from gallery_pictures import map_page

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLASSES: dict[str, Any] = {**ATTENTIONS, **SENTENCE_ATTENTIONS, **GATES}
CONFIGS: dict[str, type[AttentionConfig]] = {
    cls.kind: cls
    for union in (kinds.Attention, kinds.SelfAttention)
    for cls in get_args(get_args(union)[0])
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_mechanism_declares_its_facts(name: str) -> None:
    said = "a class of the registries declares `facts = Facts(...)`, see attnzoo/attention/facts.py"
    assert "facts" in vars(CLASSES[name]), said


def test_the_page_is_up_to_date() -> None:
    found = (DOCS / "map.md").read_text(encoding="utf-8")
    wanted = map_page.page(map_page.entries_of(DOCS / "attention.md"))
    assert found == wanted, "run `python scripts/gallery.py --map`"


def test_the_page_of_mechanisms_has_the_same_costs() -> None:
    rows = {}
    for line in (DOCS / "attention.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| [`"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[cells[0].partition("`")[2].partition("`")[0]] = cells
    for name in {*rows} & {*CLASSES}:
        facts = CLASSES[name].facts
        wanted = [facts.time] if name in GATES else [facts.time, facts.memory, facts.state]
        assert rows[name][2 : 2 + len(wanted)] == wanted, name


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_facts_are_those_of_the_config(kind: str) -> None:
    config = CONFIGS[kind]()
    cls = attention_class(config)
    reads = {"itself": "self", "source": "distinctive"}
    assert {reads[one] for one in config.reads} == set(cls.facts.inputs) & set(reads.values())
    assert ("num_heads" in inspect.signature(cls.__init__).parameters) == (
        cls.facts.output == "multi-head"
    )
    assert (cls.facts.softness == "hard") == (kind in ("hard", "none"))
    if "itself" not in config.reads:
        assert cls.facts.causal == "none"
        return
    site = Site.of_itself(64, is_causal=True, max_length=20)
    made = nnx.eval_shape(lambda: cls.from_config(config, site, rngs=nnx.Rngs(0)))
    if not made.takes_causal_mask:
        assert (cls.facts.causal, cls.facts.state) == ("none", "–")
        return
    assert cls.facts.causal == ("recurrence" if made.is_recurrent else "mask")

    def numbers(length: int) -> int:
        cache = jax.eval_shape(lambda: made.empty_cache(1, length))
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(cache))

    # The state of `linear` is that of cross-attention.
    grows = not made.is_recurrent if kind == "linear" else "S" in cls.facts.state.split()
    assert (numbers(40) > numbers(20)) == grows


def test_hard_attention_reads_one_key() -> None:
    x = jax.random.normal(jax.random.key(0), (1, 5, 4))
    content = ATTENTIONS["additive"](4, 4, 3, rngs=nnx.Rngs(0))
    for module in (ATTENTIONS["hard"](content), ATTENTIONS["none"]()):
        _, weights = module(x, x, return_weights=True)
        np.testing.assert_array_equal(np.sort(weights[0, 0]), np.tile(np.eye(5)[-1], (5, 1)))
