"""SMILES are read and written as they are defined, and atoms assigned as by a slower program."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from attnzoo.alignment.links import parse_pharaoh
from attnzoo.cli.common import run
from attnzoo.errors import UserError
from map_atoms import assign, between, main, pickled
from pretrained_fixtures import HOME
from smiles import Molecules, Reaction, parse


@pytest.mark.parametrize(
    ("text", "elements", "bonds", "hydrogens"),
    [
        ("CC(=O)OC", "C C O O C", "01 12 13 34", "3 0 0 0 3"),
        ("Clc1cnc[nH]1", "Cl C C N C N", "01 12 23 34 45 15", "0 0 1 0 1 -"),
        ("C%12CBr.F/C=C\\%12", "C C Br F C C", "01 12 34 45 05", "2 2 0 0 1 1"),
        ("[Na+]~[O-]S(=O)(=O)C#N", "Na O S O O C N", "01 12 23 24 25 56", "- - 0 0 0 0 0"),
        ("[13CH3:7][C@@H:12](*)[se]", "C C * Se", "01 12 13", "- - 0 -"),
        ("O=C[O-]->[K+]", "O C O K", "01 12 23", "0 1 - -"),
    ],
)
def test_a_graph_is_read(text: str, elements: str, bonds: str, hydrogens: str) -> None:
    side = parse(text)
    assert side.elements == elements.split()
    assert (side.bonded == side.bonded.T).all()
    found = {(i, j) for i, j in np.argwhere(side.bonded).tolist() if i < j}
    assert found == {(int(pair[0]), int(pair[1])) for pair in bonds.split()}
    for wanted, place, count in zip(hydrogens.split(), side.atoms, side.hydrogens, strict=True):
        assert (side.tokens[place][0] == "[") == (wanted == "-")
        assert wanted in ("-", str(count))


def test_map_numbers_are_written_and_dropped() -> None:
    text = "CO>[Na+].Cl>c1cc[nH]c1C=O"
    reaction = Reaction.read(text)
    assert "".join(reaction.tokens) == "[CLS]CO.[Na+].Cl>>c1cc[nH]c1C=O[SEP]"
    assert reaction.mapped({}) == text
    for links, wanted in (
        ({(0, 5): 1.0, (1, 6): 1.0}, "[CH3:6][OH:7]>[Na+].Cl>c1cc[nH]c1[CH:6]=[O:7]"),
        ({(3, 0): 1.0, (2, 3): 1.0}, "CO>[Na+:4].[ClH:1]>[cH:1]1cc[nH:4]c1C=O"),
    ):
        assert reaction.mapped(links) == wanted
        assert Reaction.read(wanted).tokens == reaction.tokens
    assert Reaction.read(">O>C").mapped({(0, 0): 1.0}) == ">[OH2:1]>[CH4:1]"
    assert parse("[CH2:1][PH:2](C)(C)C").tokens[:2] == ["[CH2]", "[PH]"]  # radical, and unusual


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CCO", "'CCO' is no reaction, wanted reactants>>products"),
        ("C>>C |f:0.1|", "has ' |', which is no SMILES"),
        ("AAgC>>C", "has 'AAg', which is no SMILES"),
        ("C>>", "has no atoms on one side"),
        ("C1CC>>C", "has a ring, parenthesis or bond without its other end"),
        ("C(C>>C", "has a ring, parenthesis or bond without its other end"),
        ("C=>>C", "has a ring, parenthesis or bond without its other end"),
        ("C==C>>C", "has a ring, parenthesis or bond without its other end"),
        ("C)C>>C", r"has '\)' where an atom belongs"),
        ("C.(C)>>C", r"has '\(' where an atom belongs"),
        ("C(=)C>>C", r"has '\)' where an atom belongs"),
        ("[+]C>>C", r"\[\+\] is no atom"),
    ],
)
def test_other_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reaction.read(text)


def test_attention_is_read_between_atoms_both_ways() -> None:
    reaction = Reaction.read("C(Cl)>O>C=C")
    size = len(reaction.tokens)
    assert size == 12
    weights = 100.0 * np.arange(size)[:, None] + np.arange(size)
    left, right = [1, 3, 6], [8, 10]  # places of the atoms in [CLS]C(Cl).O>>C=C[SEP]
    wanted = [[100 * p + r + 100 * r + p for r in left] for p in right]
    np.testing.assert_array_equal(between(reaction, weights), wanted)


def slowly(
    weights: np.ndarray, reactants: Molecules, products: Molecules, multiplier: float
) -> dict[tuple[int, int], float]:
    """The same greedy assignment over a dict of pairs, which holds only what may be linked."""
    P, R = weights.shape
    pairs = {
        (p, r): float(weights[p, r])
        for p in range(P)
        for r in range(R)
        if products.elements[p] == reactants.elements[r]
    }
    links = {}
    while pairs:
        total = {p: sum(w for (q, _), w in pairs.items() if q == p) for p, _ in pairs}
        p, r = max(pairs, key=lambda pair: pairs[pair] / total[pair[0]])
        links[r, p] = pairs[p, r] / total[p]
        pairs = {(q, s): w for (q, s), w in pairs.items() if q != p and s != r}
        for q, s in pairs:
            if products.bonded[p, q] and reactants.bonded[r, s]:
                pairs[q, s] *= multiplier
    return links


@pytest.mark.parametrize("seed", range(5))
def test_atoms_are_assigned_as_by_a_slower_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reactants, products = parse("CC(=O)OC(C)CN.OCC1CCNC1"), parse("CC(=O)OCC1CCNC1.[Na+]")
    weights = rng.random((len(products.atoms), len(reactants.atoms)))
    for multiplier in (1.0, 3.0, 90.0):
        found = assign(weights, reactants, products, multiplier)
        wanted = slowly(weights, reactants, products, multiplier)
        assert list(found) == list(wanted)
        np.testing.assert_allclose([*found.values()], [*wanted.values()], rtol=1e-12)
        assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found) == 10
    assert assign(0 * weights, reactants, products) == {}


TENSOR = (
    b"(dVw\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nVk\nVcpu\nI7\nNtQ"
    b"I1\n(I2\nI3\nt(I%d\nI%d\ntI00\nccollections\nOrderedDict\n(tRtRs."
)
"""Pickle of a dict with the 2 x 3 tensor w, which begins at element 1 of the storage k."""


def binary(tensors: bytes) -> bytes:
    """A file as torch before 1.6 writes it."""
    start = b"L%dL\n.I1001\n.N." % 0x1950A86A20F9469CFC6C
    storage = (7).to_bytes(8, "little") + np.arange(7, dtype="<f4").tobytes()
    return start + tensors + b"(lVk\na." + storage


def test_a_pickle_of_torch_is_read_without_running_code(tmp_path: Path) -> None:
    found = pickled(binary(TENSOR % (3, 1)))
    np.testing.assert_array_equal(found.pop("w"), [[1, 2, 3], [4, 5, 6]])
    assert not found
    made = tmp_path / "made"
    command = f"cos\nsystem\n(Vtouch {made}\ntR.".encode()
    for data in (b"", b"PK\3\4", binary(TENSOR % (1, 2)), binary(command), binary(b"I1\n.")):
        with pytest.raises(UserError, match=r"^pytorch_model\.bin: no float32 tensors"):
            pickled(data)
    assert not made.exists()


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(HOME / "albert-model" / name, tmp_path)
    text, long = "CCO.N>>CCN", "C" * 10 + ">>" + "C" * 20

    def printed(*options: str, wanted: int = 0) -> str:
        arguments = ["map_atoms.py", "--layer", "1", "--head", "2", str(tmp_path), *options]
        monkeypatch.setattr("sys.argv", arguments)
        assert run(main) == wanted
        out, error = capsys.readouterr()
        assert error.count("\n") == (wanted != 0)
        return error or out

    assert "vocab.txt" in printed(text, wanted=2)
    words = "[PAD] [UNK] [CLS] [SEP] >> C N ."
    (tmp_path / "vocab.txt").write_text(words.replace(" ", "\n"))
    assert "reaction:2: 33 tokens, wanted at most 25" in printed(text, long, wanted=2)
    assert "reaction:1: 'CCO' is no reaction" in printed("CCO", wanted=2)
    assert "no layer 2 with head 2" in printed(text, "--layer", "2", wanted=2)
    assert Reaction.read(printed(text).strip()).tokens == Reaction.read(text).tokens
    (tmp_path / "file").write_text(f"{text}\n{text}\n")
    first, second = printed("--file", str(tmp_path / "file"), "--links").splitlines()
    links = parse_pharaoh(first).sure
    assert first == second
    assert {j for _, j in links} == {0, 1, 2}
    assert (3, 2) in links
    scored = printed(text, "--links", "--scores", "--figure", str(tmp_path / "x.svg"))
    scores = [float(one.partition(":")[2]) for one in scored.split()]
    assert (tmp_path / "x.svg").exists()
    product = float(printed(text, "--scores").partition("\t")[2])
    assert product == pytest.approx(math.prod(scores), rel=1e-3)
