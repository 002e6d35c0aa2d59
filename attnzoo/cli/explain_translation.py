"""`explain` for translations: source words that each target word depends on and attends to."""

import argparse
from typing import Any, NoReturn

from attnzoo.cli.common import Failures, open_model
from attnzoo.cli.explain import ask, draw, print_skipped
from attnzoo.errors import UserError

FILLS = {"zero": "zero", "mean": "mean", "unk": None}


def explain(trained: Any, arguments: argparse.Namespace) -> int:
    """Write figures, a page and numbers for each sentence."""
    if getattr(getattr(trained.config.model, "attention", None), "kind", "") == "none":
        raise UserError(
            f"{arguments.run}: model.attention=none, so there are no weights; wanted a run with "
            "attention"
        )
    for option in ("target", "at"):
        if getattr(arguments, option) is not None:
            raise UserError(
                f"--{option} is for texts; wanted 'source ||| target' to explain a translation"
            )
    if arguments.fill not in (None, *FILLS):
        raise UserError(f"--fill {arguments.fill}: wanted {', '.join(FILLS)}")
    reverse = None
    if arguments.reverse is not None:
        reverse = open_model(arguments.reverse, arguments, other_way=True).translator()
    translator = trained.translator(layer=arguments.layer, head=arguments.head)
    failures = Failures(len(arguments.inputs))
    for number, text in enumerate(arguments.inputs, start=1):
        with failures.of(repr(text)):
            _one(trained, translator, reverse, text, f"translation-{number}", arguments)
    print(f"written: {arguments.out}")
    return failures.status()


def _one(
    trained: Any,
    translator: Any,
    reverse: Any,
    text: str,
    name: str,
    arguments: argparse.Namespace,
) -> None:
    source, known, target = (part.strip() for part in text.partition("|||"))
    if known and not target:
        raise UserError(f"{text!r}: no target behind |||")
    if not known:
        target = _translate(trained, translator, source)
    forced, result = _ask(translator, source, target, arguments)
    print(f"{source} ||| {target}\nlog-probability {forced.log_probs.sum():.3f}")
    links = _print(translator, forced, result)
    back = None
    if reverse is not None:
        back = _reversed(reverse, source, target, forced, arguments)
    draw(
        result,
        0,
        name,
        arguments,
        source=_labels(translator.source_tokenizer, forced.source, translator.source_frame),
        target=_labels(translator.target_tokenizer, forced.target, translator.target_frame)[1:],
        title=f"{source} / {target}",
        page={"links": links, "reverse": back},
    )


def _ask(
    translator: Any, source: str, target: str, arguments: argparse.Namespace, **settings: Any
) -> tuple[Any, Any]:
    """Return a known pair as the translator reads it, and its explanation; units are words."""
    import numpy as np

    (forced,) = translator.force([source], [target])
    if forced is None:
        _refuse(translator, source, target)
    rows = translator.pair(forced.source, forced.target)
    pair = tuple(np.asarray([row], np.int32) for row in rows)
    fill = translator.source_tokenizer.unk_id if arguments.fill == "unk" else arguments.fill
    before, after = translator.source_frame.before, translator.source_frame.after
    units = [[*[-1] * len(before), *forced.source.word_ids, *[-1] * len(after)]]
    return forced, ask(translator.model, pair, arguments, units=units, fill=fill, **settings)


