/* PatternExplorer: a block attention mask, what it costs, and how far its layers reach.
   The first part computes and touches no page; tests hold it equal to pattern_explorer.py. */

/** The pattern: what the model's traits say, as one plain object. */
const TRAITS = ["length", "block_size", "blocks_back", "sinks", "causal", "layers", "query", "num_heads", "head_dim"];

/** Join two half-open spans: [] , [[0, 9]] or [[0, 4], [6, 9]]. The first starts at 0. */
function join(head, start, stop) {
  if (head === 0) return [[start, stop]];
  return start <= head ? [[0, Math.max(head, stop)]] : [[0, head], [start, stop]];
}

/** Positions that can reach query `row` through `layers` layers. One layer: the keys it sees.
    Each layer adds blocks_back blocks to the window. Sinks are seen at once; with a causal mask they
    see nothing new, without one they too look ahead, a layer later. */
export function receptiveField(p, row, layers) {
  const block = Math.floor(row / p.block_size);
  const start = Math.max(0, (block - layers * p.blocks_back) * p.block_size);
  const stop = p.causal ? row + 1 : Math.min(p.length, (block + 1 + layers * p.blocks_back) * p.block_size);
  let head = Math.min(p.sinks, p.causal ? row + 1 : p.length);
  if (head && !p.causal && layers > 1) {
    head = Math.min(p.length, (Math.ceil(head / p.block_size) + (layers - 1) * p.blocks_back) * p.block_size);
  }
  return join(head, start, stop);
}

/** Layers until everything that may reach `row` does; null when that never happens. */
export function layersToSeeAll(p, row) {
  const end = p.causal ? row + 1 : p.length;
  const all = (layers) => {
    const [[start, stop], more] = receptiveField(p, row, layers);
    return !more && start === 0 && stop === end;
  };
  let [low, high] = [1, Math.ceil(p.length / p.block_size) + 1];
  if (!all(high)) return null;
  while (low < high) { // it only ever grows, so halving finds the first
    const middle = Math.floor((low + high) / 2);
    if (all(middle)) high = middle; else low = middle + 1;
  }
  return low;
}

/** Live pairs of the block of queries that starts at `start`. */
export function blockPairs(p, start) {
  const stop = Math.min(p.length, start + p.block_size);
  const rows = stop - start;
  const low = Math.max(0, start - p.blocks_back * p.block_size);
  const sinks = Math.min(p.sinks, p.length);
  if (p.causal) {
    const upTo = (rows * (start + 1 + stop)) / 2; // the sum of (row + 1): keys not later than the query
    return upTo - rows * Math.max(0, low - sinks); // less those between the sinks and the window
  }
  const high = Math.min(p.length, start + (1 + p.blocks_back) * p.block_size);
  return rows * (sinks >= low ? Math.max(high, sinks) : high - low + sinks);
}

export function patternNumbers(p) {
  let live = 0;
  for (let start = 0; start < p.length; start += p.block_size) live += blockPairs(p, start);
  const dense = p.causal ? (p.length * (p.length + 1)) / 2 : p.length ** 2;
  const perPair = 4 * p.head_dim * p.num_heads; // score and value, 2 per multiply-add
  const window = p.block_size * (1 + p.blocks_back * (p.causal ? 1 : 2)) + p.sinks;
  const row = 4 * p.num_heads * p.length; // one fp32 weight for each query and head
  return {
    live_pairs: live, dense_pairs: dense, speedup_limit: dense / live,
    flops: perPair * live, dense_flops: perPair * dense,
    weight_bytes: row * Math.min(p.length, window), dense_weight_bytes: row * p.length,
  };
}

const total = (spans) => spans.reduce((sum, [start, stop]) => sum + stop - start, 0);

// The page -------------------------------------------------------------------------------------

