"""`sensitivity RUN_DIR`: does an explanation know which class it explains?

Images with two objects of different classes are explained for each of the two classes. An
explanation that does not know the class gives the same map twice: correlation 1. One that does
points at the object of the class that was asked for. The run is one of planted data
(configs/planted-vit.yaml), whose test has such images (``attnzoo.data.planted.planted_pairs``).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from attnzoo.cli.common import (
    add_trust,
    add_which,
    compilation_cache,
    require_positive,
    run,
)
from attnzoo.errors import UserError

BATCH = 50
DRAWN = ("rollout", "cdam", "relevance")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="sensitivity", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a ViT trained on planted data")
    parser.add_argument("--count", type=int, default=200, help="images (default: 200)")
    parser.add_argument("--draw", type=int, default=3, help="images in the figure (default: 3)")
    parser.add_argument(
        "--num-samples", type=int, default=20, help="of methods that average over noise"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all noise (default: 0)")
    add_which(parser)
    add_trust(parser)
    parser.add_argument("--out", type=Path, help="for the figure (default: RUN_DIR/explain)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table of all methods and writes it and a figure."""
    return run(lambda: _measure(parse(argv)))


def _measure(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "count", "draw", "num_samples")
    import jax
    import jax.numpy as jnp
    import numpy as np

    from attnzoo.data.augment import normalise, to_float
    from attnzoo.data.planted import planted_pairs
    from attnzoo.explain.agreement import bootstrap
    from attnzoo.explain.vit import explain_vit
    from attnzoo.models.vit import ViT
    from attnzoo.training.run import load_run

    compilation_cache()
    trained = load_run(arguments.run, which=arguments.which)
    model, task = trained.model, cast(Any, trained.task)
    source: Any = getattr(trained.config.data, "source", None)
    if not isinstance(model, ViT) or getattr(source, "kind", None) != "planted":
        raise UserError(
            f"{arguments.run}: a {type(model).__name__}; wanted a ViT with data.source.kind=planted"
        )
    pairs = planted_pairs(source, arguments.count)
    # The task numbers classes by their names' order.
    numbers = np.asarray([task.names.index(str(c)) for c in range(source.classes)])
    classes = numbers[pairs.classes]
    key = jax.random.key(arguments.seed)

    @jax.jit
    def explain(images: Any, classes: Any, key: Any) -> tuple[Any, Any]:
        pixels = normalise(to_float(images), jnp.asarray(task.mean), jnp.asarray(task.std))
        maps = explain_vit(model, pixels, classes, key, num_samples=arguments.num_samples)
        maps["random"] = jax.random.uniform(key, maps["rollout"].shape)
        return maps, jax.nn.softmax(model(pixels), axis=-1)

    found: dict[str, list[Any]] = {}
    answers = []
    for start in range(0, arguments.count, BATCH):
        rows = np.resize(np.arange(start, min(start + BATCH, arguments.count)), BATCH)
        both = []
        for one in (0, 1):
            mine = jax.random.fold_in(key, 2 * start + one)
            maps, answer = explain(
                jnp.asarray(pairs.images[rows]), jnp.asarray(classes[rows, one]), mine
            )
            both.append({name: np.asarray(m) for name, m in maps.items()})
        answers.append(np.asarray(answer))
        for name in both[0]:
            found.setdefault(name, []).append(np.stack([b[name] for b in both], axis=1))
    table = {name: np.concatenate(parts)[: arguments.count] for name, parts in found.items()}
    probability = np.take_along_axis(np.concatenate(answers)[: arguments.count], classes, axis=1)
    summary = {}
    for name, maps in table.items():
        asked, other = pairs.patches, pairs.patches[:, ::-1]
        best = maps.argmax(axis=2)
        at = [np.take_along_axis(maps, p[:, :, None], axis=2)[:, :, 0] for p in (asked, other)]
        summary[name] = {
            "correlation": bootstrap(_correlation(maps[:, 0], maps[:, 1])),
            "own": bootstrap((at[0] > at[1]).mean(axis=1)),
            "hit": bootstrap((best == asked).mean(axis=1)),
            "other": bootstrap((best == other).mean(axis=1)),
        }
    _print(summary, arguments.count, float(probability.sum(axis=1).mean()))
    out = arguments.out or trained.directory.path / "explain"
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=2) + "\n"
    (out / "sensitivity.json").write_text(text, encoding="utf-8")
    _draw(pairs, classes, table, summary, task.names, arguments.draw, out)
    print(f"written: {out}")
    return 0


def _correlation(a: Any, b: Any) -> Any:
    """Pearson's, of each image's two maps; NaN where one is constant."""
    import numpy as np

    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a.astype(float), b.astype(float)))
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(norm > 0, (a * b).sum(axis=1) / np.where(norm > 0, norm, 1), np.nan)


def _print(summary: dict[str, Any], count: int, probability: float) -> None:
    print(f"{count} images of two objects; the model gives both classes {probability:.2f} together")
    print("correlation of the maps for the two classes; own: the object of the class asked for")
    print("scores above the other; hit, other: the highest score is its, or the other's; 95 %")
    print(f"  {'':<21}" + "".join(f"{name:<26}" for name in next(iter(summary.values()))))
    for name, line in sorted(summary.items(), key=lambda item: -item[1]["hit"].mean):
        print(f"  {name:<21}" + "".join(f"{interval!s:<26}" for interval in line.values()))


def _draw(
    pairs: Any, classes: Any, table: Any, summary: Any, names: Any, count: int, out: Path
) -> None:
    """One figure an image: the maps of DRAWN for each class, and how often those point right."""
    from attnzoo import plotting

    side = round(table["rollout"].shape[2] ** 0.5)
    chance = summary["random"]["hit"].mean
    for n in range(min(count, len(pairs.images))):
        where = [divmod(int(place), side) for place in pairs.patches[n]]
        panels = [
            plotting.Overlay(
                f"{method}, class {names[classes[n, one]]}",
                table[method][n, one].reshape(side, side),
                f"which is in row {where[one][0] + 1}, column {where[one][1] + 1}\n"
                f"all images: {summary[method]['hit'].mean:.2f} right ({chance:.2f} random)",
            )
            for one in (0, 1)
            for method in DRAWN
        ]
        figure = plotting.overlays(
            pairs.images[n].astype(float) / 255,
            panels,
            title=f"two classes in one image ({n})",
            columns=len(panels) + 1,
        )
        plotting.save(figure, out / f"two-classes-{n}.png")


if __name__ == "__main__":
    sys.exit(main())
