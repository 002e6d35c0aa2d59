"""`attnzoo COMMAND ...`: the mains of the files in scripts/. Nothing heavy is imported here."""

import sys
from collections.abc import Callable, Sequence


def _adversarial(argv: Sequence[str]) -> int:
    from attnzoo.cli.adversarial import main

    return main(argv)


def _align(argv: Sequence[str]) -> int:
    from attnzoo.cli.align import main

    return main(argv)


def _benchmark(argv: Sequence[str]) -> int:
    from attnzoo.cli.benchmark import main

    return main(argv)


def _convert(argv: Sequence[str]) -> int:
    from attnzoo.cli.convert import main

    return main(argv)


def _evaluate(argv: Sequence[str]) -> int:
    from attnzoo.cli.evaluate import main

    return main(argv)


def _explain(argv: Sequence[str]) -> int:
    from attnzoo.cli.explain import main

    return main(argv)


def _export(argv: Sequence[str]) -> int:
    from attnzoo.cli.export import main

    return main(argv)


def _gallery(argv: Sequence[str]) -> int:
    from attnzoo.cli.gallery import main

    return main(argv)


def _generate(argv: Sequence[str]) -> int:
    from attnzoo.cli.generate import main

    return main(argv)


def _sensitivity(argv: Sequence[str]) -> int:
    from attnzoo.cli.sensitivity import main

    return main(argv)


def _torture(argv: Sequence[str]) -> int:
    from attnzoo.cli.torture import main

    return main(argv)


def _plan(argv: Sequence[str]) -> int:
    from attnzoo.cli.plan import main

    return main(argv)


def _train(argv: Sequence[str]) -> int:
    from attnzoo.cli.train import main

    return main(argv)


def _translate(argv: Sequence[str]) -> int:
    from attnzoo.cli.translate import main

    return main(argv)


def _verify(argv: Sequence[str]) -> int:
    from attnzoo.cli.verify import main

    return main(argv)


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "train": ("train the model of a config into a run directory", _train),
    "plan": ("what a training will take, on any devices", _plan),
    "translate": ("translate lines with a trained run", _translate),
    "evaluate": ("BLEU, chrF and perplexity of a trained run", _evaluate),
    "align": ("word alignments, their error rate and pictures", _align),
    "explain": ("what a model attends to and answers by, and whether to believe it", _explain),
    "adversarial": ("could other attention have given the same answers", _adversarial),
    "sensitivity": ("explanations for two classes in one image", _sensitivity),
    "benchmark": ("a training step beside PyTorch's", _benchmark),
    "gallery": ("pictures of every attention's weights", _gallery),
    "generate": ("continue prompts with a trained model", _generate),
    "convert": ("a model to transformers and back", _convert),
    "export": ("a trained model that runs without its code", _export),
    "torture": ("hurt runs on purpose and count what survives", _torture),
    "verify": ("check every checkpoint of a run", _verify),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]][1](arguments[1:])
    asked = not arguments or arguments[0] in ("-h", "--help")
    lines = ["usage: attnzoo COMMAND ...   (attnzoo COMMAND --help says more)", ""]
    lines += [f"  {name:<12} {what}" for name, (what, _) in COMMANDS.items()]
    if asked:
        print("\n".join(lines))
        return 0
    print(f"error: {arguments[0]!r} is no command\n" + "\n".join(lines), file=sys.stderr)
    return 2
