"""SMILES as tokens and as graphs, without a chemistry library: what mapping of atoms needs."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

TOKEN = re.compile(r"\[[^\[\]]+\]|Br|Cl|[BCNOPSFIbcnops*]|%\d\d|[-=#$:~/\\.()>\d]")
BRACKET = re.compile(r"\[\d*([A-Z][a-z]?|[a-z]{1,2}|\*)[^:]*(:\d+)?\]")
PLAIN = re.compile(r"\[(Br|Cl|[BCNOPSFIbcnops*])(H?)(\d?)\]")
"""Brackets around what can do without, but for the number of hydrogens."""
BONDS = {"": 1, "-": 1, "=": 2, "#": 3, "$": 4, ":": 1, "~": 1, "/": 1, "\\": 1, "->": 1}
VALENCES = {"B": [3], "C": [4], "N": [3, 5], "O": [2], "P": [3, 5], "S": [2, 4, 6]}
VALENCES |= {halogen: [1] for halogen in ("F", "Cl", "Br", "I")}


class Molecules(NamedTuple):
    """One side of a reaction: tokens, and per atom its token, element, bonds and hydrogens.

    The hydrogens are those that the atom has if it is written without brackets.
    """

    tokens: list[str]
    atoms: list[int]
    elements: list[str]
    bonded: np.ndarray
    hydrogens: list[int]


def parse(text: str) -> Molecules:
    """Read SMILES, without map numbers and the brackets that only these need; or ValueError."""
    tokens = TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ValueError(f"{text[:60]!r} has {TOKEN.sub('', text)[:9]!r}, which is no SMILES")
    atoms: list[int] = []
    bonds: dict[tuple[int, int], str] = {}
    branches: list[int] = []
    rings: dict[str, tuple[int, str]] = {}
    last, bond, mapped = -1, "", set()
    for place, token in enumerate(tokens):
        if token[0].isalpha() or token[0] in "[*":
            found = BRACKET.fullmatch(token)
            if token[0] == "[" and not found:
                raise ValueError(f"{token} is no atom")
            if found and found[2]:
                tokens[place] = token.replace(found[2], "")
                mapped.add(len(atoms))
            if last >= 0:
                bonds[last, len(atoms)] = bond
            last, bond = len(atoms), ""
            atoms.append(place)
        elif token == "." and not bond:
            last = -1
        elif last < 0 or (token in "()." and bond) or (token == ")" and not branches):
            raise ValueError(f"{text[:60]!r} has {token!r} where an atom belongs")
        elif token == "(":
            branches.append(last)
        elif token == ")":
            last = branches.pop()
        elif token[0] not in "%0123456789":
            bond += token
        elif token in rings:
            other, opened = rings.pop(token)
            bonds[other, last], bond = bond or opened, ""
        else:
            rings[token], bond = (last, bond), ""
    if rings or branches or bond or not BONDS.keys() >= set(bonds.values()):
        raise ValueError(f"{text[:60]!r} has a ring, parenthesis or bond without its other end")
    bonded, used = np.zeros((len(atoms), len(atoms)), bool), [0] * len(atoms)
    for pair, kind in bonds.items():
        bonded[pair] = bonded[pair[::-1]] = True
        for atom in pair:
            used[atom] += BONDS[kind]
    elements, hydrogens = [], []
    for atom, place in enumerate(atoms):
        found, plain = BRACKET.fullmatch(tokens[place]), PLAIN.fullmatch(tokens[place])
        elements.append((found[1] if found else tokens[place]).capitalize())
        symbol = plain[1] if plain else tokens[place]
        valences = [3] if symbol == "c" else VALENCES.get(symbol, [0])
        hydrogens.append(min((v - used[atom] for v in valences if v >= used[atom]), default=0))
        usual = not hydrogens[-1] or used[atom] <= valences[0]
        if atom in mapped and plain and usual and hydrogens[-1] == int(plain[3] or len(plain[2])):
            tokens[place] = symbol
    return Molecules(tokens, atoms, elements, bonded, hydrogens)


class Reaction(NamedTuple):
    """Products, and reactants with the agents, which begin after so many tokens."""

    reactants: Molecules
    agents: int
    products: Molecules

    @classmethod
    def read(cls, text: str) -> "Reaction":
        """Read reaction SMILES; ValueError for other text and for a side without atoms."""
        parts = re.split(r"(?<!-)>", text)  # the arrow of a dative bond is no arrow of a reaction
        if len(parts) != 3:
            raise ValueError(f"{text[:60]!r} is no reaction, wanted reactants>>products")
        left, right = parse(".".join(filter(None, parts[:2]))), parse(parts[2])
        if not left.atoms or not right.atoms:
            raise ValueError(f"{text[:60]!r} has no atoms on one side of the arrow")
        return cls(left, len(TOKEN.findall(parts[0])), right)

    @property
    def tokens(self) -> list[str]:
        """Tokens that the model reads."""
        return ["[CLS]", *self.reactants.tokens, ">>", *self.products.tokens, "[SEP]"]

    def mapped(self, links: Mapping[tuple[int, int], float]) -> str:
        """Return the reaction with map numbers: products' atoms are counted from 1."""
        left = numbered(self.reactants, {i: j + 1 for i, j in links})
        right = numbered(self.products, {j: j + 1 for _, j in links})
        first, agents = left[: self.agents], left[self.agents + (self.agents > 0) :]
        return ">".join(map("".join, (first, agents, right)))


def numbered(side: Molecules, numbers: Mapping[int, int]) -> list[str]:
    """Return the tokens of a side, with map numbers at some of its atoms."""
    tokens = list(side.tokens)
    for atom, number in numbers.items():
        token, place = tokens[side.atoms[atom]].strip("[]"), side.atoms[atom]
        if tokens[place][0] != "[" and side.hydrogens[atom]:
            token += "H" + str(side.hydrogens[atom]) * (side.hydrogens[atom] > 1)
        tokens[place] = f"[{token}:{number}]"
    return tokens
