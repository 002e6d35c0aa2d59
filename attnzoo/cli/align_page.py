"""A page to walk through aligned sentence pairs by error, in a browser without network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.alignment.links import Link, Links
from attnzoo.alignment.scores import count_links
from attnzoo.errors import UserError
from attnzoo.files import write_text

LARGEST = 100_000
"""Most pairs of a page."""


def write_page(
    path: Path, alignments: Sequence[Any], references: Sequence[Links], *, restrict: bool = False
) -> None:
    """Write the page: a list of pairs by their number of errors, and the links of one of them.

    An error is a sure link that was not found, or a link that is not possible.
    """
    if len(alignments) > LARGEST:
        raise UserError(f"--page: {len(alignments):,} pairs, wanted at most {LARGEST:,}")
    pairs = []
    for number, (one, reference) in enumerate(zip(alignments, references, strict=True)):
        counts = count_links(set(one.links), reference, restrict=restrict)
        missed = counts.sure - counts.in_sure
        pairs.append(
            {
                "n": number + 1,
                "e": missed + counts.hypothesis - counts.in_possible,
                "aer": None if counts.aer != counts.aer else round(counts.aer, 3),
                "s": list(one.source),
                "t": list(one.target),
                "links": [[i, j, round(score, 3)] for (i, j), score in one.links.items()],
                "grey": sorted(_unjudged(set(one.links), reference)) if restrict else [],
                "sure": sorted(reference.sure),
                "possible": sorted(reference.possible - reference.sure),
            }
        )
    # "</script>" within a word would end the data.
    data = json.dumps(pairs, ensure_ascii=False).replace("<", "\\u003c")
    write_text(path, PAGE.replace("DATA", data))


def _unjudged(links: set[Link], reference: Links) -> set[Link]:
    """Return the links of words without reference links, which `restrict` leaves out."""
    sources = {i for i, _ in reference.possible}
    targets = {j for _, j in reference.possible}
    return {(i, j) for i, j in links if i not in sources or j not in targets}


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Word alignments</title>
<style>
body { font: 14px system-ui, sans-serif; margin: 0; display: flex; height: 100vh }
nav { width: 22em; overflow: auto; border-right: 1px solid #ccc; flex: none }
nav div { padding: 2px 8px; white-space: nowrap; overflow: hidden; cursor: pointer }
nav div.on { background: #def }
main { flex: 1; overflow: auto; padding: 8px }
.hit { stroke: #009E73; stroke-width: 2 } .false { stroke: #D55E00; stroke-width: 2 }
.miss { stroke: #E69F00; stroke-width: 2; stroke-dasharray: 5 4 }
.unjudged { stroke: #ccc } .possible { stroke: #bbb; stroke-dasharray: 2 3 }
text { text-anchor: middle; cursor: default }
</style>
<nav><p style="padding: 0 8px"><label>order
<select id="by"><option value="e">errors</option><option value="aer">error rate</option>
<option value="n">place in the text</option><option value="l">length</option></select></label>
<input id="find" placeholder="find a word" size="12"></p><section id="list"></section></nav>
<main><p id="head"></p><svg id="beads"></svg>
<p><span style="color:#009E73">hit</span>, <span style="color:#E69F00">missed sure link</span>,
<span style="color:#D55E00">false link</span>,
<span style="color:#999">possible link, or a word without
reference links</span>;
arrow keys walk through the list; a pointer on a word shows its links alone.</p></main>
<script>
const pairs = DATA;
const list = document.getElementById("list"), svg = document.getElementById("beads");
const key = { e: p => -p.e, aer: p => -(p.aer ?? -1), n: p => p.n,
  l: p => -p.s.length - p.t.length };
let shown = [], at = 0;
function order() {
  const by = document.getElementById("by").value;
  const word = document.getElementById("find").value.toLowerCase();
  shown = pairs.filter(p => !word || [...p.s, ...p.t].some(w => w.toLowerCase().includes(word)));
  shown.sort((a, b) => key[by](a) - key[by](b) || a.n - b.n);
  list.replaceChildren(...shown.slice(0, 2000).map((p, k) => {
    const row = document.createElement("div");
    row.textContent = `${p.n}: ${p.e} errors  ${p.s.join(" ")}`;
    row.onclick = () => show(k);
    return row;
  }));
  show(0);
}
function show(k) {
  const head = document.getElementById("head");
  if (!shown.length) { svg.replaceChildren(); head.textContent = "none"; return; }
  at = Math.max(0, Math.min(k, shown.length - 1));
  [...list.children].forEach((row, n) => row.classList.toggle("on", n === at));
  list.children[at]?.scrollIntoView({ block: "nearest" });
  const p = shown[at], context = document.createElement("canvas").getContext("2d");
  context.font = "14px system-ui, sans-serif";
  const place = words => { let x = 10; return words.map(w => {
    const width = context.measureText(w).width + 14; x += width; return x - width / 2; }); };
  const xs = place(p.s), xt = place(p.t), wide = Math.max(0, ...xs, ...xt) + 80;
  const name = l => l[0] + "-" + l[1], sure = new Set(p.sure.map(name));
  const grey = new Set(p.grey.map(name));
  const possible = new Set(p.possible.map(name)), own = new Set(p.links.map(name));
  const lines = [
    ...p.possible.filter(l => !own.has(name(l))).map(l => ["possible", l]),
    ...p.sure.filter(l => !own.has(name(l))).map(l => ["miss", l]),
    ...p.links.map(l => [sure.has(name(l)) || possible.has(name(l)) ? "hit"
      : grey.has(name(l)) ? "unjudged" : "false", l])];
  const made = (tag, fields, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(fields)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    return node; };
  svg.setAttribute("width", wide); svg.setAttribute("height", 240);
  svg.replaceChildren(...lines.map(([kind, [i, j, score]]) => {
    const line = made("line", { x1: xs[i], y1: 40, x2: xt[j], y2: 200, class: kind });
    line.dataset.s = i; line.dataset.t = j;
    const said = `${p.s[i]} - ${p.t[j]}: ${kind} ${score ?? ""}`;
    line.append(made("title", {}, said));
    return line; }));
  const rows = [[p.s, xs, 30, "s"], [p.t, xt, 218, "t"]];
  rows.forEach(([words, x, y, side]) => words.forEach((w, n) => {
    const text = made("text", { x: x[n], y }, w);
    text.onmouseenter = () => svg.querySelectorAll("line").forEach(l =>
      l.style.display = l.dataset[side] == n ? "" : "none");
    text.onmouseleave = () => svg.querySelectorAll("line").forEach(l => l.style.display = "");
    svg.append(text); }));
  head.textContent =
    `pair ${p.n} (${at + 1} of ${shown.length}): ${p.e} errors, error rate ${p.aer ?? "none"}`;
}
document.getElementById("by").onchange = document.getElementById("find").oninput = order;
addEventListener("keydown", event => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (step && event.target.tagName !== "SELECT" && event.target.tagName !== "INPUT") {
    show(at + step); event.preventDefault(); }
});
order();
</script></html>
"""
