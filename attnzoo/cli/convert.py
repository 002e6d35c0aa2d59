"""`convert SOURCE TARGET`: convert a model between transformers files and attnzoo files.

SOURCE is a folder of transformers (or a name on the Hugging Face hub), a folder that this program
wrote, or a run. A folder of transformers becomes one of ours; the others become one of
transformers, which `from_pretrained` loads.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import add_trust, run
from attnzoo.errors import UserError
from attnzoo.files import write_text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_trust(parser)
    parser.add_argument("source", help="a folder, a run, or a name on the hub")
    parser.add_argument("target", type=Path, help="the folder to write; it holds no model yet")
    parser.add_argument(
        "--to", choices=("own", "transformers"), help="what to write (default: the other kind)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of all tensors (default: as stored)",
    )
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 2: something to mend."""
    return run(lambda: _convert(parse(argv)))


def _convert(arguments: argparse.Namespace) -> int:
    target = arguments.target.expanduser()
    for name in ("config.json", "config.yaml"):
        if (target / name).exists():
            raise UserError(f"{target}: holds a model already ({name}); choose another folder")
    # Imported late, so that --help does not wait for jax.
    from attnzoo import pretrained
    from attnzoo.pretrained import convert, files
    from attnzoo.tasks.run_file import is_run

    task: Any = None
    if is_run(Path(arguments.source)):
        trained = _trained(arguments)
        folder, model, task, own = trained.directory.path, trained.model, trained.task, True
    else:
        folder = files.resolve(arguments.source)
        own = (folder / pretrained.OWN_CONFIG).exists()
        model = pretrained.load(folder, dtype=arguments.dtype)
    to = arguments.to or ("transformers" if own else "own")
    if to == "transformers":
        pretrained.save(model, target, getattr(task, "names", ()))
    else:
        pretrained.save_own(model, target)
    if task is not None:
        _write_files(task, folder, target, to)
    else:
        files.copy_beside(folder, target)
    leaves = convert.parameters(model).values()
    size = sum(leaf.nbytes for leaf in leaves)
    count = sum(leaf.size for leaf in leaves)
    print(f"{type(model).__name__}: {count:,} parameters, {size / 1e6:,.1f} MB -> {target}")
    return 0


def _trained(arguments: argparse.Namespace) -> Any:
    import attnzoo

    if arguments.dtype is not None:
        raise UserError(
            f"--dtype {arguments.dtype}: a run keeps the type that it was trained in; leave it out"
        )
    found = attnzoo.open(arguments.source)
    take_origin(found.model, found.directory.path)
    return found


def take_origin(model: Any, run: Path) -> None:
    """Set the origin of a run's model: the folder that its weights were first read from."""
    from attnzoo import pretrained
    from attnzoo.pretrained import origin

    if (run / origin.OWN).exists():
        former = origin.Origin.read(run, origin.OWN, {})
        family = pretrained.FAMILIES.get(str(former.config.get("model_type")))
        if family is not None and family.config is type(model.config):
            model.origin = former


def _write_files(task: Any, folder: Path, target: Path, to: str) -> None:
    """Write the files of a run: as they are, or as transformers reads them."""
    import numpy as np

    from attnzoo.data.library_tokenizers import save_for_transformers
    from attnzoo.data.picture_preparation import FILE, PicturePreparation
    from attnzoo.data.pretrained_tokenizers import PretrainedTokenizer
    from attnzoo.data.text_tokenizers import TextTokenizer
    from attnzoo.tasks.contrastive import ContrastiveTask
    from attnzoo.tasks.image_classification import ImageClassificationTask

    tokenizer = getattr(task, "tokenizer", None)
    if to == "own":
        for file in task.files.values():
            shutil.copyfile(folder / file.name, target / file.name)
        return
    if isinstance(task, ImageClassificationTask | ContrastiveTask):
        found = task.preparation
        if found is None:
            two = isinstance(task, ContrastiveTask)
            model, pixels = task.config.model, task.pixels if two else task
            side = model.image.image_size if two else model.image_size
            mean, deviation = np.asarray(pixels.mean), np.asarray(pixels.std)
            resize = getattr(getattr(task.data, "source", None), "resize", None) or side
            found = PicturePreparation(resize, (side, side), 3, mean, deviation)
        write_text(target / FILE, json.dumps(found.as_json(), indent=2) + "\n")
    if isinstance(task, ImageClassificationTask):
        return
    if isinstance(tokenizer, TextTokenizer):
        save_for_transformers(tokenizer, target)
    elif not (isinstance(tokenizer, PretrainedTokenizer) and tokenizer.save_library(target)):
        kind = "sentence pairs" if tokenizer is None else tokenizer.kind
        print(
            f"{target}: without a tokenizer, because transformers has none of this kind ({kind}); "
            "wanted for use there: ids as the run's tokenizer gives them",
            file=sys.stderr,
        )
