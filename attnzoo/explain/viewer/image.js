// An image whose patch under the pointer shows what it attends to, or what attends to it.

// What a map over the image means.
function describe({ query, key }) {
  const names = page.tokens.tokens;
  if (query != null) return `what ${names[query]} attends to`;
  if (key != null) return `what attends to ${names[key]}`;
  return "what is attended to, on average over all tokens";
}

function imageView(root) {
  const { src, rows, columns, extra } = page.image;
  const names = page.tokens.tokens;
  const picture = element("img", { src, alt: "", draggable: "false" });
  const heat = element("canvas", { class: "heat", "aria-hidden": "true" });
  const tokenButton = (index, kind, text) =>
    element("button", { type: "button", class: kind, "aria-label": names[index], "data-index": String(index) }, text);
  const extras = names.slice(0, extra).map((name, i) => tokenButton(i, "extra", name));
  const patches = names.slice(extra).map((_, i) => tokenButton(extra + i, "patch", ""));
  // One stop of Tab for all patches; Shift and arrows go on from there.
  patches.forEach((patch, i) => (patch.tabIndex = i === 0 ? 0 : -1));
  const grid = element("div", { class: "patches", role: "group", "aria-label": "patches of the image" }, ...patches);
  grid.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  const note = element("p", { class: "note" });
  root.replaceChildren(
    element(
      "div",
      { class: "beside" },
      element("img", { src, class: "original", alt: "the image that was given to the model" }),
      element("div", { class: "extras", role: "group", "aria-label": "other tokens" }, ...extras),
    ),
    element("div", { class: "picture" }, picture, heat, grid),
    note,
  );
  picture.addEventListener("load", () => {
    root.classList.toggle("coarse", picture.naturalWidth < 160);
    // As large as fits, whatever its own size.
    const wide = picture.naturalWidth / picture.naturalHeight;
    root.querySelector(".picture").style.setProperty("--wide", String(wide));
  });

  const focusOf = (target) => {
    const button = target.closest?.("[data-index]");
    return button ? pointed(Number(button.dataset.index)) : null;
  };
  root.addEventListener("pointerover", (event) => hover(focusOf(event.target)));
  root.addEventListener("pointerleave", () => hover(null));
  root.addEventListener("focusin", (event) => hover(focusOf(event.target)));
  root.addEventListener("focusout", () => hover(null));
  root.addEventListener("click", (event) => {
    const focus = focusOf(event.target);
    if (focus) pin(focus);
  });

  function draw({ map, head, name }, focus) {
    const explained = page.explanations?.[state.explanation];
    const line = lineOf(map, head, focus);
    const values = explained ? explained.scores : line.subarray(extra);
    const limit = largestOf(values);
    paint(heat, values, columns, limit, explained ? "mark" : "accent");
    Object.assign(heat.dataset, { of: explained ? explained.name : "attention", limit: String(limit) });

    const others = largestOf(line);
    extras.forEach((button, i) => {
      button.textContent = explained ? names[i] : `${names[i]} ${short(line[i])}`;
      button.style.setProperty("--weight", (explained ? 0 : strength(line[i], others)).toFixed(3));
    });
    const at = focus.query ?? focus.key;
    for (const [i, button] of [...extras, ...patches].entries()) {
      button.classList.toggle("chosen", i === focus.query || i === focus.key);
      if (i >= extra) button.tabIndex = i === Math.max(extra, at ?? extra) ? 0 : -1;
    }
    note.textContent = explained
      ? `${plainName(explained)}: ${explained.caption || "scores of the patches"}. Full colour is ${short(limit)}.`
      : `${name}: ${describe(focus)}. Full colour is ${short(limit)}.`;
  }

  return { draw };
}
