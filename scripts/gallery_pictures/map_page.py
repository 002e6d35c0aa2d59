"""The page docs/map.md, made from the facts that the classes of mechanisms declare."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attnzoo.attention import ATTENTIONS, GATES, SENTENCE_ATTENTIONS
from attnzoo.attention.facts import Facts

HEAD = """# The map of mechanisms

Find a mechanism by what it does: the place of each one of this package on the axes of four surveys
of attention, [Niu et al. 2021](https://doi.org/10.1016/j.neucom.2021.03.091), [Chaudhari et al.
2021](https://arxiv.org/abs/1904.02874), [Galassi et al. 2021](https://arxiv.org/abs/1902.02181) and
[Soydaner 2022](https://arxiv.org/abs/2204.13154). `python scripts/gallery.py --map` makes this page
from what classes declare, such as `AdditiveAttention.facts`; `attnzoo/attention/facts.py` has the
meaning of each field. Letters are those of [attention.md](attention.md#which-one), where each
linked name has an entry.
"""
AXES = {
    "softness": (
        "Soft, hard, local",
        """Niu's softness, Chaudhari's number of positions. Soft: every key has a weight,
and gradients are exact. Hard: one key is read. Local: a window, or a bucket, of
keys.""",
    ),
    "form": (
        "Items or places",
        """Niu's forms of input feature. The keys are items of a sequence, or places and
channels of a feature map.""",
    ),
    "inputs": (
        "What reads what",
        """Niu's input representations, Chaudhari's number of sequences. Distinctive: one
sequence reads another. Self: a sequence reads itself. Co: two read each other.""",
    ),
    "output": (
        "Weights of a key",
        """Niu's output representations, Chaudhari's number of representations. One; one in
each head; or one for each feature.""",
    ),
    "causal": (
        "Causal form",
        """How a position of self-attention is kept from later ones: by a mask, by a
recurrent state, or not at all.""",
    ),
}


def registered() -> dict[str, Any]:
    """Every class of the registries by name, by year of its paper and then as registered."""
    found: dict[str, Any] = {**ATTENTIONS, **SENTENCE_ATTENTIONS, **GATES}
    return dict(sorted(found.items(), key=lambda item: year(item[1].facts)))


def year(facts: Facts) -> int:
    """The year of the first paper."""
    return int(re.findall(r"\d{4}", facts.paper)[0])


def page(entries: Iterable[str]) -> str:
    """The whole page; ``entries`` are the names that docs/attention.md explains."""
    entries, classes = set(entries), registered()

    def linked(name: str) -> str:
        return f"[`{name}`](attention.md#{name})" if name in entries else f"`{name}`"

    def table(header: str, rows: Iterable[tuple[str, ...]]) -> list[str]:
        columns = header.count("|") + 1
        lines = [f"| {header} |", "|" + "---|" * columns]
        return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]

    parts = [HEAD, "## By year", ""]
    parts += table(
        "name | paper | score of a query and a key | weights",
        (
            (
                linked(name),
                cls.facts.paper,
                cls.facts.score.replace("|", "\\|"),
                cls.facts.distribution,
            )
            for name, cls in classes.items()
        ),
    )
    for field, (title, meaning) in AXES.items():
        parts += [f"## {title}", "", meaning, ""]
        places: dict[str, list[str]] = {}
        for name, cls in classes.items():
            value = getattr(cls.facts, field)
            for one in (value,) if isinstance(value, str) else value:
                places.setdefault(one, []).append(linked(name))
        parts += table(
            "place | mechanisms", ((place, " ".join(names)) for place, names in places.items())
        )
    parts += ["## Cost", "", "For one sequence; the state is what decoding keeps in a layer.", ""]
    parts += table(
        "name | time | memory | decoding state",
        (
            (linked(name), *(getattr(cls.facts, field) for field in ("time", "memory", "state")))
            for name, cls in classes.items()
        ),
    )
    return "\n".join(parts).rstrip("\n") + "\n"


def entries_of(path: Path) -> list[str]:
    """The names that a page of mechanisms has an entry for."""
    return re.findall(r"^### (\w+)$", path.read_text(encoding="utf-8"), flags=re.M)
