"""One module for each group of claims, each with a tuple ``CLAIMS``; all of them are found."""

import functools
import importlib
import pkgutil

from reproductions.claim import Claim


@functools.cache
def claims() -> dict[str, Claim]:
    """Return every claim by its name, in the order of the modules' names."""
    found: dict[str, Claim] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        for claim in importlib.import_module(f"{__name__}.{module.name}").CLAIMS:
            if claim.name in found:
                raise ValueError(f"two claims have the name {claim.name!r}")
            found[claim.name] = claim
    return found
