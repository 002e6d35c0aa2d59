"""Atoms are mapped as by the package rxnmapper 0.4.3, on reactions of its README and tests."""

import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest

from map_atoms import Head, assign, between
from smiles import Molecules, Reaction

found = importlib.util.find_spec("rxnmapper")
if found is None or found.origin is None:
    pytest.skip("rxnmapper is not installed", allow_module_level=True)
FOLDER = Path(found.origin).parent / "models/transformers/albert_heads_8_uspto_all_1310k"

PUBLISHED = [
    (
        "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
        "[CH3:1][CH:2]([CH3:3])[SH:4].CN(C)C=O.F[c:5]1[n:6][cH:7][cH:8][cH:9][c:10]1[F:11]."
        "O=C([O-])[O-].[K+].[K+]>>[CH3:1][CH:2]([CH3:3])[S:4][c:5]1[n:6][cH:7][cH:8][cH:9]"
        "[c:10]1[F:11]",
        0.9565619900376546,
    ),
    (
        "C1COCCO1.CC(C)(C)OC(=O)CONC(=O)NCc1cccc2ccccc12.Cl>>O=C(O)CONC(=O)NCc1cccc2ccccc12",
        "C1COCCO1.CC(C)(C)[O:3][C:2](=[O:1])[CH2:4][O:5][NH:6][C:7](=[O:8])[NH:9][CH2:10][c:11]1"
        "[cH:12][cH:13][cH:14][c:15]2[cH:16][cH:17][cH:18][cH:19][c:20]12.Cl>>[O:1]=[C:2]([OH:3])"
        "[CH2:4][O:5][NH:6][C:7](=[O:8])[NH:9][CH2:10][c:11]1[cH:12][cH:13][cH:14][c:15]2[cH:16]"
        "[cH:17][cH:18][cH:19][c:20]12",
        0.9704424331552834,
    ),
    (
        "C=CCN=C=S.CNCc1ccc(C#N)cc1.NNC(=O)c1cn2c(n1)CCCC2>>"
        "C=CCn1c(-c2cn3c(n2)CCCC3)nnc1N(C)Cc1ccc(C#N)cc1",
        "S=[C:17]=[N:4][CH2:3][CH:2]=[CH2:1].[NH:18]([CH3:19])[CH2:20][c:21]1[cH:22][cH:23][c:24]"
        "([C:25]#[N:26])[cH:27][cH:28]1.O=[C:5]([c:6]1[cH:7][n:8]2[c:9]([n:10]1)[CH2:11][CH2:12]"
        "[CH2:13][CH2:14]2)[NH:15][NH2:16]>>[CH2:1]=[CH:2][CH2:3][n:4]1[c:5](-[c:6]2[cH:7][n:8]3"
        "[c:9]([n:10]2)[CH2:11][CH2:12][CH2:13][CH2:14]3)[n:15][n:16][c:17]1[N:18]([CH3:19])"
        "[CH2:20][c:21]1[cH:22][cH:23][c:24]([C:25]#[N:26])[cH:27][cH:28]1",
        0.919023506871605,
    ),
    (
        "CCBr.CC[O-]~[Na+].[H-]~[Na+]>>CCOCC",
        "Br[CH2:2][CH3:1].[Na+]~[O-:3][CH2:4][CH3:5].[H-]~[Na+]>>[CH3:1][CH2:2][O:3][CH2:4][CH3:5]",
        0.9606074439250337,
    ),
    (
        "C(C)O.BrC(C)>>CCOCC",
        "[CH2:2]([CH3:1])[OH:3].Br[CH2:4][CH3:5]>>[CH3:1][CH2:2][O:3][CH2:4][CH3:5]",
        0.9754605679009868,
    ),
    (
        "CCO.BrCFC>>CCOCFC",
        "[CH3:1][CH2:2][OH:3].Br[CH2:4][F:5][CH3:6]>>[CH3:1][CH2:2][O:3][CH2:4][F:5][CH3:6]",
        0.9730222157275086,
    ),
    (
        "CCOCC.[Br-]~[Na+]>>CCBr.CC[O-]~[Na+]",
        "[CH3:1][CH2:2][O:6][CH2:5][CH3:4].[Br-:3]~[Na+:7]>>[CH3:1][CH2:2][Br:3].[CH3:4][CH2:5]"
        "[O-:6]~[Na+:7]",
        0.7312865053856896,
    ),
    (
        "COC(=O)CCBr.O=C[O-]->[K+]>>COC(=O)CCOC(=O)C",
        "[CH3:1][O:2][C:3](=[O:4])[CH2:5][CH2:6]Br.[O:9]=[CH:8][O-:7]->[K+]>>[CH3:1][O:2][C:3]"
        "(=[O:4])[CH2:5][CH2:6][O:7][C:8](=[O:9])[CH3:10]",
        0.9322116305783666,
    ),
    (
        "[1*]C=C.O>>*CCO",
        "[1*:1][CH:2]=[CH2:3].[OH2:4]>>[*:1][CH2:2][CH2:3][OH:4]",
        0.9988284870307568,
    ),
    (
        "CC[O-]~[Na+].BrCC>>CCOCC",
        "[CH3:5][CH2:4][O-:3]~[Na+].Br[CH2:2][CH3:1]>>[CH3:1][CH2:2][O:3][CH2:4][CH3:5]",
        None,
    ),
    (
        "CCC[O-]~[Na+].BrCC>>CCOCCC",
        "[CH3:6][CH2:5][CH2:4][O-:3]~[Na+].Br[CH2:1][CH3:2]>>"
        "[CH3:1][CH2:2][O:3][CH2:4][CH2:5][CH3:6]",
        None,
    ),
    (
        "NCC[O-]~[Na+].BrCC>>NCCOCC",
        "[NH2:1][CH2:2][CH2:3][O-:4]~[Na+].Br[CH2:5][CH3:6]>>"
        "[NH2:1][CH2:2][CH2:3][O:4][CH2:5][CH3:6]",
        None,
    ),
    (
        "C(C)C[O-]~[Na+].BrCC>>C(C)COCC",
        "[CH2:1]([CH3:2])[CH2:3][O-:4]~[Na+].Br[CH2:5][CH3:6]>>"
        "[CH2:1]([CH3:2])[CH2:3][O:4][CH2:5][CH3:6]",
        None,
    ),
]
"""Reactions as the package's model reads them, the published mapping, and its confidence."""


