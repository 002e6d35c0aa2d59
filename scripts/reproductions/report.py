"""The page of verdicts, docs/reproductions.md, and its figures, made from the records alone."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from PIL import Image, PngImagePlugin

from attnzoo import plotting
from attnzoo.plotting.style import COLORS, MARKERS, SMALL_DPI, style
from reproductions.claim import Claim, Results
from reproductions.store import RESULTS, ROOT, read

PAGE = ROOT / "docs" / "reproductions.md"
FIGURES = ROOT / "docs" / "figures" / "reproductions"
PALETTE = 64
VERDICTS = ("reproduced", "partly", "not reproduced", "checked", "unfinished")
DIGEST = "values"
"""Name of the text in a PNG that holds the digest of the numbers it shows."""
PIXELS = "pixels"
"""Name of the text in a PNG that holds the digest of its own pixels."""

HEAD = """# Claims of papers, measured

See which claims of papers on attention come true with the code of this package, at the size of a
small machine. The title of a section is the paper's claim. The section says what was claimed,
what was measured here, and what that means; its table has the numbers, and its criterion, written
before measuring, decides the verdict. Lines that say what the title says are marked "title", the
others are side conditions. Reproduced: every line holds; partly: some do, and one of the title's
at least; not reproduced: none of the title's holds, whatever else does. A line that holds by
construction is marked as a check: it tests the program, is no evidence, and does not count; a
claim with no other lines is "checked". A line that does not hold is contradicted if its whole
interval is on the other side, and undecided if its interval has both sides; a claim is "not
reproduced, undecided" if all lines of its title are undecided: that is no evidence for the
opposite. Claims that fail stay on this page.

Criteria were committed before the records, and the history shows it, but for two claims whose
criterion and first record share a commit, so that their order cannot be seen:
`alignment-by-agreement` and `bilateral-keeps-edges`. Which lines are the title's, and what it means
that a claim fails, was written after measuring; verdicts only became stricter by it, and some
titles narrower. Sizes and steps were chosen with other seeds than those reported, with two
exceptions, where records of the same seeds were replaced: `induction-heads`, whose task, model and
steps were changed after the first, and `constant-step`, measured again with a faster program.

Models are small, so that every number can be measured on two cores of a CPU: a claim that fails
here may hold at the paper's size. ± is half of the 95 % interval of the mean over seeds
(Student's t, which can exceed the range of a share); with one seed, half of the number's own
interval. A bound such as "≥ 0.9" is for the mean, before rounding; "is above" is for the whole
interval of the difference, paired by seed. A number such as "softmax/16" is the point of a curve:
of "softmax" at 16 on the figure's axis. Behind each line of a criterion is the number that it
compares, a mean or a mean difference, with the ends of its interval.

```sh
python scripts/reproduce.py list                     # claims, papers, cost
python scripts/reproduce.py run induction-heads      # measure; once stopped, it goes on
python scripts/reproduce.py run all --quick          # every program in a small form, in minutes
python scripts/reproduce.py report                   # this page and its figures from the numbers
```

The numbers are in `docs/reproductions/`, one file per claim, with seeds, times, versions and
processor; this page is generated from them, and a test checks that they agree.
`python scripts/data.py get` lists the data sets; a claim without one generates its data.
"""


def digest(claim: Claim, results: Results) -> str:
    """Return a digest of the numbers that a figure shows."""
    text = json.dumps([claim.name, {str(k): v for k, v in results.seeds.items()}])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def page(claims: Mapping[str, Claim], folder: Path = RESULTS) -> str:
    """Return the page of verdicts; claims that were never measured are named at its end."""
    found = {name: read(claim, folder) for name, claim in claims.items()}
    measured = {name: record for name, record in found.items() if record.seeds}
    verdicts = {name: claims[name].verdict(r.results) for name, r in measured.items()}
    counts = Counter(verdicts.values())
    lines = [HEAD, "", ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]) + ".", ""]
    lines += ["| claim | source | verdict |", "|---|---|---|"]
    for name, verdict in verdicts.items():
        claim = claims[name]
        verdict += ", undecided" * claim.undecided(measured[name].results)
        lines.append(f"| [{claim.title}](#{_anchor(claim.title)}) | {claim.source} | {verdict} |")
    for name, record in measured.items():
        lines += ["", *_section(claims[name], record.results, record.seeds)]
    missing = [claims[name] for name in found if name not in measured]
    if missing:
        lines += ["", "## Not measured yet", ""]
        lines += [f"- {claim.title} ({claim.source})" for claim in missing]
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _section(claim: Claim, results: Results, seeds: Mapping[int, Mapping]) -> list[str]:
    seconds = sum(one["cpu_seconds"] for one in seeds.values()) / len(seeds)
    processors = {str(one["machine"]["processor"]) for one in seeds.values()}
    verdict = claim.verdict(results)
    meanings = {"reproduced": claim.meaning, "checked": claim.meaning, "unfinished": ""}
    meaning = meanings.get(verdict, claim.otherwise)
    told = verdict.capitalize() + ", undecided" * claim.undecided(results)
    lines = [
        f"## {claim.title}",
        "",
        f"**{told}.** {claim.claimed} {claim.came(results)} {meaning}".rstrip(),
        "",
        f"*Source*: {claim.source}. *Here*: {claim.setup}",
        "",
    ]
    published = claim.published
    unit = claim.unit or claim.axes[1] or claim.axes[0]
    head, rule = f"| number | {unit or 'here'} |", "|---|---|"
    if published:
        head, rule = head + " published |", rule + "---|"
    lines += [head, rule]
    for name in results.names:
        row = f"| {name} | {shown(results, name)} |"
        if published:
            row += f" {published[name]:g} |" if name in published else " |"
        lines.append(row)
    lines += ["", "Criterion:", ""]
    for check in claim.criterion:
        outcome = check.outcome(results)
        mark = outcome if outcome == "holds" else f"**does not hold, {outcome}**"
        mark = "open" if verdict == "unfinished" else mark
        line = f"- {'*title*: ' * check.headline}{check.text}: {mark} ({check.came(results)})"
        lines.append(line + (f"; a check, not evidence: {check.certain}" if check.certain else ""))
    command = f"python scripts/reproduce.py run {claim.name}"
    where = "; ".join(sorted(processors))
    seed_names = ", ".join(str(seed) for seed in seeds)
    lines += [
        "",
        f"![{claim.title}](figures/reproductions/{claim.name}.png)",
        "",
        f"`{command}`; seeds {seed_names}; {_time(seconds)} of CPU a seed ({where}).",
    ]
    return lines


def _time(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def shown(results: Results, name: str) -> str:
    """Return a number as text, with half of its interval."""
    mean, (low, high) = results.mean(name), results.interval(name)
    half = (high - low) / 2
    if not math.isfinite(half):
        return f"{mean:.4g}"
    if half == 0:
        return f"{mean:.4g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def draw(claim: Claim, results: Results) -> Figure:
    """Return a claim's figure: its own, curves where numbers are curve/x, or a row a number."""
    if claim.figure is not None:
        return claim.figure(results)
    return _curves(claim, results) if results.curves() else _rows(claim, results)


def _curves(claim: Claim, results: Results) -> Figure:
    with style():
        figure = Figure(figsize=(4.6, 3.0), dpi=SMALL_DPI, layout="constrained")
        axes = figure.subplots()
        for n, (curve, points) in enumerate(results.curves().items()):
            color, marker = COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]
            xs = [x for x, _ in points]
            means = [results.mean(name) for _, name in points]
            ends = [results.interval(name) for _, name in points]
            lows, highs = [low for low, _ in ends], [high for _, high in ends]
            axes.fill_between(xs, lows, highs, color=color, alpha=0.18, linewidth=0)
            axes.plot(xs, means, color=color, marker=marker, markersize=4, label=curve)
            told = [(x, claim.published[name]) for x, name in points if name in claim.published]
            if told:
                axes.plot(*zip(*told), color=color, linestyle=":", marker=marker, fillstyle="none")
        axes.set(xlabel=claim.axes[0], ylabel=claim.axes[1] or claim.unit)
        xs = [x for points in results.curves().values() for x, _ in points]
        if all(x == round(x) for x in xs):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis, scale, base in zip((axes.xaxis, axes.yaxis), claim.scales, (2, 10)):
            if scale == "log":
                (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log", base=base)
                axis.set_major_formatter("{x:,g}")  # the default one writes TeX
                axis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False)
        if claim.published:
            axes.set_title("dotted: published", fontsize=8)
    return figure


