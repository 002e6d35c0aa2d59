// Small helpers of all views: elements, colours, pictures of numbers.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// What cannot be seen, or would turn the text around it, is written out.
const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };
function visible(token) {
  if (token === "") return "∅";
  return token.replace(/[\s\p{Cc}\p{Cf}\p{Cs}]/gu, (sign) => {
    const number = sign.codePointAt(0).toString(16).padStart(4, "0");
    // Joiners belong to the words of some scripts.
    if (number === "200c" || number === "200d") return token.length > 1 ? sign : `\\u${number}`;
    return SIGNS[sign] ?? `\\u${number}`;
  });
}

const short = (weight) => (Math.abs(weight) < 0.0005 && weight !== 0 ? weight.toExponential(1) : weight.toFixed(3));

// 0 to 1: how strongly a weight is drawn where `limit` is full.
function strength(weight, limit) {
  const share = limit > 0 ? Math.min(1, Math.abs(weight) / limit) : 0;
  return state.lift ? Math.sqrt(share) : share;
}

// Colours of the style sheet, as numbers, for canvases.
const colors = {};
function readColors() {
  const probe = document.body.appendChild(element("span"));
  for (const name of ["accent", "against", "ink", "line", "mark"]) {
    probe.style.color = `var(--${name})`;
    colors[name] = getComputedStyle(probe).color;
    colors[`${name}Numbers`] = colors[name].match(/[\d.]+/g).slice(0, 3).map(Number);
  }
  probe.remove();
}

// One pixel a value, clear at 0. `positive` is the colour of what is above it.
function paint(canvas, values, columns, limit, positive = "accent") {
  const rows = values.length / columns;
  const picture = new ImageData(columns, rows);
  values.forEach((value, i) => {
    picture.data.set(colors[`${value < 0 ? "against" : positive}Numbers`], 4 * i);
    picture.data[4 * i + 3] = 255 * strength(value, limit);
  });
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}
