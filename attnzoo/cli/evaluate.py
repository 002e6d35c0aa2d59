"""`evaluate MODEL`: score a run on its test part, or a translator on --source and --target.

Translations have BLEU, chrF, exact match and perplexity, overall and by source length; other tasks
have loss and accuracy. A folder of transformers that translates has no data of its own.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from attnzoo.cli.common import (
    add_languages,
    add_trust,
    add_weights,
    add_which,
    compilation_cache,
    open_model,
    output_folder,
    require_penalty,
    require_positive,
    run,
)
from attnzoo.errors import UserError
from attnzoo.files import write_text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__)
    parser.add_argument(
        "run",
        type=Path,
        metavar="MODEL",
        nargs="+",
        help="a run or a folder; or several that translate the same test, drawn together",
    )
    from attnzoo.cli.texts import add_pair_arguments

    add_pair_arguments(parser)
    parser.add_argument(
        "--beam", type=int, help="hypotheses; 1: greedy (default: the run's config)"
    )
    parser.add_argument(
        "--length-penalty", type=float, help="exponent alpha (default: the config's)"
    )
    parser.add_argument("--batch-size", type=int, help="sentences together (default: the config's)")
    parser.add_argument(
        "--tokenize",
        help="sacreBLEU's tokenizer; none for text that is tokenised already (default: the target "
        "language's, or 13a)",
    )
    parser.add_argument(
        "--buckets",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[5, 10, 15, 20, 30],
        metavar="5,10,...",
        help="upper ends of the ranges of source length in words",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of scores and translations (default: each run)"
    )
    add_which(parser)
    add_languages(parser)
    add_weights(parser)
    add_trust(parser)
    parser.add_argument("--figure", type=Path, help="draw BLEU by source length here (PNG or SVG)")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the scores and write them, with the translations, into each run directory or --out."""
    return run(lambda: _evaluate(parse(argv)))


def _evaluate(arguments: argparse.Namespace) -> int:
    from attnzoo.cli.texts import check_pair_arguments

    # Check the arguments before translating, which may take minutes.
    check_pair_arguments(arguments)
    require_positive(arguments, "beam", "batch_size")
    if arguments.out is not None and len(arguments.run) > 1:
        raise UserError(f"--out is for one run; {len(arguments.run)} were given")
    require_penalty(arguments.length_penalty)
    if arguments.figure is not None and arguments.figure.suffix not in (".png", ".svg"):
        raise UserError(f"--figure {arguments.figure}: wanted a name ending in .png or .svg")
    from attnzoo.tasks.scores import check_tokenize

    if arguments.tokenize is not None:
        check_tokenize(arguments.tokenize)
    compilation_cache()
    runs = [open_model(path, arguments) for path in arguments.run]
    pairs = [_pairs(trained, arguments) for trained in runs]
    _compare_tests(runs, pairs, arguments)
    scores = {}
    for path, trained, found in zip(arguments.run, runs, pairs, strict=True):
        name = path.resolve().name
        if found is None:
            _evaluate_task(trained, arguments)
        else:
            scores[str(path) if name in scores else name] = _evaluate_run(
                trained, *found, arguments
            )
    if arguments.figure is not None and scores:
        from attnzoo import plotting

        first = next(iter(scores.values()))["by_length"]
        names = [row["words"] for row in first]
        lines = {
            name: [row["bleu"] for row in values["by_length"]] for name, values in scores.items()
        }
        counts = [row["sentences"] for row in first]
        figure = plotting.bleu_by_length(names, lines, counts=counts)
        print(f"figure: {plotting.save(figure, arguments.figure)}")
    return 0


def _pairs(trained, arguments: argparse.Namespace):
    """Return the pairs to translate and their name; None for a run that does not translate."""
    from attnzoo.cli.texts import read_pairs

    if trained.kind == "translation":
        return read_pairs(trained, arguments)
    if trained.step is None:
        raise UserError(
            f"{trained.directory.path}: {trained.description}, without data to score it on; wanted "
            "a run, or a folder that translates"
        )
    return None


def _compare_tests(runs, pairs, arguments: argparse.Namespace) -> None:
    """Note on standard error that two runs have other pairs; a UserError if a figure is wanted."""
    tests = [
        (trained.directory.path.name, len(found[0]), found[0].fingerprint())
        for trained, found in zip(runs, pairs, strict=True)
        if found is not None
    ]
    for name, count, digest in tests[1:]:
        if digest != tests[0][2]:
            line = (
                f"{tests[0][0]} and {name} have different {arguments.split} pairs ({tests[0][1]:,} "
                f"and {count:,}, other words or links): their scores cannot be compared; give "
                "both the same with --source and --target"
            )
            if arguments.figure is not None:
                raise UserError(f"--figure: {line}")
            print(line, file=sys.stderr)


