"""`map_atoms.py FOLDER [REACTION ...]`: map atoms of products to atoms of reactants by attention.

FOLDER has an ALBERT trained on reaction SMILES, and its vocab.txt: the one inside the package
rxnmapper (`rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k`), or one that transformers
saved. A reaction is `reactants>>products` or `reactants>agents>products`, with `~` between the
fragments of a compound; map numbers are dropped. The attention of one head is assigned greedily
(Schwaller et al. 2021, Science Advances 7 (15), eabe4166).
"""

import argparse
import math
import pickle
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from attnzoo.alignment.aligner import Alignment
from attnzoo.alignment.extract import row_shares
from attnzoo.alignment.formats import write_pharaoh, write_scores
from attnzoo.cli.common import run
from attnzoo.errors import UserError
from attnzoo.files import read_bytes, read_text
from smiles import Molecules, Reaction


def between(reaction: Reaction, weights: np.ndarray) -> np.ndarray:
    """Return attention of product atoms to reactant atoms (P R), both directions summed."""
    left = np.asarray(reaction.reactants.atoms) + 1
    right = np.asarray(reaction.products.atoms) + len(reaction.reactants.tokens) + 2
    return (weights[np.ix_(right, left)] + weights[np.ix_(left, right)].T).astype(np.float64)


def assign(
    weights: np.ndarray, reactants: Molecules, products: Molecules, multiplier: float = 90.0
) -> dict[tuple[int, int], float]:
    """Return links (reactant atom, product atom) of equal elements with scores, by `between`.

    The largest share of a row is linked first. It takes both atoms out, and multiplies what is
    between the neighbours of the one and of the other.
    """
    near = np.equal.outer(products.elements, reactants.elements) * weights
    factor, links = np.ones_like(near), {}
    while (shares := row_shares(near * factor)).max() > 1e-8:
        p, r = map(int, np.unravel_index(shares.argmax(), shares.shape))
        links[r, p] = float(shares[p, r])
        factor[np.ix_(products.bonded[p], reactants.bonded[r])] *= multiplier
        factor[p], factor[:, r] = 0, 0
    return links


NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "FloatStorage"): "float32",
    ("torch._utils", "_rebuild_tensor_v2"): lambda *given: given[:4],
}
"""All that a pickle of float32 tensors names; none of it can run code."""


class Pickled(pickle.Unpickler):
    """Pickle of tensors as torch writes it: a storage becomes its key."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of `NAMES`, or raise KeyError."""
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Return the key of a storage."""
        return pid[2]


def pickled(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a pytorch_model.bin in the format of torch before 1.6."""
    stream = BytesIO(data)
    try:
        magic, _, _, tensors, keys = (Pickled(stream).load() for _ in range(5))
        if magic != 0x1950A86A20F9469CFC6C:
            raise ValueError("another magic number")
        storages = {}
        for key in keys:
            count = int.from_bytes(stream.read(8), "little")
            storages[key] = np.frombuffer(stream.read(4 * count), "<f4", count)
        found = {}
        for name, (key, start, shape, strides) in tensors.items():
            found[name] = storages[key][start : start + math.prod(shape)].reshape(shape)
            if tuple(4 * step for step in strides) != found[name].strides:
                raise ValueError(f"{name} is transposed")
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, pickle.PickleError) as e:
        raise UserError(f"pytorch_model.bin: no float32 tensors of torch before 1.6: {e}") from None
    return found