const octaves = (from, to) => { // 16, 24, 32, 48, 64 ...
  const values = [];
  for (let v = from; v <= to; v *= 2) values.push(v, ...(v >= 8 && v < to ? [1.5 * v] : []));
  return values;
};
const CHOICES = {
  length: octaves(16, 65536),
  block_size: octaves(1, 4096),
  sinks: [0, ...octaves(1, 256)],
};
const nearest = (values, v) => values.reduce((best, x, i) => Math.abs(x - v) < Math.abs(values[best] - v) ? i : best, 0);
const whole = (n) => n.toLocaleString("en");
const plural = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
const ratio = (x) => (x < 9.995 ? x.toFixed(2) : x < 99.95 ? x.toFixed(1) : whole(Math.round(x)));
const times = (x) => `${ratio(x)}×`;
/** Three digits and a power of 1000: 2.69e8, "FLOP" -> "269 MFLOP". */
function short(n, unit = "") {
  const power = Math.min(5, Math.floor(Math.log10(Math.max(1, n * (1 + 5e-4))) / 3)); // 999.9 M is 1 G
  return `${Number((n / 1000 ** power).toPrecision(3))} ${["", "k", "M", "G", "T", "P"][power]}${unit}`;
}
const percent = (x) => `${(100 * x).toFixed(x < 0.0995 ? 2 : 1)}\u00a0%`; // together on one line
const spanText = (spans) => spans.map(([a, b]) => b - a === 1 ? whole(a) : `${whole(a)} to ${whole(b - 1)}`).join(" and ");

