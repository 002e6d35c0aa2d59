"""Output of `align`: scores of links, statistics of matrices, and pictures."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnzoo.cli.common import Failures
from attnzoo.errors import UserError
from attnzoo.files import write_text


def print_scores(rows: Mapping[str, list], corpus: Any, name: str, restrict: bool) -> None:
    """Print error rate, F1, precision and recall of all links and the diagonal, with intervals."""
    from attnzoo.alignment.scores import (
        bootstrap_interval,
        count_corpus,
        diagonal_links,
        score_corpus,
    )

    pairs = zip(corpus.source, corpus.target, strict=True)
    lengths = [diagonal_links(len(a.split()), len(b.split())) for a, b in pairs]
    rows = {**rows, "diagonal": lengths}
    kind = "words with a reference link" if restrict else "all words"
    wide = max(22, *map(len, rows))
    titles = ("AER", "F1", "precision", "recall")
    print(f"{len(corpus)} pairs of {name}, {kind}, with 95 % intervals:")
    print(f"  {'links from':<{wide}} " + " ".join(f"{title:<23}" for title in titles))
    for label, links in rows.items():
        counts = count_corpus(links, corpus.links, restrict=restrict)
        total = score_corpus(links, corpus.links, restrict=restrict)
        cells = []
        for metric in ("aer", "f1", "precision", "recall"):
            low, high = bootstrap_interval(counts, metric)
            cells.append(f"{getattr(total, metric):6.3f}  {low:6.3f} - {high:.3f} ")
        print(f"  {label:<{wide}} " + " ".join(cells).rstrip())


def print_shapes(matrices: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Print statistics of the matrices, as means over sentences."""
    from attnzoo.alignment.scores import attention_statistics

    print("matrices between words, means over sentences:")
    print(f"  {'weights':<22} {'diagonality':>11} {'entropy':>8} {'/ log S':>8} {'covered':>8}")
    for label, found in matrices.items():
        shape = attention_statistics(found)
        print(
            f"  {'by ' + label:<22} {shape.diagonality:11.3f} {shape.entropy:8.3f} "
            f"{shape.relative_entropy:8.3f} {shape.covered:8.3f}"
        )


def draw(seen: Mapping[str, tuple[np.ndarray, Any]], path: Path, links: Any = None) -> Path:
    """Draw the matrices of one pair side by side, as PNG and SVG; return the PNG's path."""
    from attnzoo import plotting

    pictures = [
        plotting.AlignmentPicture(
            matrix,
            result.source.words,
            result.target.words,
            links,
            method if len(seen) > 1 else None,
        )
        for method, (matrix, result) in seen.items()
    ]
    figure = plotting.alignment_grid(pictures)
    plotting.save(figure, path.with_name(path.name + ".svg"))
    return plotting.save(figure, path.with_name(path.name + ".png"))


def search_settings(trained: Any) -> dict[str, Any]:
    """Return the search settings of a run's config."""
    decoding, bound = trained.config.decoding, trained.model.max_target_length
    return {
        "beam": decoding.beam,
        "alpha": decoding.length_penalty,
        "max_length": min(decoding.max_length, bound or decoding.max_length),
    }


def sentences(trained: Any, readers: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    """Translate the sentences of the command line, and draw the matrices of each."""
    translator = next(iter(readers.values())).translator
    folder = arguments.figure_dir or trained.directory.figures
    results = translator.translate(arguments.sentence, **search_settings(trained))
    failures = Failures(len(results))
    for number, (text, result) in enumerate(zip(arguments.sentence, results, strict=True)):
        with failures.of(f"--sentence {text!r}"):
            if result is None:
                raise UserError(f"--sentence {text!r}: empty or too long")
            seen = {}
            for method, reader in readers.items():
                read = result if method == "attention" else reader.read([text], [result.text])[0]
                if read is not None and read.target.words:  # a translation may have none
                    seen[method] = (reader.matrix(read), read)
            path = draw(seen, folder / f"sentence-{number + 1}") if seen else ""
            print(f"{text}\t{result.text}\t{path}")
    return failures.status()


def figures(
    trained: Any,
    readers: Mapping[str, Any],
    found: Mapping[str, list],
    corpus: Any,
    name: str,
    arguments: argparse.Namespace,
) -> None:
    """Draw the first pairs, as many as requested."""
    folder = arguments.figure_dir or trained.directory.figures
    for row in range(min(arguments.figures, len(corpus))):
        seen = {
            method: (readers[method].matrix(results[row]), results[row])
            for method, results in found.items()
            if results[row] is not None and results[row].target.words
        }
        known = corpus.links is not None and not arguments.generated
        if seen:
            path = draw(seen, folder / f"{name}-{row + 1}", corpus.links[row] if known else None)
            print(f"figure: {path}")


def write_links(links: list, path: Path) -> None:
    """Write Pharaoh links, one line per pair."""
    from attnzoo.alignment.links import Links, format_pharaoh

    lines = [format_pharaoh(Links.of(pair)) for pair in links]
    write_text(path, "\n".join(lines) + "\n")
    print(f"links: {path}")
