"""`adversarial RUN_DIR`: could other attention have given an image model's answers?

Layer by layer, of the class token's row or, without one, of all rows: how far the weights can go
while the answer stays (Jain and Wallace 2019), and how much it changes when they are even (after
Wiegreffe and Pinter 2019).
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

BATCH = 64


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="adversarial", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a run of image classification")
    parser.add_argument("--count", type=int, default=50, help="test images (default: 50)")
    parser.add_argument(
        "--epsilon", type=float, default=0.01, help="total variation allowed (default: 0.01)"
    )
    parser.add_argument("--steps", type=int, default=500, help="of the search (default: 500)")
    parser.add_argument("--restarts", type=int, default=5, help="of the search (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the search (default: 0)")
    parser.add_argument(
        "--seeds",
        type=Path,
        nargs="*",
        default=[],
        metavar="RUN_DIR",
        help="runs of the same config with other training seeds: how far those lie apart",
    )
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="*",
        default=[],
        metavar="X",
        help="train an adversary of the last layer for each, and tell change and divergence",
    )
    add_which(parser)
    add_trust(parser)
    parser.add_argument("--out", type=Path, help="for the table (default: RUN_DIR/explain)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and writes it."""
    return run(lambda: _measure(parse(argv)))


def _measure(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "count", "steps", "restarts")
    import jax
    import jax.numpy as jnp

    from attnzoo import explain
    from attnzoo.data.augment import normalise, to_float
    from attnzoo.models.vit import ViT
    from attnzoo.training.run import load_run

    compilation_cache()
    trained = load_run(arguments.run, which=arguments.which)
    model, task = trained.model, cast(Any, trained.task)
    if not isinstance(model, ViT):
        raise UserError(
            f"{arguments.run}: a {type(model).__name__}; wanted a run with model.kind=vit"
        )
    name, data = task.read_part("test", "validation")
    part = getattr(data, name)
    pixels = to_float(jnp.asarray(part.images[: arguments.count]))
    images = normalise(pixels, jnp.asarray(task.mean), jnp.asarray(task.std))
    # The answer is read at the class token: the same row in every layer, so that they compare.
    row = 0 if model.config.pooling == "class" else None
    names = explain.attention_names(model, images)
    summary: dict[str, Any] = {}
    print(f"{len(images)} images; answers may change by {arguments.epsilon} in total variation")
    print("divergence of the farthest weights (at most 0.693), change by even weights; 95 %")
    for name in names:
        weights, answer = explain.answer_of(model, name, images, row=row)
        search = jax.jit(
            lambda weights, key, answer=answer: explain.adversarial(
                answer,
                weights,
                key,
                epsilon=arguments.epsilon,
                steps=arguments.steps,
                restarts=arguments.restarts,
            )
        )
        found = search(weights, jax.random.key(arguments.seed))
        line = {
            "divergence": explain.bootstrap(found.divergence),
            "even": explain.bootstrap(
                jax.jit(explain.uniform_change, static_argnums=0)(answer, weights)
            ),
        }
        summary[name] = line
        read = "all rows" if row is None else "the class token's row"
        cells = "".join(f"{interval!s:<26}" for interval in line.values())
        print(f"  {name:<20}{read:<24}{cells}", flush=True)
    if arguments.seeds:
        runs = [load_run(path, which=arguments.which).model for path in arguments.seeds]
        maps = [explain.capture_attention(one, images)[1] for one in (model, *runs)]
        print(f"divergence between {len(maps)} training seeds")
        for name in names:
            rows = [m[name] if row is None else m[name][:, :, row] for m in maps]
            summary[name]["seeds"] = explain.bootstrap(explain.seed_divergence(rows))
            print(f"  {name:<20}{summary[name]['seeds']!s}", flush=True)
    if arguments.strengths:
        train = normalise(
            to_float(jnp.asarray(task.read_part("train")[1].train.images[:])),
            jnp.asarray(task.mean),
            jnp.asarray(task.std),
        )
        size = min(BATCH, len(train))
        batches = [train[i : i + size] for i in range(0, len(train) - size + 1, size)]
        curve = explain.adversary_curve(
            model, batches, images, names[-1], arguments.strengths, row=row
        )
        print(f"adversaries of {names[-1]}, {len(batches)} steps: strength, change, divergence")
        for point in curve:
            print(f"  {point.strength:<10g}{point.change:<10.3f}{point.divergence:.3f}")
        summary["curve"] = [point._asdict() for point in curve]
    out = arguments.out or trained.directory.path / "explain"
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=2) + "\n"
    (out / "adversarial.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
