// All layers by all heads, small. Of an image each shows where the token in focus looks; of words
// its matrix.

const SMALL = 64; // pixels of a small matrix, at most

function headsView(root, note) {
  let built = null;
  let painted = "";
  let thumbs = [];

  function build(set) {
    built = set;
    painted = "";
    thumbs = set.maps.flatMap((map, layer) =>
      Array.from({ length: map.heads }, (_, head) => {
        const canvas = element("canvas", { "aria-hidden": "true" });
        const label = nameOf(map, head);
        const button = element(
          "button",
          { type: "button", class: "thumb", title: label, "aria-label": label, "data-layer": String(layer), "data-head": String(head) },
          canvas,
        );
        button.addEventListener("click", () => pick(layer, head));
        return { layer, head, map, canvas, button };
      }),
    );
    const most = Math.max(...set.maps.map((map) => map.heads));
    root.style.setProperty("--columns", String(most));
    root.replaceChildren(
      ...set.maps.map((map, layer) =>
        element(
          "div",
          { class: "row", role: "group", "aria-label": map.name },
          element("span", { class: "name" }, map.name),
          ...thumbs.filter((thumb) => thumb.layer === layer).map((thumb) => thumb.button),
        ),
      ),
    );
  }

  function draw({ set }, focus, changed) {
    if (built !== set) build(set);
    const { layer, head } = state.picks[state.set];
    for (const thumb of thumbs) {
      const on = thumb.layer === layer && (thumb.head === head || typeof head !== "number");
      thumb.button.setAttribute("aria-pressed", String(on));
    }
    const images = page.kind === "image";
    const key = images ? JSON.stringify([focus, state.lift, changed]) : JSON.stringify([state.lift, changed]);
    if (key === painted) return;
    painted = key;
    for (const thumb of thumbs) (images ? paintPatches : paintMatrix)(thumb, focus);
    note.textContent = images
      ? `Each is one head: ${describe(focus)}, in its own scale. Rows are layers.`
      : "Each is the matrix of one head, in its own scale: queries by row, keys by column. Rows are layers.";
  }

  function paintPatches({ map, head, canvas }, focus) {
    const patches = lineOf(map, head, focus).subarray(page.image.extra);
    paint(canvas, patches, page.image.columns, largestOf(patches));
  }

  // The strongest weight of each block of cells.
  function paintMatrix({ map, head, canvas }) {
    const { T, S } = map.of;
    const by = Math.ceil(Math.max(T, S) / SMALL);
    const columns = Math.ceil(S / by);
    const values = new Float32Array(columns * Math.ceil(T / by));
    for (let t = 0; t < T; t++) {
      for (let s = 0; s < S; s++) {
        const at = Math.floor(t / by) * columns + Math.floor(s / by);
        const weight = weightAt(map, head, t, s);
        if (Math.abs(weight) > Math.abs(values[at])) values[at] = weight;
      }
    }
    paint(canvas, values, columns, largestOf(values));
  }

  return { draw };
}
