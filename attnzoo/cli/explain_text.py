"""`explain` for texts: the answer at one position, and the tokens behind this answer."""

import argparse
import json
from pathlib import Path
from typing import Any

from attnzoo.cli.common import Failures
from attnzoo.cli.explain import ask, draw, print_skipped
from attnzoo.cli.explain_question import TextQuestion, question, require_explained
from attnzoo.errors import UserError
from attnzoo.files import write_text


def explain(trained: Any, arguments: argparse.Namespace) -> int:
    """Write figures, a page and a table for each text."""
    if arguments.fill == "blur":
        raise UserError("--fill blur is for images; wanted zero, mean, unk or mask")
    require_explained(trained, arguments)
    failures = Failures(len(arguments.inputs))
    for number, text in enumerate(arguments.inputs, start=1):
        with failures.of(repr(text[:40])):
            _one(trained, text, f"text-{number}", arguments)
    print(f"written: {arguments.out}")
    return failures.status()


def _one(trained: Any, text: str, name: str, arguments: argparse.Namespace) -> None:
    import numpy as np

    asked = question(trained, text, arguments)
    places = {token: unit for unit, token in enumerate(asked.units)}
    result = ask(
        trained.model,
        np.asarray([asked.ids], np.int32),
        arguments,
        target=asked.target,
        at=asked.at,
        units=[[places.get(token, -1) for token in range(len(asked.ids))]],
        fill=_fill(asked, arguments.fill),
        **{name: np.asarray([row], np.int32) for name, row in asked.keywords.items()},
    )
    title = _title(asked, result)
    _print(text, title, asked, result)
    draw(result, 0, name, arguments, labels=asked.labels, title=title)
    _write(asked, result, arguments.out / f"{name}.json")


def _says(asked: TextQuestion, result: Any, token: int) -> str:
    return f"{asked.name(token)} {result.probabilities[0, token]:.2f}"


def _title(asked: TextQuestion, result: Any) -> str:
    target, own = int(result.target[0]), int(result.probabilities[0].argmax())
    title = f"{asked.about}: {asked.name(target)}"
    title += f", probability {result.probabilities[0, target]:.2f}"
    return title if own == target else f"{title} (the model says {_says(asked, result, own)})"


def _print(text: str, title: str, asked: TextQuestion, result: Any) -> None:
    """Print the answer and the table, in which random order has its rank."""
    first = result.probabilities[0].argsort()[::-1][:4].tolist()
    likely = ", ".join(_says(asked, result, token) for token in first)
    print(f"{text}\n{title}; most likely: {likely}")
    print(f"  {'':<21} {'deletion':>9} {'insertion':>10}  tokens that matter most")
    lines = []
    for name, areas in result.faithfulness.items():
        ranked = sorted(asked.units, key=lambda i, name=name: -result.maps[name][0, i])[:4]
        words = " ".join(asked.labels[i] for i in ranked)
        lines.append((areas.deletion[0], name, areas.insertion[0], words))
        random = areas.random_deletion[0], "random", areas.random_insertion[0], ""
    for deletion, name, insertion, words in sorted([*lines, random]):
        print(f"  {name:<21} {deletion:9.3f} {insertion:10.3f}  {words}")
    print_skipped(result)


def _write(asked: TextQuestion, result: Any, path: Path) -> None:
    """Write all numbers as JSON."""
    target = int(result.target[0])
    told = {
        "tokens": asked.labels,
        "answer": asked.name(target),
        "probability": float(result.probabilities[0, target]),
        "scores": {name: scores[0].tolist() for name, scores in result.maps.items()},
        "skipped": result.skipped,
    }
    for curve in ("deletion", "insertion"):
        areas = {n: float(getattr(f, curve)[0]) for n, f in result.faithfulness.items()}
        random = next(iter(result.faithfulness.values()))
        told[curve] = {**areas, "random": float(getattr(random, f"random_{curve}")[0])}
    write_text(path, json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def _fill(asked: TextQuestion, name: str | None) -> str | int:
    """Return the fill in place of a removed token."""
    specials = asked.specials
    name = ("mask" if "mask" in specials else "zero") if name is None else name
    if name in ("zero", "mean"):
        return name
    if name not in ("mask", "unk") or name not in specials:
        known = ["zero", "mean", *(n for n in ("mask", "unk") if n in specials)]
        raise UserError(f"--fill {name}: wanted {', '.join(known)}")
    return specials[name]