def _rows(claim: Claim, results: Results) -> Figure:
    names = results.names
    with style():
        size = (5.2, 0.8 + 0.26 * len(names))
        figure = Figure(figsize=size, dpi=SMALL_DPI, layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(names):
            low, high = results.interval(name)
            if math.isfinite(low):
                axes.plot([low, high], [row, row], color=COLORS[0], linewidth=1.5)
            axes.plot(results.mean(name), row, color=COLORS[0], marker="o", markersize=5)
            if name in claim.published:
                axes.plot(
                    claim.published[name], row, color=COLORS[1], marker="D", markersize=5,
                    fillstyle="none",
                )  # fmt: skip
        axes.set_yticks(range(len(names)), labels=names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(claim.axes[0] or claim.unit)
        axes.grid(axis="x", alpha=0.25)
        if claim.published:
            axes.set_title("diamonds: published", fontsize=8)
    return figure


def _seen(picture: Image.Image) -> str:
    return hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()[:16]


def save_figure(claim: Claim, results: Results, folder: Path = FIGURES) -> Path:
    """Write a claim's figure, with digests of its numbers and of its pixels inside the file."""
    path = plotting.save(draw(claim, results), folder / f"{claim.name}.png", palette=PALETTE)
    noted = PngImagePlugin.PngInfo()
    noted.add_text(DIGEST, digest(claim, results))
    with Image.open(path) as picture:
        picture.load()
        noted.add_text(PIXELS, _seen(picture))
        picture.save(path, pnginfo=noted, optimize=True)
    return path


def stale(claims: Mapping[str, Claim], folder: Path = RESULTS) -> list[str]:
    """Return what does not agree: records without a claim, figures, the page; empty if all does."""
    names = sorted(path for path in folder.glob("*.json") if path.stem not in claims)
    wrong = [f"{path}: a record without a claim" for path in names]
    for name, claim in claims.items():
        record = read(claim)
        if not record.seeds:
            continue
        path = FIGURES / f"{name}.png"
        if not path.exists():
            wrong.append(f"{path}: missing")
            continue
        with Image.open(path) as picture:
            if picture.info.get(DIGEST) != digest(claim, record.results):
                wrong.append(f"{path}: shows other numbers")
            elif picture.info.get(PIXELS) != _seen(picture):
                wrong.append(f"{path}: another picture was put in its place")
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page(claims):
        wrong.append(f"{PAGE}: says something else")
    return wrong
