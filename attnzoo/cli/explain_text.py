"""What a text model says at one place, and which tokens it says it by."""

import argparse
import json
from pathlib import Path
from typing import Any

from attnzoo.cli.explain_question import Question, question
from attnzoo.errors import UserError

ROWS = 128
"""Texts with tokens taken away that are read together."""


def explain(trained: Any, arguments: argparse.Namespace) -> int:
    """Figures, a page and a table for each text."""
    if arguments.fill == "blur":
        raise UserError("--fill blur is for images; wanted zero, mean, unk or mask")
    for number, text in enumerate(arguments.inputs, start=1):
        asked = question(trained, text, arguments)
        found = _Explained(trained, asked, arguments)
        found.print(text)
        name = f"text-{number}"
        found.draw(arguments.out / name)
        found.page(arguments.html or arguments.out / f"{name}.html")
        found.write(arguments.out / f"{name}.json")
    print(f"written: {arguments.out}")
    return 0


class _Explained:
    """A question with the model's answer, maps, scores and their areas."""

    def __init__(self, trained: Any, asked: Question, arguments: argparse.Namespace):
        import jax
        import jax.numpy as jnp
        import numpy as np

        from attnzoo.explain.capture import attention_names, capture_attention

        self.asked = asked
        model, tokens = trained.model, jnp.asarray([asked.ids], jnp.int32)
        keywords: dict[str, Any] = {
            name: jnp.asarray([v], jnp.int32) for name, v in asked.keywords.items()
        }
        try:
            attention_names(model, tokens, **keywords)
        except ValueError as error:  # no attention
            raise UserError(f"{arguments.run}: {error}") from None
        said, maps = capture_attention(model, tokens, **keywords)
        self.maps = {name: np.asarray(weights[0], np.float32) for name, weights in maps.items()}
        place = asked.at
        logits = said[0] if place is None else said[0, place]
        self.probabilities = np.asarray(jax.nn.softmax(logits.astype(jnp.float32)))
        own = int(self.probabilities.argmax())
        self.target = own if asked.target is None else asked.target
        self.layer = _within("--layer", arguments.layer, len(self.maps), "layers")
        names = list(self.maps)
        heads = len(self.maps[names[-1 if self.layer is None else self.layer]])
        self.head = _within("--head", arguments.head, heads, "heads")
        self._score(model, tokens, keywords, arguments)

    def _score(self, model: Any, tokens: Any, keywords: Any, arguments: Any) -> None:
        """Scores of all tokens by each method, and the areas under their curves."""
        import jax
        import jax.numpy as jnp
        import numpy as np
        from flax import nnx

        from attnzoo.explain.faithfulness import deletion, insertion, leave_one_out
        from attnzoo.explain.tokens import explain_tokens, tokens_score

        asked, target = self.asked, self.target

        def at(output: Any) -> Any:
            return output if asked.at is None else output[:, asked.at]

        def probability(output: Any) -> Any:
            return jax.nn.softmax(at(output).astype(jnp.float32), axis=-1)[:, target]

        graph, state = nnx.split(model)
        settings: dict[str, Any] = {
            "steps": arguments.draws,
            "layer": -1 if self.layer is None else self.layer,
            "head": self.head,
        }

        def run(gradients: bool) -> Any:
            @jax.jit
            def compiled(state: Any, tokens: Any, keywords: Any) -> Any:
                return explain_tokens(
                    nnx.merge(graph, state),
                    lambda output: at(output)[:, target],
                    asked.at or 0,
                    tokens,
                    gradients=gradients,
                    **settings,
                    **keywords,
                )

            return compiled(state, tokens, keywords)

        try:
            found = run(True)
        except NotImplementedError:  # weights that cannot be varied
            found = run(False)
        units = jnp.asarray(asked.units, jnp.int32)
        fill = _fill(model, asked, arguments.fill)
        score = tokens_score(model, probability, tokens, units, fill, **keywords)
        alone = leave_one_out(score, (1, len(asked.units)))
        self.scores = {name: np.asarray(v[0], np.float32) for name, v in found.items()}
        erased = np.zeros(len(asked.ids), np.float32)
        erased[asked.units] = np.asarray(alone[0])
        self.scores["erasure"] = erased
        coin = np.random.default_rng(arguments.seed)
        random = coin.random((arguments.draws, len(asked.units)))
        every = np.stack([v[asked.units] for v in self.scores.values()])
        importance = jnp.asarray(np.concatenate([every, random]), jnp.float32)
        areas = []
        for curve in (deletion, insertion):
            parts = [
                curve(score, importance[i : i + ROWS], steps=min(18, len(asked.units))).area
                for i in range(0, len(importance), ROWS)
            ]
            area = np.concatenate([np.asarray(part) for part in parts])
            by_method = dict(zip(self.scores, area[: len(every)].tolist(), strict=True))
            areas.append({**by_method, "random": float(area[len(every) :].mean())})
        self.deletion, self.insertion = areas

    @property
    def _order(self) -> list[str]:
        """The methods, the most faithful first."""
        return sorted(self.scores, key=lambda name: self.deletion[name])

    def _shown(self, name: str) -> Any:
        """Scores of what can be taken away, 0 elsewhere: a class token's own share is often all."""
        import numpy as np

        shown = np.zeros(len(self.asked.ids), np.float32)
        shown[self.asked.units] = self.scores[name][self.asked.units]
        return shown

    def _says(self, token: int) -> str:
        return f"{self.asked.name(token)} {self.probabilities[token]:.2f}"

    @property
    def _title(self) -> str:
        asked = self.asked
        title = f"{asked.about}: {asked.name(self.target)}"
        title += f", probability {self.probabilities[self.target]:.2f}"
        own = int(self.probabilities.argmax())
        return title if own == self.target else f"{title} (the model says {self._says(own)})"

    def print(self, text: str) -> None:
        """The answer and the table."""
        first = self.probabilities.argsort()[::-1][:4].tolist()
        print(f"{text}\n{self._title}; most likely: {', '.join(map(self._says, first))}")
        print(f"  {'':<21} {'deletion':>9} {'insertion':>10}  tokens that matter most")
        for name in sorted(self.deletion, key=lambda name: self.deletion[name]):
            words = ""
            if name in self.scores:
                ranked = sorted(self.asked.units, key=lambda i: -self.scores[name][i])[:4]
                words = " ".join(self.asked.labels[i] for i in ranked)
            line = f"{self.deletion[name]:9.3f} {self.insertion[name]:10.3f}  {words}"
            print(f"  {name:<21} {line}")

    def draw(self, path: Path) -> None:
        """Words by method, the heads of every layer, and a strip of the layers."""
        import numpy as np

        from attnzoo import plotting
        from attnzoo.plotting import save

        random = self.deletion["random"]
        rows = [
            plotting.TokenRow(name, self._shown(name), f"{self.deletion[name]:.2f}")
            for name in self._order
        ]
        nothing = np.zeros(len(self.asked.ids))
        rows.append(plotting.TokenRow("random_order", nothing, f"{random:.2f}"))
        labels, marked = self.asked.labels, self.asked.at
        words = plotting.token_rows(
            labels, rows, title=self._title, notes="deletion area", marked=marked
        )

        def judged(name: str) -> str:
            return (
                f"deletion area by {name}: {self.deletion[name]:.2f}, by random order: "
                f"{random:.2f}; less is better"
            )

        heads = {
            f"layer {n}": {f"head {h}": one for h, one in enumerate(weights)}
            for n, weights in enumerate(self.maps.values())
        }
        strip = {f"layer {n}": w.mean(axis=0) for n, w in enumerate(self.maps.values())}
        strip["rollout"] = _rollout(list(self.maps.values()))
        figures = {
            "words": words,
            "heads": plotting.map_grid(
                heads, labels, labels, title=self._title, note=judged("attention")
            ),
            "layers": plotting.map_grid(
                {"mean": strip}, labels, labels, title=self._title, note=judged("rollout")
            ),
        }
        for name, figure in figures.items():
            for suffix in (".png", ".svg"):
                save(figure, path.with_name(f"{path.name}-{name}{suffix}"))

    def page(self, path: Path) -> None:
        """The page in which the maps are explored."""
        from attnzoo.explain.page import text_page
        from attnzoo.plotting import visible

        random = self.deletion["random"]
        scores = {
            name: (self._shown(name), f"deletion {self.deletion[name]:.2f}, random {random:.2f}")
            for name in self._order
        }
        labels = [visible(label) for label in self.asked.labels]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            text_page(self.maps, labels, title=self._title, scores=scores).save(path)
        except ValueError as error:  # larger than a page may be
            raise UserError(f"{self._title}: {error}") from None

    def write(self, path: Path) -> None:
        """All numbers, as JSON."""
        told = {
            "tokens": self.asked.labels,
            "answer": self.asked.name(self.target),
            "probability": float(self.probabilities[self.target]),
            "deletion": self.deletion,
            "insertion": self.insertion,
            "scores": {name: values.tolist() for name, values in self.scores.items()},
        }
        path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _within(option: str, value: int | None, count: int, what: str) -> int | None:
    if value is not None and not 0 <= value < count:
        raise UserError(f"{option} {value}: there are {count} {what}, 0 to {count - 1}")
    return value


def _rollout(maps: list[Any]) -> Any:
    import jax.numpy as jnp
    import numpy as np

    from attnzoo.explain.rollout import rollout

    return np.asarray(rollout([jnp.asarray(w)[None] for w in maps])[0])


def _fill(model: Any, asked: Question, name: str | None) -> Any:
    """The vector in place of a token that is taken away."""
    import jax.numpy as jnp

    from attnzoo.explain.tokens import token_table

    _, table = token_table(model)
    rows = table.table[...]
    specials = asked.specials
    name = ("mask" if "mask" in specials else "zero") if name is None else name
    if name == "zero":
        return jnp.zeros_like(rows[0])
    if name == "mean":
        return jnp.mean(rows, axis=0)
    if name not in ("mask", "unk") or name not in specials:
        known = ["zero", "mean", *(n for n in ("mask", "unk") if n in specials)]
        raise UserError(f"--fill {name}: wanted {', '.join(known)}")
    return rows[specials[name]]