/** One outline around rows of [start, stop], from row 0 down, so that no seams show between rows. */
function staircase(rows, x, y) {
  let right = "";
  let left = "";
  for (let r = 0; r < rows.length; r += 1) {
    const [start, stop] = rows[r];
    right += `H${x(stop)}V${y(r + 1)}`;
    left = `V${y(r)}${r ? `H${x(rows[r - 1][0])}` : ""}${left}`;
    if (r === rows.length - 1) left = `H${x(start)}${left}`;
  }
  return rows.length ? `M${x(rows[0][0])} ${y(0)}${right}${left}z` : "";
}

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const pattern = () => Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
  const rowOf = (p) => (p.query < 0 ? p.length + p.query : p.query);

  // Controls ------------------------------------------------------------------------------------
  /** A slider over the values in CHOICES; a value set from Python that isn't one of them still shows. */
  function stepped(label, name, onset = () => {}) {
    const values = CHOICES[name];
    const text = (i) => whole(nearest(values, model.get(name)) === i ? model.get(name) : values[i]);
    const control = range({
      label, min: 0, max: values.length - 1, value: nearest(values, model.get(name)), text,
      oninput: (i) => { put(name, values[i]); onset(values[i]); },
    });
    return { el: control.el, refresh: () => control.set(nearest(values, model.get(name))) };
  }
  function plain(label, name, min, max) {
    const control = range({ label, min, max, value: model.get(name), text: whole, oninput: (v) => put(name, v) });
    return { el: control.el, refresh: () => { control.limits(min, Math.max(max, model.get(name))); control.set(model.get(name)); } };
  }
  const controls = [
    stepped("Length N", "length", (length) => {
      if (model.get("query") >= length || model.get("query") < -length) put("query", -1);
    }),
    stepped("Block size b", "block_size"),
    plain("Blocks back", "blocks_back", 0, 8),
    stepped("Sinks", "sinks"),
    plain("Layers L", "layers", 1, 24),
  ];
  const causal = toggle({ label: "Causal mask", checked: model.get("causal"), onchange: (v) => put("causal", v) });
  const query = range({ label: "Query", min: 0, max: 1, value: 0, text: whole, oninput: (v) => put("query", v) });

  // Picture -------------------------------------------------------------------------------------
  const part = (name, attributes) => s("path", { class: `fxp-${name}`, ...attributes });
  const all = part("all");
  const kept = part("live");
  const grid = part("grid", { fill: "none" });
  const row = part("row");
  const rowKept = part("rowlive");
  const tracks = part("all");
  const reached = part("live");
  const label = (attributes, text) => s("text", attributes, text);
  const keys = label({ "text-anchor": "middle" }, "key →");
  const queries = label({}, "query ↓");
  const zero = label({}, "0");
  const end = label({ "text-anchor": "end" });
  const rowName = label({ "text-anchor": "end", class: "fxp-strong" });
  const depth = label({});
  const firstLayer = label({ "text-anchor": "end" }, "1");
  const lastLayer = label({ "text-anchor": "end" });
  const legend = [["live", "computed"], ["all", "left out"]].map(([name, words]) =>
    [part(name), label({ "text-anchor": "end" }, words)]);
  const svg = s("svg", { role: "img", class: "fxp-svg" },
    all, kept, grid, row, rowKept, tracks, reached,
    keys, queries, zero, end, rowName, depth, firstLayer, lastLayer, legend);
  const figure = h("div", { class: "fxp-figure" }, svg);
  let width = 0;
  let box = {}; // where the mask lies: left, top, side, pixels a position (scale), and what it shows (key)

  const x = (position) => Math.round(100 * (box.left + position * box.scale)) / 100;
  /** Rectangles over spans of positions, at least a pixel wide so that they can be seen. */
  const bars = (spans, y, height) => spans.map(([start, stop]) => {
    const wide = Math.max(1, (stop - start) * box.scale);
    return `M${x(start)} ${y}h${wide}v${height}h${-wide}z`;
  }).join("");

  function draw(p, at) {
    const left = 52;
    const side = Math.max(120, Math.min(width - left - 2, 460));
    const bottom = drawnMask(p, { left, top: 24, side, scale: side / p.length });
    drawRow(p, at);
    const end = drawLayers(p, at, bottom + 28);
    const legendTop = p.causal ? box.top + 12 : end + 20; // in the empty corner, or else below
    legend.forEach(([square, text], i) => {
      const y = legendTop + 20 * i;
      square.setAttribute("d", `M${left + side} ${y - 10}h-11v11h11z`);
      place(text, left + side - 18, y);
    });
    const tall = (p.causal ? end : end + 42) + 4;
    svg.setAttribute("width", left + side + 2);
    svg.setAttribute("height", tall);
    svg.setAttribute("viewBox", `0 0 ${left + side + 2} ${tall}`);
  }

  /** Who looks at whom, in at most 512 bands of rows. Drawn anew only when it changed; returns its end. */
  function drawnMask(p, frame) {
    const key = [p.length, p.block_size, p.blocks_back, p.sinks, p.causal, frame.side].join();
    if (box.key === key) return box.top + box.side;
    box = { ...frame, key };
    const { left, top, side, scale } = box;
    const bands = Math.min(p.length, 512);
    const y = (band) => Math.round(100 * (top + (band * side) / bands)) / 100;
    const windows = [];
    const everything = [];
    const runs = []; // bands that see the sinks apart from their window
    for (let band = 0; band < bands; band += 1) {
      const last = Math.ceil(((band + 1) * p.length) / bands) - 1;
      const spans = receptiveField(p, last, 1);
      windows.push(spans[spans.length - 1]);
      everything.push([0, p.causal ? last + 1 : p.length]);
      if (spans.length === 1) continue;
      if (runs.length && runs[runs.length - 1][1] === band) runs[runs.length - 1][1] = band + 1;
      else runs.push([band, band + 1]);
    }
    all.setAttribute("d", staircase(everything, x, y));
    kept.setAttribute("d", staircase(windows, x, y)
      + runs.map(([from, to]) => bars([[0, Math.min(p.sinks, p.length)]], y(from), y(to) - y(from))).join(""));

    // Lines between tokens while they are large enough to see, else between blocks.
    const step = scale >= 6 ? 1 : p.block_size * scale >= 6 ? p.block_size : 0;
    let lines = "";
    for (let i = step; step && i < p.length; i += step) {
      lines += `M${x(i)} ${top}v${side}M${left} ${x(i) - left + top}h${side}`;
    }
    grid.setAttribute("d", lines);
    place(queries, 0, 15);
    place(zero, left, 15);
    place(keys, left + side / 2, 15);
    place(end, left + side, 15, whole(p.length - 1));
    return top + side;
  }

  /** The row that is looked at, at least two pixels high. */
  function drawRow(p, at) {
    const { left, top, side, scale } = box;
    const height = Math.max(2, scale);
    const y = Math.min(top + side - height, top + at * scale - (height - scale) / 2);
    row.setAttribute("d", bars([[0, p.length]], y, height));
    rowKept.setAttribute("d", bars(receptiveField(p, at, 1), y, height));
    place(rowName, left - 8, Math.max(top + 12, Math.min(top + side, y + height / 2 + 4)), whole(at));
  }

  /** One band a layer: where the row's information can come from. Returns where the bands end. */
  function drawLayers(p, at, top) {
    const gap = p.layers <= 24 ? 1 : 0;
    const band = Math.max(1.5, Math.min(14, 112 / p.layers));
    let empty = "";
    let full = "";
    for (let layer = 1; layer <= p.layers; layer += 1) {
      const y = top + (layer - 1) * band;
      empty += bars([[0, p.causal ? at + 1 : p.length]], y, band - gap);
      full += bars(receptiveField(p, at, layer), y, band - gap);
    }
    tracks.setAttribute("d", empty);
    reached.setAttribute("d", full);
    const bottom = top + p.layers * band;
    place(depth, box.left, top - 8, `Query ${whole(at)} depends on, layer by layer`);
    place(firstLayer, box.left - 8, top + Math.min(11, band / 2 + 4), p.layers === 1 ? "L = 1" : "1");
    place(lastLayer, box.left - 8, bottom - Math.max(0, band / 2 - 4), p.layers * band >= 24 ? `L = ${p.layers}` : "");
    return bottom;
  }

  function place(text, x, y, words) {
    text.setAttribute("x", x);
    text.setAttribute("y", y);
    if (words !== undefined) text.textContent = words;
  }

  const look = (event) => {
    const p = pattern();
    const frame = svg.getBoundingClientRect();
    const zoom = frame.height / svg.viewBox.baseVal.height || 1;
    const at = Math.floor((((event.clientY - frame.top) / zoom - box.top) / box.side) * p.length);
    if (at >= 0 && at < p.length && at !== rowOf(p)) put("query", at);
  };
  figure.addEventListener("pointermove", look, { signal: life.signal });
  figure.addEventListener("pointerdown", look, { signal: life.signal });

  // Words ---------------------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const kind = h("p", { class: "fx-readout" });
  const caption = h("caption", {});
  const cell = (props) => h("td", props);
  const rows = ["Pairs", "Operations", "Weights"].map((name) => {
    const cells = [cell(), cell(), cell({ class: "fxp-strong" })];
    return { cells, el: h("tr", {}, h("th", { scope: "row", class: "fx-text" }, name), cells) };
  });
  const table = h("table", { class: "fx-table fxp-costs" }, caption,
    h("thead", {}, h("tr", {}, h("td", {}), ["dense", "block", "saved"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, rows.map((r) => r.el)));
  const seen = h("p", { class: "fx-readout" });
  const depends = h("p", { class: "fx-readout" });

  function tell(p, at) {
    const n = patternNumbers(p);
    const share = n.live_pairs / n.dense_pairs;
    big.textContent = n.live_pairs === n.dense_pairs ? "Dense attention" : `${times(n.speedup_limit)} fewer pairs`;
    kind.textContent = n.live_pairs === n.dense_pairs
      ? "Every pair is computed: this pattern leaves nothing out."
      : `${whole(n.live_pairs)} of ${whole(n.dense_pairs)} pairs are left: ${percent(share)}. No implementation of this pattern can be more than ${ratio(n.speedup_limit)} times faster.`;
    caption.textContent = `One layer, ${plural(p.num_heads, "head")} of width ${whole(p.head_dim)}`;
    const few = (pairs) => (pairs < 1e7 ? whole(pairs) : short(pairs)); // the sentence above has them all
    const saved = (dense, block) => (dense === block ? "–" : times(dense / block));
    [[few(n.dense_pairs), few(n.live_pairs), saved(n.dense_pairs, n.live_pairs)],
      [short(n.dense_flops, "FLOP"), short(n.flops, "FLOP"), saved(n.dense_flops, n.flops)],
      [bytes(n.dense_weight_bytes), bytes(n.weight_bytes), saved(n.dense_weight_bytes, n.weight_bytes)],
    ].forEach((texts, i) => texts.forEach((t, j) => { rows[i].cells[j].textContent = t; }));

    const now = receptiveField(p, at, 1);
    const later = receptiveField(p, at, p.layers);
    const needed = layersToSeeAll(p, at);
    const may = p.causal ? at + 1 : p.length;
    seen.textContent = `Query ${whole(at)} sees ${plural(total(now), "key")}: ${spanText(now)}.`;
    depends.textContent = `After ${plural(p.layers, "layer")} it depends on ${whole(total(later))} of the `
      + `${plural(may, "position")} ${p.causal ? "up to it" : "there are"}: ${spanText(later)}. `
      + (needed === null ? "However many layers there are, the rest stays out of reach."
        : needed <= p.layers ? `${plural(needed, "layer")} ${needed === 1 ? "is" : "are"} enough to reach them all.`
          : `To reach them all takes ${plural(needed, "layer")}.`);
    live.say(`${big.textContent}. ${seen.textContent} ${depends.textContent}`);
    svg.setAttribute("aria-label", `Attention mask of ${plural(p.length, "token")} in blocks of ${whole(p.block_size)}. ${kind.textContent} ${seen.textContent}`);
  }

  // The mask in words, block by block, for those who can't see it. Long ones are shortened in the middle.
  const maskBody = h("tbody", {});
  const maskCaption = h("caption", {});
  const mask = h("details", {}, h("summary", {}, "The mask as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "The mask as a table" },
      h("table", { class: "fx-table" }, maskCaption,
        h("thead", {}, h("tr", {}, ["Queries", "Keys they see", "Live pairs"].map((t, i) =>
          h("th", { scope: "col", class: i < 2 ? "fx-text" : "" }, t)))), maskBody)));
  function list(p) {
    if (!mask.open) return;
    const blocks = Math.ceil(p.length / p.block_size);
    maskCaption.textContent = blocks > 48 ? `The first and last 24 of ${whole(blocks)} blocks` : `${plural(blocks, "block")} of queries`;
    maskBody.replaceChildren(...Array.from({ length: Math.min(48, blocks) }, (_, i) => {
      const block = blocks > 48 && i >= 24 ? blocks - 48 + i : i;
      const start = block * p.block_size;
      const stop = Math.min(p.length, start + p.block_size);
      const keysSeen = spanText(receptiveField(p, stop - 1, 1));
      return h("tr", {}, h("th", { scope: "row", class: "fx-text" }, spanText([[start, stop]])),
        h("td", { class: "fx-text" }, p.causal && stop - start > 1 ? `${keysSeen}, each up to itself` : keysSeen),
        h("td", {}, whole(blockPairs(p, start))));
    }));
  }
  mask.addEventListener("toggle", () => list(pattern()));

  // All together --------------------------------------------------------------------------------
  const note = h("p", { class: "fx-note" },
    "Operations are those of scores and weighted values, 2 per multiply-add. Weights are those held at once in fp32, as plain "
    + "softmax attention holds them: a square for each head when dense, one window for each query in blocks.");
  el.append(h("div", { class: "fx fx-pattern", role: "group", "aria-label": "Pattern explorer" },
    h("div", { class: "fx-bar fxp-controls" }, controls.map((c) => c.el), causal.el),
    h("div", { class: "fxp-parts" },
      h("div", { class: "fxp-look" }, figure, query.el),
      h("div", { class: "fxp-words" }, seen, depends),
      h("div", { class: "fxp-cost" }, big, kind, table, note)),
    mask, saveButtons(() => svg, "attention-pattern"), live.el));

  const update = () => {
    const p = pattern();
    const at = Math.min(p.length - 1, Math.max(0, rowOf(p)));
    if (width) draw(p, at);
    tell(p, at);
    list(p);
    for (const control of controls) control.refresh();
    causal.set(p.causal);
    query.limits(0, p.length - 1);
    query.set(at);
  };
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { width = w; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