def _reversed(
    reverse: Any, source: str, target: str, forced: Any, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return the maps of a translator in the other direction."""
    plain = argparse.Namespace(**{**vars(arguments), "layer": None, "head": None})
    other, result = _ask(reverse, target, source, plain, faithfulness=False)
    theirs, ours = (
        tuple(len(side.ids) for side in sides)
        for sides in ((other.target, other.source), (forced.source, forced.target))
    )
    if theirs != ours:
        raise UserError(
            f"--reverse: its tokenizers make {theirs[0]} and {theirs[1]} tokens of the pair, this "
            f"run's {ours[0]} and {ours[1]}; wanted the same"
        )
    return result.maps_by_token()


def _print(translator: Any, forced: Any, result: Any) -> list[tuple[int, int]]:
    """Print the table, and links between words by raw attention and by erasure.

    Returns the links by erasure, between tokens.
    """
    import numpy as np

    from attnzoo.alignment.extract import links_from_weights, row_shares, word_matrix
    from attnzoo.alignment.scores import attention_statistics

    sides = forced.source.word_ids, forced.target.word_ids
    left = len(translator.source_frame.before)
    above = len(translator.target_frame.before) - 1  # the first of them is not predicted
    print(
        f"  {'':<21} {'deletion':>8} {'diagonality':>12} {'entropy':>8} {'/ log S':>8} "
        f"{'covered':>8}"
    )
    words: dict[str, dict[int, list[str]]] = {}
    links: list[tuple[int, int]] = []
    random = float("nan")
    for name in result.best_first():
        scores = np.maximum(result.maps[name][0], 0)[above:, left:]
        scores = scores[: len(sides[1]) + 1, : len(sides[0]) + 1]
        raw = name.startswith("attention_m")
        timing = translator.credits if raw else "predicted"
        matrix = word_matrix(scores, *sides, timing=timing)
        shape = attention_statistics([matrix if raw else row_shares(matrix)])
        areas = result.faithfulness[name]
        random = np.nanmean(areas.random_deletion[0, above:-1])
        area = np.nanmean(areas.deletion[0, above:-1])
        print(
            f"  {name:<21} {area:8.3f} {shape.diagonality:12.3f} "
            f"{shape.entropy:8.3f} {shape.relative_entropy:8.3f} {shape.covered:8.3f}"
        )
        for i, j in sorted(links_from_weights(scores, *sides, timing=timing, level="word")):
            words.setdefault(name, {}).setdefault(j, []).append(forced.source.words[i])
        if name == "leave_one_out":
            S, T = len(sides[0]), len(sides[1])
            pairs = links_from_weights(scores, range(S), range(T))
            links = sorted((i + left, j + above) for i, j in pairs)
    print(f"  {'random':<21} {random:8.3f}")
    print_skipped(result)
    told = [name for name in ("attention_mean", "leave_one_out") if name in words]
    wide = max(map(len, forced.target.words))
    print(f"  {'word':<{wide}}  by {', by '.join(told).replace('_', ' ')}")
    for j, word in enumerate(forced.target.words):
        looks = [" ".join(words[name].get(j, ["-"])) for name in told]
        print(f"  {word:<{wide}}  {', '.join(dict.fromkeys(looks))}")
    return links


def _labels(tokenizer: Any, encoding: Any, frame: Any) -> list[str]:
    """Return words as labels, or pieces of words with several tokens, and special tokens."""
    from attnzoo.data.splitting import strip_marks

    single = len(encoding.ids) == len(set(encoding.word_ids))
    tokens = tokenizer.tokens
    pieces = [strip_marks(tokens[i]) or tokens[i] for i in encoding.ids]
    words = [encoding.words[w] for w in encoding.word_ids]
    before, after = ([tokens[i] for i in ids] for ids in frame.ends)
    return [*before, *(words if single else pieces), "</s>", *after[1:]]


def _translate(trained: Any, translator: Any, source: str) -> str:
    from attnzoo.cli.align_report import search_settings

    (result,) = translator.translate([source], **search_settings(trained))
    if result is None:
        _refuse(translator, source, "?")
    if not result.text.strip():
        raise UserError(
            f"{source!r}: translated as nothing; give a translation: 'source ||| target'"
        )
    return result.text


def _refuse(translator: Any, source: str, target: str) -> NoReturn:
    """Raise a UserError that says why a pair cannot be read."""
    sides = (
        ("source", translator.source_tokenizer, source),
        ("target", translator.target_tokenizer, target),
    )
    for side, tokenizer, text in sides:
        count = len(tokenizer.encode(text).ids)
        if not count:
            raise UserError(f"{text!r}: an empty {side}; wanted some words")
        if count >= translator.max_source:
            raise UserError(
                f"{text[:40]!r}...: {count} tokens of {side}, wanted at most "
                f"{translator.max_source - 1}"
            )
    raise UserError(f"{source!r}: cannot be read")
