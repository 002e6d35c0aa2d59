// What is looked at: one object, changed here alone; every change asks for one drawing.

const state = {
  set: 0,
  // The layer and head of each set: both directions of a translator keep their own.
  picks: page.sets.map(() => ({ layer: 0, head: 0 })),
  hovered: null, // {query, key} of the current set, one or both; under the pointer or in focus
  pinned: null,
  incoming: false, // of a sequence that attends to itself: a token pointed at is a key
  explanation: null,
  lift: false,
};

// Called by main.js once all is built.
let askToDraw = () => {};

function look(changes) {
  Object.assign(state, changes);
  askToDraw();
}

const hover = (focus) => look({ hovered: focus });

function pin(focus) {
  const same = (a, b) => a && b && a.query === b.query && a.key === b.key;
  look({ pinned: same(state.pinned, focus) ? null : focus });
}

function pickSet(number) {
  // A focus speaks of the words of its set: turned where the other set has them the other way round.
  const from = page.sets[state.set];
  const to = page.sets[number];
  const turned = from.queries === to.keys && from.keys === to.queries && from.queries !== from.keys;
  const kept = from.queries === to.queries && from.keys === to.keys;
  const move = (f) => (f && turned ? { query: f.key, key: f.query } : kept ? f : null);
  look({ set: number, pinned: move(state.pinned), hovered: move(state.hovered) });
}

function pick(layer, head) {
  const maps = page.sets[state.set].maps;
  layer = Math.max(0, Math.min(maps.length - 1, layer));
  // Layers may differ in heads.
  if (typeof head === "number") head = Math.max(0, Math.min(maps[layer].heads - 1, head));
  state.picks[state.set] = { layer, head };
  askToDraw();
}

// The heads of a layer in the order of the arrow keys.
const headsOf = (map) => [...Array(map.heads).keys(), "mean", "max"];

function stepHead(by) {
  const { layer, head } = state.picks[state.set];
  const heads = headsOf(page.sets[state.set].maps[layer]);
  pick(layer, heads[(heads.indexOf(head) + by + heads.length) % heads.length]);
}

// A token as the focus that pointing at it means.
const pointed = (index) => (state.incoming ? { query: null, key: index } : { query: index, key: null });

function chosen(set = state.set) {
  const { layer, head } = state.picks[set];
  const map = page.sets[set].maps[layer];
  return { set: page.sets[set], map, head, name: nameOf(map, head) };
}

// Words of the model are made visible; places in an image are words of ours.
const tokenName = (text) => (page.kind === "image" ? text : visible(text));

const nameOf = (map, head) =>
  `${map.name}, ${typeof head === "number" ? `head ${head}` : `${head} of ${map.heads} heads`}`;

const NOTHING = { query: null, key: null };
const focused = () => state.hovered ?? state.pinned ?? NOTHING;
