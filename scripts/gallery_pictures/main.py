"""`gallery`: draw the weights of every mechanism and the demonstrations, for the pages in docs."""

import argparse
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from attnzoo.cli import common
from attnzoo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COLORS = 112


def main(argv: Sequence[str] | None = None) -> int:
    """Write a PNG for each name; the same code gives the same pictures."""
    parser = argparse.ArgumentParser(prog="gallery", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="one picture, by the name in attnzoo.attention's registries or of the file; may be "
        "given again",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=ROOT / "docs" / "figures" / "attention",
        help="where to write NAME.png (docs/figures/attention)",
    )
    parser.add_argument(
        "--map", action="store_true", help="write docs/map.md instead, from facts of the classes"
    )
    arguments = parser.parse_args(argv)
    if arguments.map:
        return common.run(write_map)
    return common.run(lambda: draw(arguments.output, arguments.only))


def write_map() -> int:
    """Write the page that places every mechanism on the axes of surveys."""
    from gallery_pictures import map_page

    path = ROOT / "docs" / "map.md"
    path.write_text(map_page.page(map_page.entries_of(ROOT / "docs" / "attention.md")), "utf-8")
    print(path)
    return 0


def draw(output: Path, only: Sequence[str] | None) -> int:
    """Draw the named pictures, or all."""
    common.compilation_cache()
    # Imported late, so that --help does not wait for jax.
    from attnzoo import plotting

    known = pictures()
    for name in only or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"--only {name}: no such picture; {hint}there are {', '.join(known)}")
    for name in dict.fromkeys(only or known):
        path = plotting.save(known[name](), output / f"{name}.png", palette=COLORS)
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB", flush=True)
    return 0


def pictures() -> dict[str, Callable]:
    """Every picture by name, as a function that draws it."""
    from attnzoo import plotting
    from attnzoo.attention import GATES
    from gallery_pictures import mechanisms
    from gallery_pictures.demonstrations import DEMONSTRATIONS

    def panels(name: str) -> Callable:
        def draw():
            shown = mechanisms.MATRICES[name]()
            return plotting.weight_panels(shown, columns=2 if len(shown) == 4 else 3)

        return draw

    def gate(name: str) -> Callable:
        return lambda: mechanisms.gate(name)

    return {
        **{name: panels(name) for name in mechanisms.MATRICES},
        **{name: gate(name) for name in GATES},
        "masks": mechanisms.masks_grid,
        "score_mods": mechanisms.score_mods_grid,
        **DEMONSTRATIONS,
    }
