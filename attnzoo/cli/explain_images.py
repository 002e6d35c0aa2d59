"""What an image model answers by, by every method, and whether to believe it."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnzoo.errors import UserError

BATCH = 50
STEPS = 18
"""Steps of a curve, at most: a ViT-B has 196 patches."""


def _explain(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "count", "draws")
    import jax.numpy as jnp
    import numpy as np

    from attnzoo.data.augment import normalise, to_float
    from attnzoo.data.images import load_images
    from attnzoo.explain.agreement import bootstrap
    from attnzoo.models.vit import ViT
    from attnzoo.training.run import load_run

    compilation_cache()
    trained = load_run(arguments.run, which=arguments.which)
    if not isinstance(trained.model, ViT):
        raise UserError(
            f"{arguments.run}: a {type(trained.model).__name__}; wanted a run with model.kind=vit"
        )
    task: Any = trained.task
    data = load_images(trained.config.data)
    part = "test" if len(data.test) else "validation"
    images = getattr(data, part)
    wrong = [n for n in arguments.images if not 0 <= n < len(images)]
    if wrong:
        raise UserError(f"--images {wrong[0]}: {part} has the images 0 to {len(images) - 1}")
    classes = images.labels
    if arguments.target is not None:
        if not 0 <= arguments.target < len(task.names):
            raise UserError(
                f"--target {arguments.target}: there are {len(task.names)} classes, 0 to "
                f"{len(task.names) - 1} ({', '.join(task.names)})"
            )
        classes = np.full_like(classes, arguments.target)
    planted = _planted(trained.config.data, part)
    rows = sorted({*range(min(arguments.count, len(images))), *arguments.images})
    measure = _measure(trained.model, arguments)
    found: dict[str, list[Any]] = {}
    for start in range(0, len(rows), BATCH):
        chunk = np.asarray(rows[start : start + BATCH])
        # A short last chunk is filled up, so that all is compiled once.
        filled = np.resize(chunk, min(BATCH, len(rows)))
        pixels = normalise(
            to_float(jnp.asarray(images.images[filled])),
            jnp.asarray(task.mean),
            jnp.asarray(task.std),
        )
        batch = measure(pixels, jnp.asarray(classes[filled]), start)
        for name, values in batch.items():
            found.setdefault(name, []).append({k: v[: len(chunk)] for k, v in values.items()})
    table = {
        name: {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
        for name, batches in found.items()
    }
    at = {row: i for i, row in enumerate(rows)}
    counted = [at[n] for n in range(min(arguments.count, len(images)))]
    out = arguments.out or trained.directory.path / "explain"
    summary = {}
    for name, values in table.items():
        line = {k: bootstrap(values[k][counted]) for k in ("deletion", "insertion")}
        if planted is not None:
            hits = values["scores"][counted].argmax(axis=1) == planted[: len(counted)]
            line = {"hit": bootstrap(hits), **line}
        summary[name] = line
    _print(summary, len(counted), part, arguments)
    out.mkdir(parents=True, exist_ok=True)
    (out / "faithfulness.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for n in arguments.images:
        values = {name: {k: v[at[n]] for k, v in each.items()} for name, each in table.items()}
        mark = None if planted is None else int(planted[n])
        title = f"{part} image {n}, class {task.names[images.labels[n]]}"
        if arguments.target is not None:
            title += f", explained for class {task.names[arguments.target]}"
        _draw(images.images[n], values, title, mark, trained.model, out / f"{part}-{n}.png")
    print(f"written: {out}")
    return 0


def _measure(model: Any, arguments: argparse.Namespace) -> Callable[..., dict[str, Any]]:
    """A function that gives of each method the scores, and the areas under its curves."""
    import jax
    import numpy as np
    from flax import nnx

    from attnzoo.explain import faithfulness
    from attnzoo.explain.vit import explain_vit, flow_of

    graph, state = nnx.split(model)
    patch, fill = model.config.patch, arguments.fill

    @jax.jit
    def compiled(state: Any, images: Any, classes: Any, key: Any, given: Any) -> dict[str, Any]:
        model: Any = nnx.merge(graph, state)
        key, noise = jax.random.split(key)
        scores = explain_vit(model, images, classes, key, draws=arguments.draws) | given
        score = faithfulness.images_score(model, images, classes, patch, fill=fill)
        shape = next(iter(scores.values())).shape
        scores["leave_one_out"] = faithfulness.leave_one_out(score, shape)
        scores["random"] = faithfulness.random_importance(noise, shape)

        steps = min(STEPS, shape[1])

        def areas(importance: Any) -> tuple[Any, Any]:
            deleted = faithfulness.deletion(score, importance, steps=steps)
            return deleted.area, faithfulness.insertion(score, importance, steps=steps).area

        deletion, insertion = jax.lax.map(areas, jax.numpy.stack(list(scores.values())))
        return {
            name: {"scores": one, "deletion": deletion[i], "insertion": insertion[i]}
            for i, (name, one) in enumerate(scores.items())
        }

    def measure(images: Any, classes: Any, start: int) -> dict[str, Any]:
        given = {}
        if arguments.flow:
            given["flow"] = jax.numpy.asarray(flow_of(model, images), jax.numpy.float32)
        key = jax.random.fold_in(jax.random.key(arguments.seed), start)
        return jax.tree.map(np.asarray, compiled(state, images, classes, key, given))

    return measure


def _planted(config: Any, part: str) -> Any:
    """The planted patch of each image, where the data has one."""
    if config.source.kind != "planted" or not getattr(config.source, part):
        return None
    from attnzoo.data.planted import planted_patches

    return planted_patches(config.source, part)


def _print(summary: dict[str, Any], count: int, part: str, arguments: argparse.Namespace) -> None:
    print(f"{count} images of {part}; removed patches are the image's {arguments.fill}")
    print("areas of probability: deletion, less is better, and insertion, more is better;")
    print("in brackets 95 % of bootstrapped means")
    first = next(iter(summary.values()))
    print(f"  {'':<21}" + "".join(f"{name:<24}" for name in first))
    best = sorted(summary.items(), key=lambda item: item[1]["deletion"].mean)
    for name, line in best:
        print(f"  {name:<21}" + "".join(f"{interval!s:<24}" for interval in line.values()))


def _draw(
    image: Any, values: dict[str, Any], title: str, mark: int | None, model: Any, path: Path
) -> None:
    import numpy as np

    from attnzoo import plotting, plotting_explain

    columns = image.shape[1] // model.config.patch
    random = values["random"]
    panels = [
        plotting_explain.Overlay(
            name,
            each["scores"].reshape(-1, columns),
            f"del {each['deletion']:.2f} ({random['deletion']:.2f} random)\n"
            f"ins {each['insertion']:.2f} ({random['insertion']:.2f})",
        )
        for name, each in values.items()
    ]
    marked = None if mark is None else divmod(mark, columns)
    figure = plotting_explain.overlays(
        image.astype(np.float64) / 255, panels, title=title, marked=marked
    )
    plotting.save(figure, path)