class Head:
    """One attention head of a BERT or ALBERT in a folder of transformers, and its vocabulary."""

    def __init__(self, folder: Path, layer: int, head: int):
        from flax import nnx

        from attnzoo import pretrained
        from attnzoo.models.bert import Bert

        lines = read_text(folder / "vocab.txt").splitlines()
        self.ids = {token: number for number, token in enumerate(lines)}
        if missing := {"[PAD]", "[UNK]", "[CLS]", "[SEP]", ">>"} - self.ids.keys():
            raise UserError(f"{folder / 'vocab.txt'}: no {min(missing)}, which reactions need")
        with tempfile.TemporaryDirectory() as made:
            binary, source = folder / "pytorch_model.bin", folder
            if binary.exists() and not [*folder.glob("model*.safetensors")]:
                source = Path(made)
                save_file(pickled(read_bytes(binary)), source / "model.safetensors")
                (source / "config.json").write_bytes(read_bytes(folder / "config.json"))
            model: Any = pretrained.load(source)
        heads = model.config.attention.num_heads if isinstance(model, Bert) else 0
        if not (0 <= head < heads and 0 <= layer < model.config.layers):
            raise UserError(f"{folder}: no layer {layer} with head {head} of a BERT or ALBERT")

        def read(model: Any, ids: Any, valid: Any) -> Any:
            return model(ids, valid=valid, capture=True)[1][f"encoder/{layer}/self"][0, head]

        self.model, self.read, self.most = model, nnx.jit(read), model.max_length

    def __call__(self, tokens: list[str]) -> np.ndarray:
        """Return the weights of the head (T T); an unknown token is [UNK]."""
        length = min(-len(tokens) // 64 * -64, self.most)  # few programs to compile
        row = np.full((1, length), self.ids["[PAD]"], np.int32)
        row[0, : len(tokens)] = [self.ids.get(token, self.ids["[UNK]"]) for token in tokens]
        valid = np.arange(length)[None] < len(tokens)
        return np.asarray(self.read(self.model, row, valid))[: len(tokens), : len(tokens)]


def draw(
    reaction: Reaction, weights: np.ndarray, links: Mapping[tuple[int, int], float], path: Path
) -> None:
    """Draw the head's attention between the atoms, each row scaled to sum 1, above the links."""
    from attnzoo import plotting

    scores = np.zeros_like(weights)
    left, right = list(reaction.reactants.elements), list(reaction.products.elements)
    for (r, p), score in links.items():
        left[r], right[p], scores[p, r] = f"{left[r]} {p + 1}", f"{right[p]} {p + 1}", score
    shown = (row_shares(weights), "attention"), (scores, "links")
    panels = [
        plotting.AlignmentPicture(matrix, left, right, title=title) for matrix, title in shown
    ]
    palette = 32 if path.suffix == ".png" else None
    plotting.save(plotting.alignment_grid(panels, columns=1), path, palette=palette)


def main() -> int:
    """Map reactions, one line of output for each."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER")
    add("reactions", nargs="*", metavar="REACTION", help="default: lines of standard input")
    add("--file", type=Path, help="reactions, one a line")
    add("--links", action="store_true", help="write i-j, reactants' and products' atoms from 0")
    add("--scores", action="store_true", help="write i-j:score, or a tab and the scores' product")
    add("--layer", type=int, default=10, help="counted from 0 (default: 10)")
    add("--head", type=int, default=5, help="counted from 0 (default: 5)")
    add("--figure", type=Path, help="draw the first reaction (PNG or SVG)")
    given = parser.parse_args()
    name, lines = "reaction", given.reactions
    if lines and given.file:
        raise UserError("reactions and --file, wanted one of them")
    if not lines:
        name = given.file or "standard input"
        lines = (read_text(given.file) if given.file else sys.stdin.read()).splitlines()
    head, reactions = Head(given.folder, given.layer, given.head), []
    for number, line in enumerate(lines, start=1):
        try:
            reactions.append(Reaction.read(line.strip()))
            if (length := len(reactions[-1].tokens)) > head.most:
                raise ValueError(f"{length} tokens, wanted at most {head.most}")
        except ValueError as error:
            raise UserError(f"{name}:{number}: {error}") from None
    for number, reaction in enumerate(reactions):
        weights = between(reaction, head(reaction.tokens))
        links = assign(weights, reaction.reactants, reaction.products)
        pair = Alignment(reaction.reactants.elements, reaction.products.elements, links)
        line = reaction.mapped(links)
        if given.links:
            (line,) = (write_scores if given.scores else write_pharaoh)([pair])
        elif given.scores:
            line += f"\t{math.prod(links.values()):.4g}"
        print(line, flush=True)
        if given.figure and not number:
            draw(reaction, weights, links, given.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
