// The weights of a head as a matrix: queries by row, keys by column. Of a translation that is given
// in both directions two matrices, both with target words by row.

const TALLEST = 560;

function matrixView(root) {
  const panels = new Map();

  function panel(number) {
    if (panels.has(number)) return panels.get(number);
    const canvas = element("canvas", { role: "img" });
    const caption = element("button", { type: "button", class: "caption" });
    const note = element("figcaption", { class: "note" });
    const figure = element("figure", {}, caption, canvas, note);
    const made = { number, canvas, caption, note, figure, shape: null, cells: document.createElement("canvas") };
    canvas.addEventListener("pointermove", (event) => hover(cellAt(made, event)));
    canvas.addEventListener("pointerleave", () => hover(null));
    canvas.addEventListener("click", (event) => {
      const cell = cellAt(made, event);
      if (cell) pin(cell);
    });
    caption.addEventListener("click", () => pickSet(number));
    panels.set(number, made);
    return made;
  }

  // The cell under the pointer, as a focus of the current set.
  function cellAt({ number, canvas, shape }, event) {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - shape.top) / shape.cell);
    const column = Math.floor((event.clientX - box.left - shape.left) / shape.cell);
    if (row < 0 || column < 0 || row >= shape.rows || column >= shape.columns) return null;
    const [query, key] = turned(number) ? [column, row] : [row, column];
    return sameWay(number) ? { query, key } : { query: key, key: query };
  }

  // Which sets stand side by side: the directions of cross-attention.
  function shown() {
    const set = page.sets[state.set];
    if (set.queries === set.keys) return [state.set];
    return page.sets.flatMap((other, i) => (other.queries !== other.keys ? [i] : []));
  }
  const turned = (number) => page.sets[number].queries === "source" && page.sets[number].keys === "target";
  const sameWay = (number) => page.sets[number].queries === page.sets[state.set].queries;

  function draw(focus) {
    const numbers = shown();
    const figures = numbers.map((number) => panel(number).figure);
    if (figures.length !== root.childElementCount || figures.some((f, i) => root.children[i] !== f)) {
      root.replaceChildren(...figures);
    }
    for (const number of numbers) drawPanel(panel(number), focus, numbers.length);
  }

  function drawPanel(made, focus, count) {
    const { number, canvas, cells } = made;
    const { set, map, head, name } = chosen(number);
    const values = matrixOf(map, head);
    const limit = largestOf(values);
    const turn = turned(number);
    const [rows, columns] = turn ? [set.S, set.T] : [set.T, set.S];
    const [down, across] = turn ? [set.keys, set.queries] : [set.queries, set.keys];
    const upright = turn ? Float32Array.from(values, (_, i) => values[(i % columns) * set.S + Math.floor(i / columns)]) : values;
    paint(cells, upright, columns, limit);

    const context = canvas.getContext("2d");
    context.font = "12px system-ui, sans-serif";
    const width = (words) => Math.min(110, Math.max(...words.map((w) => context.measureText(w).width)) + 8);
    const names = { down: page.tokens[down].map(visible), across: page.tokens[across].map(visible) };
    const room = Math.max(160, root.clientWidth / (root.clientWidth > 700 ? count : 1) - 12);
    const fit = (left, top) => Math.min(26, (room - left) / columns, (TALLEST - top) / rows);
    let [left, top] = [width(names.down), width(names.across)];
    const labelled = page.kind !== "image" && fit(left, top) >= 9;
    if (!labelled) [left, top] = [1, 1];
    const free = fit(left, top);
    const cell = free > 6 ? Math.floor(free) : free;
    made.shape = { left, top, cell, rows, columns };

    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [left + columns * cell + 1, top + rows * cell + 1];
    canvas.width = Math.round(wide * scale);
    canvas.height = Math.round(high * scale);
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${high}px`;
    made.figure.style.width = `max(${wide}px, 15rem)`;
    context.scale(scale, scale);
    context.imageSmoothingEnabled = cell < 1;
    context.drawImage(cells, left, top, columns * cell, rows * cell);
    context.strokeStyle = colors.line;
    context.strokeRect(left - 0.5, top - 0.5, columns * cell + 1, rows * cell + 1);

    const here = sameWay(number) ? focus : { query: focus.key, key: focus.query };
    const [row, column] = turn ? [here.key, here.query] : [here.query, here.key];
    if (labelled) writeNames(context, made.shape, names, row, column);
    context.strokeStyle = colors.ink;
    if (row != null) context.strokeRect(left - 0.5, top + row * cell - 0.5, columns * cell + 1, cell + 1);
    if (column != null) context.strokeRect(left + column * cell - 0.5, top - 0.5, cell + 1, rows * cell + 1);
    if (set.queries !== set.keys) drawLinks(context, made.shape);

    made.caption.textContent = set.direction ? `${set.direction}: ${name}` : name;
    made.caption.disabled = count === 1;
    made.caption.setAttribute("aria-pressed", String(number === state.set));
    canvas.setAttribute("aria-label", `${name}: ${rows} by ${columns} weights, ${down} by row`);
    made.note.textContent =
      `${turn ? "Columns attend to rows" : "Rows attend to columns"}. Full colour is ${short(limit)}.` +
      (page.links?.length && set.queries !== set.keys ? " Framed: the links given." : "");
  }

  function writeNames(context, { left, top, cell }, names, row, column) {
    context.font = `${Math.min(12, cell)}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    const write = (text, bold) => {
      context.globalAlpha = bold ? 1 : 0.75;
      context.fillStyle = bold ? colors.mark : colors.ink;
      context.fillText(cut(context, text, 104), 0, 0);
      context.globalAlpha = 1;
    };
    context.textAlign = "right";
    names.down.forEach((text, i) => {
      context.save();
      context.translate(left - 4, top + (i + 0.5) * cell);
      write(text, i === row);
      context.restore();
    });
    context.textAlign = "left";
    names.across.forEach((text, i) => {
      context.save();
      context.translate(left + (i + 0.5) * cell, top - 4);
      context.rotate(-Math.PI / 2);
      write(text, i === column);
      context.restore();
    });
  }

  function drawLinks(context, { left, top, cell }) {
    context.strokeStyle = colors.mark;
    context.lineWidth = 2;
    for (const [source, target] of page.links ?? []) {
      context.strokeRect(left + source * cell + 1, top + target * cell + 1, cell - 2, cell - 2);
    }
    context.lineWidth = 1;
  }

  return { draw };
}

function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const signs = [...text];
  while (signs.length > 1 && context.measureText(`${signs.join("")}…`).width > width) signs.pop();
  return `${signs.join("")}…`;
}
