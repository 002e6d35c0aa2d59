// Words, and lines between those that attend and those that are attended to.
//
// Two lists with lines between them; a long sequence that attends to itself runs as a text, with
// lines only where the pointer is.

const LONGEST_LIST = 48;
const FAINTEST = 0.04; // lines below this share of the strongest are left out

function linesView(root) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const note = element("p", { class: "note" });
  let built = null;
  let flowing = false;
  let buttons = { query: [], key: [] };

  const tokenButton = (side, text, index) =>
    element(
      "button",
      { type: "button", class: "token", "data-side": side, "data-index": String(index), translate: "no" },
      element("bdi", {}, visible(text)),
    );

  function list(side, heading) {
    const set = built;
    const texts = page.tokens[side === "query" ? set.queries : set.keys];
    buttons[side] = texts.map((text, i) => tokenButton(side, text, i));
    return element("div", { class: "list", role: "group", "aria-label": heading }, element("h3", {}, heading), ...buttons[side]);
  }

  function build(set) {
    built = set;
    flowing = set.queries === set.keys && set.T > LONGEST_LIST;
    root.classList.toggle("flow", flowing);
    if (flowing) {
      const texts = page.tokens[set.queries];
      buttons.query = buttons.key = texts.map((text, i) => tokenButton("both", text, i));
      const text = element("div", { class: "text", role: "group", "aria-label": "words" }, ...buttons.query);
      root.replaceChildren(element("div", { class: "canvas" }, text, svg), note);
      return;
    }
    const self = set.queries === set.keys;
    const query = list("query", self ? "attends" : `${set.queries}: attends`);
    const key = list("key", self ? "is attended to" : `${set.keys}: is attended to`);
    // Of a translation the source stands at the left, whichever side attends.
    const sides = !self && set.queries === "target" ? [key, query] : [query, key];
    root.replaceChildren(element("div", { class: "canvas columns" }, sides[0], svg, sides[1]), note);
  }

  function focusOf(target) {
    const button = target.closest?.(".token");
    if (!button) return null;
    const index = Number(button.dataset.index);
    if (button.dataset.side === "both") return pointed(index);
    return button.dataset.side === "query" ? { query: index, key: null } : { query: null, key: index };
  }

  root.addEventListener("pointerover", (event) => hover(focusOf(event.target)));
  root.addEventListener("pointerleave", () => hover(null));
  root.addEventListener("focusin", (event) => hover(focusOf(event.target)));
  root.addEventListener("focusout", () => hover(null));
  root.addEventListener("click", (event) => {
    const focus = focusOf(event.target);
    if (focus) pin(focus);
  });

  // The path between two words, in the coordinates of the drawing.
  function path(query, key) {
    const from = svg.getBoundingClientRect();
    const place = (button) => {
      const box = button.getBoundingClientRect();
      return { x: box.left + box.width / 2 - from.left, y: box.top - from.top, middle: box.top + box.height / 2 - from.top, left: box.left - from.left };
    };
    const a = place(buttons.query[query]);
    const b = place(buttons.key[key]);
    if (flowing) {
      const high = Math.min(a.y, b.y) - 12 - Math.abs(a.x - b.x) / 12;
      return `M${a.x},${a.y} C${a.x},${high} ${b.x},${high} ${b.x},${b.y}`;
    }
    const [left, right] = a.left < b.left ? [a, b] : [b, a];
    const width = from.width;
    return `M0,${left.middle} C${width / 2},${left.middle} ${width / 2},${right.middle} ${width},${right.middle}`;
  }

  function wanted({ query, key }, set) {
    if (query != null && key != null) return [[query, key]];
    const keys = key != null ? [key] : [...Array(set.S).keys()];
    const queries = query != null ? [query] : [...Array(set.T).keys()];
    return queries.flatMap((q) => keys.map((k) => [q, k]));
  }

  function draw({ set, map, head, name }, focus) {
    if (built !== set) build(set);
    const matrix = matrixOf(map, head);
    const weight = (q, k) => matrix[q * set.S + k];
    const nothing = focus.query == null && focus.key == null;
    const line = nothing ? matrix : lineOf(map, head, focus);
    const limit = largestOf(line);
    const lines = nothing && flowing ? [] : wanted(focus, set);

    const paths = [];
    for (const [q, k] of lines) {
      const strong = strength(weight(q, k), limit);
      if ((strong < FAINTEST && lines.length > 1) || (flowing && q === k)) continue;
      const drawn = document.createElementNS("http://www.w3.org/2000/svg", "path");
      drawn.setAttribute("d", path(q, k));
      drawn.setAttribute("stroke-width", (0.6 + 4.4 * strong).toFixed(2));
      drawn.setAttribute("stroke-opacity", ((nothing ? 0.75 : 0.95) * strong).toFixed(3));
      if (weight(q, k) < 0) drawn.classList.add("against");
      Object.assign(drawn.dataset, { query: q, key: k, weight: weight(q, k) });
      paths.push(drawn);
    }
    svg.replaceChildren(...paths);

    for (const button of new Set([...buttons.query, ...buttons.key])) {
      button.classList.remove("chosen");
      button.style.removeProperty("--weight");
    }
    if (!nothing) {
      const ends = focus.query != null ? buttons.key : buttons.query;
      ends.forEach((button, i) => button.style.setProperty("--weight", strength(line[i], limit).toFixed(3)));
      if (focus.query != null) buttons.query[focus.query].classList.add("chosen");
      if (focus.key != null) buttons.key[focus.key].classList.add("chosen");
    }
    note.textContent = nothing
      ? flowing
        ? `${name}. Point at a word.`
        : `${name}. Every line is a weight; the thickest is ${short(limit)}.`
      : `${name}. The strongest here is ${short(limit)}.`;
  }

  return { draw };
}
