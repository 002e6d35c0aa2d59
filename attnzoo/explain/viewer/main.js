// Puts the views together: controls, keys, what is said of the focus, and one drawing a frame.

const at = (id) => document.getElementById(id);
const wordList = (side) => page.tokens[chosen().set[side === "query" ? "queries" : "keys"]];

function options(select, values, texts) {
  const key = JSON.stringify([values, texts]);
  if (select.dataset.key === key) return;
  select.dataset.key = key;
  select.replaceChildren(...values.map((value, i) => element("option", { value: String(value) }, texts[i])));
}

const headValue = (text) => (/^\d+$/.test(text) ? Number(text) : text);

function drawControls({ set, map, head }) {
  options(at("set"), [...page.sets.keys()], page.sets.map((each) => each.label));
  options(at("layer"), [...set.maps.keys()], set.maps.map((each) => each.name));
  options(
    at("head"),
    headsOf(map),
    headsOf(map).map((each) => (typeof each === "number" ? `head ${each}` : `${each} of all`)),
  );
  at("set").value = String(state.set);
  at("layer").value = String(set.maps.indexOf(map));
  at("head").value = String(head);
}

function drawReadout({ set, map, head }, focus) {
  const { query, key } = focus;
  const queryName = (t) => tokenName(wordList("query")[t]);
  const keyName = (s) => tokenName(wordList("key")[s]);
  let text = `Point at a ${page.kind === "image" ? "patch" : "word"} or at a cell of the matrix.`;
  if (query != null && key != null) {
    const weight = matrixOf(map, head)[query * set.S + key];
    text = `${queryName(query)} attends to ${keyName(key)}: ${short(weight)}`;
  } else if (query != null || key != null) {
    const line = lineOf(map, head, focus);
    // What is within the error of the codes is not named.
    const told = 0.004 * largestOf(line);
    const best = [...line.keys()]
      .filter((i) => Math.abs(line[i]) > told)
      .sort((a, b) => Math.abs(line[b]) - Math.abs(line[a]))
      .slice(0, 5);
    const name = query != null ? keyName : queryName;
    const list = best.map((i) => `${name(i)} ${short(line[i])}`).join(" · ") || "nothing";
    text =
      query != null
        ? `${queryName(query)} attends to: ${list}`
        : `${keyName(key)} is attended to by: ${list}`;
  }
  const explained = page.explanations?.[state.explanation];
  const patch = (query ?? key ?? -1) - (page.image?.extra ?? 0);
  if (explained && patch >= 0) text += ` · ${plainName(explained)} ${explained.scores[patch]}`;
  at("readout").textContent = text;
}

function start() {
  readColors();
  at("title").textContent = page.title || "Attention";
  at("unit").textContent = page.kind === "image" ? "patch" : "word";
  at("precision").textContent =
    "Weights are kept in 8 bits: each is within " +
    `${page.levels === 255 ? "0.4" : "0.8"} % of the largest of its row, small ones closer. ` +
    (page.levels === 255 ? "" : "Negative weights are violet. ") +
    (page.links?.length ? "Orange frames are links between words. " : "") +
    "What attention looks at need not be what the answer depends on.";
  at("set").parentElement.hidden = page.sets.length === 1;

  const view = page.kind === "image" ? imageView(at("view")) : linesView(at("view"));
  const matrix = matrixView(at("matrix"));
  const heads = headsView(at("heads"), at("heads-note"));
  const explanations = explanationsView(at("explanations"));
  let theme = 0;

  function draw() {
    const choice = chosen();
    const { set } = choice;
    const focus = effective();
    // Two lists say by themselves who attends; a text and an image do not.
    at("incoming").parentElement.hidden = !(page.kind === "image" || at("view").classList.contains("flow"));
    drawControls(choice);
    view.draw(choice, focus);
    matrix.draw(focus);
    heads.draw(choice, focus, theme);
    explanations.draw();
    drawReadout(choice, focus);
    at("incoming").checked = state.incoming;
    at("lift").checked = state.lift;
    document.body.dataset.drawn = `${set.label} ${choice.name}`;
  }

  // An image without a focus shows its first token of no patch, if there is one.
  function effective() {
    const focus = focused();
    const nothing = focus.query == null && focus.key == null;
    return nothing && page.image?.extra ? pointed(0) : focus;
  }

  let asked = false;
  askToDraw = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };

  function recolor() {
    theme += 1;
    readColors();
    askToDraw();
  }

  at("set").addEventListener("change", (event) => pickSet(Number(event.target.value)));
  for (const id of ["layer", "head"]) {
    at(id).addEventListener("change", () => pick(Number(at("layer").value), headValue(at("head").value)));
  }
  at("lift").addEventListener("change", (event) => look({ lift: event.target.checked }));
  at("incoming").addEventListener("change", (event) => {
    const swap = (focus) => focus && { query: focus.key, key: focus.query };
    look({ incoming: event.target.checked, pinned: swap(state.pinned), hovered: swap(state.hovered) });
  });
  at("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.style.colorScheme || (dark ? "dark" : "light");
    document.documentElement.style.colorScheme = now === "dark" ? "light" : "dark";
    recolor();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  new ResizeObserver(askToDraw).observe(document.body);
  document.addEventListener("keydown", onKey);
  draw();
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  if (event.key === "Escape") {
    document.activeElement?.blur();
    look({ pinned: null, hovered: null, explanation: null });
    return;
  }
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  const [down, across] = step;
  if (event.shiftKey) moveFocus(down, across);
  else if (down) pick(state.picks[state.set].layer + down, state.picks[state.set].head);
  else stepHead(across);
}

// To the word or patch beside the one in focus; from anywhere else to the first.
function moveFocus(down, across) {
  const from = document.activeElement;
  const mine = (button) => button.parentElement === from?.parentElement;
  const all = [...at("view").querySelectorAll("[data-index]")];
  const group = all.filter(mine);
  const lists = at("view").querySelectorAll(".list");
  let to = all[0];
  if (from?.matches(".patch")) {
    const { rows, columns } = page.image;
    const place = group.indexOf(from);
    const row = Math.min(rows - 1, Math.max(0, Math.floor(place / columns) + down));
    const column = Math.min(columns - 1, Math.max(0, (place % columns) + across));
    to = group[row * columns + column];
  } else if (lists.length && across && group.length) {
    const other = [...lists[across > 0 ? 1 : 0].querySelectorAll(".token")];
    to = other[Math.min(other.length - 1, group.indexOf(from))];
  } else if (group.length) {
    to = group[Math.min(group.length - 1, Math.max(0, group.indexOf(from) + (down || across)))];
  }
  to.focus();
}

if (typeof DecompressionStream === "undefined") {
  at("readout").textContent =
    "This browser cannot unpack the weights (DecompressionStream): use one of 2023 or later.";
} else {
  await unpackWeights();
  start();
  // For programs: the weights as they are shown, and what is looked at.
  window.attnzoo = Object.freeze({
    sets: page.sets.map(({ label, direction, maps }) => ({
      label,
      direction,
      maps: maps.map(({ name, heads }) => ({ name, heads })),
    })),
    matrix: (name, head, direction = page.sets[0].direction) => {
      const sets = page.sets.filter((each) => each.direction === direction);
      const map = sets.flatMap((each) => each.maps).find((each) => each.name === name);
      const { T, S } = map.of;
      const values = matrixOf(map, head);
      return Array.from({ length: T }, (_, t) => Array.from(values.subarray(t * S, (t + 1) * S)));
    },
    state: () => ({ ...structuredClone(state), ...state.picks[state.set], layerName: chosen().map.name }),
  });
}
