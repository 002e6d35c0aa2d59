"""`convert SOURCE TARGET`: convert a model between transformers files and attnzoo files.

SOURCE is a folder of transformers (or a name on the Hugging Face hub), a folder that this program
wrote, or a run. A folder of transformers becomes one of ours; the others become one of
transformers, which `from_pretrained` loads.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.cli.common import add_trust, run
from attnzoo.errors import UserError

BESIDE = ("tokenizer*.json", "special_tokens_map.json", "vocab.*", "merges.txt", "*.model", "*.spm")
"""What belongs to the model and is copied as it is."""


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

    if (Path(arguments.source) / "checkpoints").is_dir():
        folder, model, own = Path(arguments.source), _trained(arguments), True
    else:
        folder = files.resolve(arguments.source)
        own = (folder / pretrained.OWN_CONFIG).exists()
        model = pretrained.load(folder, dtype=arguments.dtype)
    to = arguments.to or ("transformers" if own else "own")
    (pretrained.save if to == "transformers" else pretrained.save_own)(model, target)
    if to == "transformers" and (folder / "checkpoints").is_dir():
        _write_tokenizer(folder, target)
    else:
        for pattern in BESIDE:
            for path in folder.glob(pattern):
                shutil.copyfile(path, target / path.name)
    leaves = convert.parameters(model).values()
    size = sum(leaf.nbytes for leaf in leaves)
    print(f"{type(model).__name__}: {len(leaves)} parameters, {size / 1e6:,.1f} MB -> {target}")
    return 0


def _trained(arguments: argparse.Namespace) -> Any:
    from attnzoo.training.run import load_run

    if arguments.dtype is not None:
        raise UserError(f"--dtype {arguments.dtype}: a run is written as it was trained")
    return load_run(arguments.source).model


def _write_tokenizer(folder: Path, target: Path) -> None:
    """The tokenizer of a run as transformers reads it, if it is one that the library knows."""
    from attnzoo.data.text_tokenizers import LibraryTokenizer, load_tokenizer

    path = folder / "tokenizer.json"
    if not path.exists():
        return
    tokenizer = load_tokenizer(path)
    if not isinstance(tokenizer, LibraryTokenizer):
        print(f"{path}: transformers has no tokenizer of kind {tokenizer.kind}; none is written")
        return
    tokenizer.save_for_transformers(target)
