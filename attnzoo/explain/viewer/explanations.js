// Scores of patches or words by method, each with its caption.

const plainName = ({ name }) => name.replaceAll("_", " ");

function explanationsView(section) {
  const given = page.explanations ?? [];
  section.hidden = !given.length;
  const cards = section.querySelector(".cards");
  const draws = given.map((explained, i) => (page.kind === "image" ? patchCard : wordCard)(explained, i));
  cards.replaceChildren(...draws.map(({ card }) => card));

  function patchCard(explained, i) {
    const heat = element("canvas", { class: "heat", "aria-hidden": "true" });
    const picture = element("img", { src: page.image.src, alt: "" });
    const card = element(
      "button",
      { type: "button", class: "card", "data-explanation": explained.name },
      element("span", { class: "picture" }, picture, heat),
      element("strong", {}, plainName(explained)),
      element("span", {}, explained.caption),
    );
    picture.addEventListener("load", () => picture.classList.toggle("coarse", picture.naturalWidth < 160));
    card.addEventListener("click", () => look({ explanation: state.explanation === i ? null : i }));
    const draw = () => {
      card.setAttribute("aria-pressed", String(state.explanation === i));
      paint(heat, explained.scores, page.image.columns, largestOf(explained.scores), "mark");
    };
    return { card, draw };
  }

  function wordCard(explained) {
    const words = page.tokens.tokens.map((text, i) =>
      element("span", { class: "scored", translate: "no", title: String(explained.scores[i]) }, element("bdi", {}, visible(text))),
    );
    const card = element(
      "div",
      { class: "strip", "data-explanation": explained.name },
      element("p", {}, element("strong", {}, plainName(explained)), ` ${explained.caption}`),
      element("p", {}, ...words),
    );
    const limit = largestOf(explained.scores);
    const draw = () =>
      words.forEach((word, i) => {
        word.style.setProperty("--weight", strength(explained.scores[i], limit).toFixed(3));
        word.classList.toggle("against", explained.scores[i] < 0);
      });
    return { card, draw };
  }

  return { draw: () => draws.forEach(({ draw }) => draw()) };
}
