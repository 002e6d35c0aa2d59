"""`explain MODEL INPUT...`: explain a model's answers by its inputs, in figures and a page.

MODEL is a run, or a folder of transformers. INPUT is a text, a sentence to translate ("source |||
target" explains a known translation), or an image file, depending on the model; for runs on images,
images of the test part are drawn too (--images). The picture of every method has its faithfulness,
the area under the deletion curve, beside that of random order. `attnzoo.explain.explain` does the
same in Python.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import (
    add_labels,
    add_languages,
    add_trust,
    add_which,
    compilation_cache,
    open_model,
    output_folder,
    require_positive,
    run,
)
from attnzoo.errors import UserError


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="explain", description=__doc__)
    parser.add_argument("run", type=Path, metavar="MODEL", help="a run, or a folder")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="texts or image files")
    parser.add_argument(
        "--target",
        help="what to explain instead of the model's own answer: a class by name or number, or the "
        "text of a token (images of the data: instead of their own class)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="explanations by name, or your own as package.module:Name (default: all that apply)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        help="layer of the raw attention, from 0 (default: the last, or the one that aligns)",
    )
    parser.add_argument("--head", type=int, help="number of the head, from 0 (default: mean)")
    add_which(parser)
    parser.add_argument("--out", type=Path, help="folder of figures (default: RUN/explain)")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE.html",
        help="where the page of one input goes (default: beside its figures)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all noise (default: 0)")
    parser.add_argument(
        "--num-samples",
        type=int,
        default=20,
        help="random orders, and steps of methods that average (default: 20)",
    )
    parser.add_argument(
        "--reverse",
        type=Path,
        metavar="MODEL",
        help="a translator of the other direction, for the page",
    )
    texts = parser.add_argument_group("texts")
    texts.add_argument(
        "--at",
        type=int,
        metavar="TOKEN",
        help="the token whose answer is explained, from 0, specials counted (default: the last; "
        "the first [MASK]; the first word to be tagged)",
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--images",
        type=int,
        nargs="*",
        metavar="N",
        help="images of the test part to draw, from 0 (default without INPUT: 0 1 2)",
    )
    images.add_argument(
        "--count", type=int, default=100, help="images to average in the table (default: 100)"
    )
    images.add_argument("--flow", action="store_true", help="attention flow too, which is slow")
    parser.add_argument(
        "--fill",
        help="what takes the place of what is removed: mean or blur for patches (default: mean), "
        "zero, mean, unk or mask for words (default: mask where there is one, else zero)",
    )
    add_labels(images)
    add_languages(parser)
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write figures, pages and tables, and print the tables."""
    return run(lambda: _explain(parse(argv)))


def _explain(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "count", "num_samples")
    if arguments.html is not None:
        if len(arguments.inputs) != 1:
            raise UserError(f"--html is for one INPUT; {len(arguments.inputs)} were given")
        if arguments.html.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"--html {arguments.html}: wanted a name that ends in .html")
    from attnzoo.cli import explain_images, explain_text, explain_translation
    from attnzoo.tasks.image_classification import ImageClassificationTask
    from attnzoo.tasks.translation_task import TranslationTask

    compilation_cache()
    trained = open_model(arguments.run, arguments)
    arguments.out = output_folder(trained, arguments, "explain")
    if isinstance(trained.task, ImageClassificationTask):
        return explain_images.explain(trained, arguments)
    if arguments.images is not None:
        raise UserError(f"--images: {arguments.run} is {trained.description}, without images")
    if trained.task is None:
        raise UserError(
            f"{arguments.run}: {trained.description} has no output layer, so no answer to explain; "
            "wanted a head for classes, masked tokens or next tokens, or a translator"
        )
    if not arguments.inputs:
        raise UserError(f"{arguments.run}: wanted a text behind it, in quotes")
    if isinstance(trained.task, TranslationTask):
        return explain_translation.explain(trained, arguments)
    return explain_text.explain(trained, arguments)


def ask(model: Any, inputs: Any, arguments: argparse.Namespace, **settings: Any) -> Any:
    """Explain as the command line says, and print the methods that do not apply."""
    import jax

    from attnzoo.explain import EXPLANATIONS, explain
    from attnzoo.explain.explanations import ON_REQUEST

    every = [name for name in EXPLANATIONS if arguments.flow or name not in ON_REQUEST]
    try:
        return explain(
            model,
            inputs,
            methods=arguments.methods or every,
            key=jax.random.key(arguments.seed),
            num_samples=arguments.num_samples,
            layer=arguments.layer,
            head=arguments.head,
            **settings,
        )
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{arguments.run}: {error}") from None


def print_skipped(result: Any) -> None:
    """Print a line for each explanation that does not apply."""
    for name, reason in result.skipped.items():
        print(f"  {name:<21} not here: {reason}")


def draw(
    result: Any, example: int, name: str, arguments: argparse.Namespace, **drawing: Any
) -> None:
    """Write the figures and the page of one example."""
    from attnzoo import plotting

    page = drawing.pop("page", {})
    for figure, drawn in result.figures(example, **drawing).items():
        for suffix in (".png", ".svg"):
            stem = f"{name}-{figure}" if figure else name
            plotting.save(drawn, arguments.out / f"{stem}{suffix}")
    path = arguments.html or arguments.out / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        result.page(example, **drawing, **page).save(path)
    except (ValueError, NotImplementedError) as error:  # too large a page, or no attention
        raise UserError(f"{name}: {error}") from None