@pytest.fixture(scope="module")
def head() -> Head:
    return Head(FOLDER, 10, 5)


def numbered_atoms(side: Molecules, numbers: list[int]) -> list[object]:
    """Atoms with map numbers: number, element, and the same of their neighbours, in any order."""
    labels = list(zip(numbers, side.elements, strict=True))
    near = [sorted(labels[j] for j in np.flatnonzero(row)) for row in side.bonded]
    return sorted((*label, around) for label, around in zip(labels, near, strict=True) if label[0])


def labelled(mapped: str) -> list[list[object]]:
    """Both sides' mapped atoms; a number that is on one side alone is none."""
    reaction = Reaction.read(mapped)
    atoms = re.compile(r"\[[^]]*?(?::(\d+))?\]|Br|Cl|[A-Zbcnops*]")
    numbers = [[int(n or 0) for n in atoms.findall(part)] for part in mapped.split(">>")]
    both = set(numbers[0]) & set(numbers[1])
    return [
        numbered_atoms(side, [n * (n in both) for n in some])
        for side, some in zip((reaction.reactants, reaction.products), numbers, strict=True)
    ]


@pytest.mark.parametrize(("text", "mapped", "confidence"), PUBLISHED)
def test_published_maps(text: str, mapped: str, confidence: float | None, head: Head) -> None:
    reaction = Reaction.read(text)
    weights = between(reaction, head(reaction.tokens))
    links = assign(weights, reaction.reactants, reaction.products)
    assert labelled(reaction.mapped(links)) == labelled(mapped)
    if confidence is not None:
        assert math.prod(links.values()) == pytest.approx(confidence, rel=1e-5)


def test_the_package_itself(head: Head) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("rdkit")
    if int(transformers.__version__.split(".")[0]) > 4:
        pytest.skip("rxnmapper 0.4.3 needs transformers 4")
    package = pytest.importorskip("rxnmapper")
    mapper = package.RXNMapper()
    for text, _, _ in PUBLISHED:
        (theirs,) = mapper.get_attention_guided_atom_maps(
            [text], canonicalize_rxns=False, detailed_output=True
        )
        reaction = Reaction.read(text)
        assert theirs["tokens"] == reaction.tokens
        read = head(reaction.tokens)
        np.testing.assert_allclose(read, theirs["tokensxtokens_attns"], rtol=0, atol=1e-5)
        links = assign(between(reaction, read), reaction.reactants, reaction.products)
        linked = {p: r for r, p in links}
        wanted = theirs["pxr_mapping_vector"]
        assert [linked.get(p, -1) for p in range(len(wanted))] == wanted
