// The data of the page. Weights are codes of 8 bits, and the largest weight of each row.

const page = JSON.parse(document.getElementById("data").textContent);

// Every set of maps has T queries and S keys; every map "of" its set.
for (const set of page.sets) {
  set.T = page.tokens[set.queries].length;
  set.S = page.tokens[set.keys].length;
  for (const map of set.maps) map.of = set;
}

async function unpackWeights() {
  const text = atob(page.weights);
  page.weights = null;
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();

  const maps = page.sets.flatMap((set) => set.maps);
  let row = 0;
  let code = 4 * maps.reduce((rows, map) => rows + map.heads * map.of.T, 0);
  for (const map of maps) {
    const rows = map.heads * map.of.T;
    map.largest = new Float32Array(buffer, 4 * row, rows);
    map.codes = new Uint8Array(buffer, code, rows * map.of.S);
    map.matrices = new Map();
    row += rows;
    code += map.codes.length;
  }
}

// What a code stands for, as a share of the largest weight of its row.
const SHARE = Float64Array.from({ length: 256 }, (_, code) => {
  const signed = page.levels === 127 && code > 127 ? code - 256 : code;
  return Math.sign(signed) * (signed / page.levels) ** 2;
});

function weightAt(map, head, query, key) {
  const row = head * map.of.T + query;
  return map.largest[row] * SHARE[map.codes[row * map.of.S + key]];
}

// T * S weights of one head, or of all by "mean" or "max".
function matrixOf(map, head) {
  if (!map.matrices.has(head)) {
    map.matrices.set(head, typeof head === "number" ? oneHead(map, head) : allHeads(map, head));
  }
  return map.matrices.get(head);
}

function oneHead(map, head) {
  const { T, S } = map.of;
  const values = new Float32Array(T * S);
  for (let t = 0; t < T; t++) {
    for (let s = 0; s < S; s++) values[t * S + s] = weightAt(map, head, t, s);
  }
  return values;
}

function allHeads(map, how) {
  const values = matrixOf(map, 0).slice();
  for (let head = 1; head < map.heads; head++) {
    const one = matrixOf(map, head);
    for (let i = 0; i < values.length; i++) {
      values[i] = how === "max" ? Math.max(values[i], one[i]) : values[i] + one[i];
    }
  }
  return how === "max" ? values : values.map((sum) => sum / map.heads);
}

// The weights of a query to all keys, of all queries to a key, or, with neither, the mean query.
function lineOf(map, head, { query, key }) {
  const { T, S } = map.of;
  if (typeof head === "number" && map.matrices.has(head) === false) {
    if (query != null) return Float32Array.from({ length: S }, (_, s) => weightAt(map, head, query, s));
    if (key != null) return Float32Array.from({ length: T }, (_, t) => weightAt(map, head, t, key));
  }
  const values = matrixOf(map, head);
  if (query != null) return values.subarray(query * S, (query + 1) * S);
  if (key != null) return Float32Array.from({ length: T }, (_, t) => values[t * S + key]);
  const mean = new Float32Array(S);
  values.forEach((weight, i) => (mean[i % S] += weight / T));
  return mean;
}

const largestOf = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
