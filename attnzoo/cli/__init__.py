"""`attnzoo COMMAND ...`: the commands of the package. Nothing heavy is imported here."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from attnzoo.cli.common import run
from attnzoo.errors import UserError

COMMANDS = {
    "train": "train the model of a config into a run directory",
    "plan": "what a training will take, on any devices",
    "translate": "translate lines with a trained run",
    "evaluate": "BLEU, chrF and perplexity of a trained run",
    "align": "word alignments, their error rate and pictures",
    "explain": "what a model attends to and answers by, and whether to believe it",
    "generate": "continue prompts with a trained model",
    "predict": "captions, transcripts, answers, summaries, boxes or classes of inputs",
    "recommend": "the next items of histories, by a trained recommender",
    "convert": "a model to transformers and back",
    "export": "a trained model that runs without its code",
    "verify": "check every checkpoint of a run",
    "data": "get data sets by name; make, list and check token stores",
}
"""Each is a module of its name here, with ``main(argv)``."""

SCRIPTS = ("adversarial", "benchmark", "demo", "gallery", "sensitivity", "torture")
"""Programs that are in the repository, but not in the installed package."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names and return its exit code."""
    command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in COMMANDS:
        return run(lambda: importlib.import_module(f"attnzoo.cli.{command}").main(rest))
    return run(lambda: _without_command(command))


def _without_command(word: str) -> int:
    if word in ("-h", "--help"):
        print("usage: attnzoo COMMAND ...   (attnzoo COMMAND --help says more)\n")
        print("\n".join(f"  {name:<12} {what}" for name, what in COMMANDS.items()))
        return 0
    if word in SCRIPTS:
        hint = f"in a clone of the repository: python scripts/{word}.py"
    elif near := difflib.get_close_matches(word, [*COMMANDS, *SCRIPTS], 1):
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"wanted one of {', '.join(COMMANDS)}"
    raise UserError(f"{word!r} is no command of attnzoo; {hint}")