def _evaluate_task(trained, arguments: argparse.Namespace) -> None:
    """Score a run that does not translate, on one part of its data."""
    import jax
    from flax import nnx

    from attnzoo.tasks import task_class
    from attnzoo.tasks.prediction import PredictSettings

    config, home = trained.config, trained.directory.path
    _note_changes(trained)
    task = task_class(config.task).open(config, home)
    for option in ("limit", "length_penalty", "tokenize", "source", "beam"):
        if getattr(arguments, option) is not None and option not in task.predict_options:
            dashed = option.replace("_", "-")
            print(f"note: --{dashed} has no effect on {trained.description}", file=sys.stderr)
    name, plan = task.scored(arguments.split, "validation")
    if name != arguments.split:
        print(f"the data has no {arguments.split} part; this is validation", file=sys.stderr)
    graph, state = nnx.split(trained.model)
    measure = jax.jit(lambda state, batch: task.measure(nnx.merge(graph, state), batch))
    sums = [jax.device_get(measure(state, task.inputs(batch))) for batch in plan.batches()]
    total = {key: float(sum(part[key] for part in sums)) for key in sums[0]}
    scores = task.scores(total)
    print(f"{trained.title}: {int(total['count']):,} {task.unit} of {name}")
    print(f"  {task.describe(scores)}")
    settings = PredictSettings(arguments.batch_size, arguments.beam)
    more = task.evaluate(trained.model, name, plan, settings)
    for line in more.lines:
        print(f"  {line}")
    digest = task.data_fingerprint
    values = {
        "run": home.name,
        "step": trained.step,
        "data": name,
        "data_fingerprint": digest,
        **scores,
        **more.scores,
    }
    home = output_folder(trained, arguments)
    home.mkdir(parents=True, exist_ok=True)
    for file, text in more.files.items():
        write_text(home / f"{name}.{file}", text)
    write_text(home / f"{name}.scores.json", json.dumps(_without_nan(values), indent=2) + "\n")
    print(f"written: {home / f'{name}.scores.json'}\n")


def _evaluate_run(trained, corpus, name: str, arguments: argparse.Namespace) -> dict:
    from attnzoo.tasks.scores import score_translations, tokenizer_of

    if arguments.source is None:
        _note_changes(trained)
    translator = trained.translator(batch_size=arguments.batch_size)
    decoding = trained.config.decoding
    beam = arguments.beam or decoding.beam
    alpha = (
        decoding.length_penalty if arguments.length_penalty is None else arguments.length_penalty
    )
    results = translator.translate(
        corpus.source, beam=beam, alpha=alpha, max_length=translator.bounded(decoding.max_length)
    )
    hypotheses = ["" if result is None else result.text for result in results]
    forced = [pair for pair in translator.force(corpus.source, corpus.target) if pair is not None]
    tokens = sum(len(pair.log_probs) for pair in forced)
    nll = -sum(float(pair.log_probs.sum()) for pair in forced) / max(tokens, 1)
    tokenize, note = arguments.tokenize, ""
    if tokenize is None:
        tokenize, note = tokenizer_of(corpus.target_language)
    lowercase = translator.target_tokenizer.lowercase
    if lowercase:
        print("the run's tokenizer lower-cases: so are the references (case:lc)", file=sys.stderr)
    if note:
        print(note, file=sys.stderr)
    # Pairs with an empty side keep their line in the output, and are not scored.
    texts = hypotheses, corpus.source, corpus.target
    scored = [
        i for i in range(len(corpus)) if corpus.source[i].strip() and corpus.target[i].strip()
    ]
    if not scored:
        raise UserError(f"{name}: no pair with a text on both sides to score")
    values = {
        "run": str(trained.directory.path.name),
        "step": trained.step,
        "data": name,
        "data_fingerprint": corpus.fingerprint(),
        "sentences": len(scored),
        "untranslated": sum(results[i] is None for i in scored),
        "beam": beam,
        "length_penalty": alpha,
        "perplexity_per_token": math.exp(min(nll, 700.0)) if tokens else math.nan,
        **score_translations(
            *([side[i] for i in scored] for side in texts),
            arguments.buckets,
            tokenize=tokenize,
            lowercase=lowercase,
        ),
    }
    _print(trained.title, values)
    home = output_folder(trained, arguments)
    home.mkdir(parents=True, exist_ok=True)
    written = json.dumps(_without_nan(values), indent=2, ensure_ascii=False)
    write_text(home / f"{name}.hypotheses.txt", "\n".join(hypotheses) + "\n")
    write_text(home / f"{name}.scores.json", written + "\n")
    print(f"written: {home / f'{name}.scores.json'} and {name}.hypotheses.txt\n")
    return values


def _note_changes(trained) -> None:
    """Note on standard error the files of the run's data that changed since training."""
    for line in trained.changed_data():
        print(f"note: the data is not that of the training: {line}", file=sys.stderr)


def _without_nan(value):
    """Replace NaN by None, since JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _print(title: str, values: dict) -> None:
    print(f"{title}: {values['sentences']} sentences of {values['data']}")
    if values["untranslated"]:
        print(f"  {values['untranslated']} too long or empty, scored as empty", file=sys.stderr)
    print(f"  BLEU         {values['bleu']:6.2f}   {values['bleu_signature']}")
    if "bleu_all_references" in values:
        print(
            f"  BLEU         {values['bleu_all_references']:6.2f}   {values['sources']} distinct "
            "sources, each against all its references"
        )
    print(f"  chrF         {values['chrf']:6.2f}   {values['chrf_signature']}")
    print(f"  exact match  {values['exact_match']:6.1%}")
    print(
        f"  perplexity   {values['perplexity_per_token']:6.2f}   per token of the run's tokenizer"
    )
    print("  by source length in words:")
    for row in values["by_length"]:
        if row["sentences"]:
            print(
                f"    {row['words']:>7}  {row['sentences']:6d} sentences  BLEU {row['bleu']:6.2f}"
            )
