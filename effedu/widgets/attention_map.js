/* AttentionMap: where each token of a text looks, computed here from its queries and keys.

   The page holds q and k of every layer and head as float16 and works out softmax(q k^T / sqrt(d))
   itself: one row at once, the whole map in slices between frames, the small maps last. */

// The mathematics --------------------------------------------------------------------------------

/** One IEEE 754 half, given as its 16 bits, as a number. */
function halfToFloat(bits) {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Head number `index` (layers run slowest) of little-endian float16 data: length x headDim numbers. */
function unpackHead(view, index, size) {
  const out = new Float32Array(size);
  for (let i = 0; i < size; i += 1) out[i] = halfToFloat(view.getUint16(2 * (index * size + i), true));
  return out;
}

/** Scores of query i against every key; -Infinity where the causal mask hides the future. */
function scoreRow(query, key, i, headDim, causal, scaled, out = new Float64Array(key.length / headDim)) {
  const scale = scaled ? 1 / Math.sqrt(headDim) : 1;
  const last = causal ? i : out.length - 1;
  for (let j = 0; j <= last; j += 1) {
    let sum = 0;
    for (let c = 0, q = i * headDim, k = j * headDim; c < headDim; c += 1) sum += query[q + c] * key[k + c];
    out[j] = sum * scale;
  }
  return out.fill(-Infinity, last + 1);
}

/** Weights of query i over every key: the softmax of its scores. They sum to one; the future gets 0. */
function attentionRow(query, key, i, headDim, causal, scaled, out) {
  const row = scoreRow(query, key, i, headDim, causal, scaled, out);
  let largest = -Infinity;
  for (const score of row) if (score > largest) largest = score;
  let sum = 0;
  for (let j = 0; j < row.length; j += 1) sum += row[j] = Math.exp(row[j] - largest);
  for (let j = 0; j < row.length; j += 1) row[j] /= sum;
  return row;
}

/** Entropy of a row in bits: 0 when it looks at one token, log2(n) when at n alike. */
function entropy(row) {
  let bits = 0;
  for (const w of row) if (w > 0) bits -= w * Math.log2(w);
  return bits;
}

/** Positions of the `n` largest weights, largest first; of equals, the earlier first. */
function largest(row, n) {
  return Array.from(row.keys()).filter((j) => row[j] > 0)
    .sort((a, b) => row[b] - row[a] || a - b).slice(0, n);
}

/** A weight in words: two digits, and no zero where there is something. */
function weightText(w) {
  return w > 0 && w < 0.005 ? "<0.01" : number(w);
}

/** A token as it is shown: spaces and line ends made visible. */
function visible(token) {
  return token.replace(/ /g, "·").replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥") || "∅";
}

// The view ---------------------------------------------------------------------------------------

function render({ model, el }) {
  const life = new AbortController();
  const set = keep(model);
  const tokens = model.get("tokens").map(visible);
  const layers = model.get("layers");
  const [, heads, length, headDim] = model.get("shape");
  const state = {}; // what is drawn now: layer, head, token, causal, scaled, view
  let other = null; // the key under the pointer on the map
  let size = 0; // of the map, in CSS pixels, without its gutter
  let theme = null; // colours as the page has them now
  const [gutter, edge] = [28, 8]; // room for the numbers along the map, left and above, and right

  const unpacked = new Map();
  const head = (layer, number) => {
    const index = layers.indexOf(layer) * heads + number;
    if (!unpacked.has(index)) {
      unpacked.set(index, ["query", "key"].map((name) =>
        unpackHead(model.get(`${name}_bytes`), index, length * headDim)));
    }
    return unpacked.get(index);
  };
  const row = (i = state.token, scaled = state.scaled) =>
    attentionRow(...head(state.layer, state.head), i, headDim, state.causal, scaled);

  // Controls
  const option = (n) => [n, String(n)];
  const layer = select({ label: "Layer", options: layers.map(option), onchange: (v) => set("layer", v) });
  const headPick = select({
    label: "Head", options: Array.from({ length: heads }, (_, n) => option(n)), onchange: (v) => set("head", v),
  });
  const causal = toggle({ label: "Causal mask", onchange: (v) => set("causal", v) });
  const scaled = toggle({ label: "Divide by √d", onchange: (v) => set("scaled", v) });
  scaled.input.setAttribute("aria-label", "Divide the scores by the square root of the head width");
  const view = segmented({
    label: "Show as", hideLabel: true, options: [["map", "Map"], ["table", "Table"]], onchange: (v) => set("view", v),
  });
  view.el.classList.add("fx-push");

  // The text: a list box, so that one Tab reaches it and the arrows move in it.
  const cells = tokens.map((text) => {
    const weight = h("small", {});
    return { el: h("span", { role: "option", class: "fx-am-token", id: uid("token") }, h("span", {}, text), weight), weight, shade: -1, label: "" };
  });
  const strip = h("div", {
    role: "listbox", tabindex: "0", class: "fx-am-strip", "aria-label": "Tokens of the text: choose the one that looks",
    "aria-orientation": "horizontal", onkeydown: onKey, onpointermove: onStrip, onclick: onStrip,
  }, cells.map((cell) => cell.el));
  const at = new Map(cells.map((cell, i) => [cell.el, i]));

  function onStrip(event) {
    if (event.type === "pointermove" && event.pointerType === "touch") return; // a finger scrolls
    const i = at.get(event.target.closest(".fx-am-token"));
    if (i !== undefined && i !== state.token) { other = null; set("token", i); }
  }

  function onKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -length, End: length }[event.key];
    const line = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!step && !line)) return;
    event.preventDefault();
    other = null;
    // From the model, not from what is drawn: keys may come faster than frames.
    const next = line ? neighbour(model.get("token"), line) : model.get("token") + step;
    set("token", Math.max(0, Math.min(length - 1, next)));
  }

  /** The token above or below one, as the text happens to be wrapped. */
  function neighbour(token, direction) {
    const here = cells[token].el;
    const middle = here.offsetLeft + here.offsetWidth / 2;
    let [best, distance, top] = [token, Infinity, null];
    for (let i = token + direction; i >= 0 && i < length; i += direction) {
      const { offsetTop, offsetLeft, offsetWidth } = cells[i].el;
      if (offsetTop === here.offsetTop) continue;
      if (offsetTop !== (top ??= offsetTop)) break;
      const d = Math.abs(offsetLeft + offsetWidth / 2 - middle);
      if (d < distance) [best, distance] = [i, d];
    }
    return best;
  }

  // The map: one canvas for the weights, one above it for the lines that follow the pointer.
  const canvas = h("canvas", { role: "img" });
  const lines = h("canvas", { class: "fx-am-lines", "aria-hidden": "true", onpointermove: onMap, onclick: onMap, onpointerleave: () => { other = null; showRow(); } });
  const legend = h("div", { class: "fx-am-legend", "aria-hidden": "true" },
    h("i", {}), [0, 0.1, 0.25, 0.5, 1].map((w) => h("span", { style: { left: `${100 * Math.sqrt(w)}%` } }, String(w))));
  const board = h("div", { class: "fx-am-board" }, canvas, lines);
  const mapBox = h("div", {}, board, legend, h("p", { class: "fx-note fx-am-caption" }, "A row for each token that looks, a column for each it can look at."));

  function onMap(event) {
    if (event.type === "pointermove" && event.pointerType === "touch") return;
    const box = lines.getBoundingClientRect();
    const [j, i] = [event.clientX - box.left, event.clientY - box.top].map((p) => Math.floor(((p - gutter) / size) * length));
    if (i < 0 || i >= length) return;
    other = j >= 0 && j < length ? j : null;
    if (i === state.token) showRow();
    else set("token", i);
  }

  let map = null; // { key, weights: Float32Array(length * length), rows: how many are done }
  const kept = new Map();
  const mapKey = () => [state.layer, state.head, state.causal, state.scaled].join();

  /** Compute rows for a few milliseconds, then let the page breathe; draw when all are there. */
  function work() {
    if (life.signal.aborted || state.view !== "map" || !size) return;
    const until = performance.now() + 7;
    if (map?.key !== mapKey()) {
      map = kept.get(mapKey()) || { key: mapKey(), weights: new Float32Array(length * length), rows: 0 };
      kept.delete(map.key);
      kept.set(map.key, map);
      if (kept.size > 6) kept.delete(kept.keys().next().value); // a megabyte each at 500 tokens
    }
    const [query, key] = head(state.layer, state.head);
    while (map.rows < length && performance.now() < until) {
      const i = map.rows++;
      attentionRow(query, key, i, headDim, state.causal, state.scaled, map.weights.subarray(i * length, (i + 1) * length));
    }
    if (map.rows < length) { work.again(); return; }
    if (drawn !== map) drawMap();
    if (thumbnails(until)) work.again();
  }
  work.again = perFrame(work);
  let drawn = null;

  /** `rows` x length weights as a square of `side` pixels. Of cells that share a pixel the largest
      shows, so that thin lines don't vanish; the square root lets small weights be seen. */
  function pixels(weights, rows, side) {
    const image = new ImageData(side, side);
    const column = Uint16Array.from({ length }, (_, j) => Math.floor((j * side) / length));
    const best = new Float32Array(side);
    for (let y = 0, i = 0; y < side; y += 1) {
      best.fill(0);
      for (; i < Math.floor(((y + 1) * rows) / side); i += 1) {
        for (let j = 0; j < length; j += 1) {
          if (weights[i * length + j] > best[column[j]]) best[column[j]] = weights[i * length + j];
        }
      }
      for (let x = 0; x < side; x += 1) {
        const shade = 3 * Math.min(255, Math.round(255 * Math.sqrt(best[x])));
        image.data.set(theme.shades.subarray(shade, shade + 3), 4 * (y * side + x));
        image.data[4 * (y * side + x) + 3] = 255;
      }
    }
    return image;
  }

  /** The weights as a bitmap of at most `limit` pixels a side. */
  function bitmap(limit) {
    const side = Math.min(length, limit);
    const picture = h("canvas", { width: side, height: side });
    picture.getContext("2d").putImageData(pixels(map.weights, length, side), 0, 0);
    return picture;
  }

  function drawMap() {
    drawn = map;
    board.dataset.drawn = map.key;
    const context = fitCanvas(canvas, gutter + size + edge, gutter + size);
    const ratio = canvas.height / (gutter + size);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(bitmap(Math.round(size * ratio)), gutter, gutter, size, size);
    const cell = size / length;
    if (state.causal) { // what the mask hides is hatched: absent, not merely small
      context.save();
      context.beginPath();
      for (let i = 0; i < length - 1; i += 1) context.rect(gutter + (i + 1) * cell, gutter + i * cell, size - (i + 1) * cell, cell + 0.5);
      context.clip();
      context.fillStyle = theme.paper;
      context.fillRect(gutter, gutter, size, size);
      context.strokeStyle = theme.line;
      context.beginPath();
      for (let x = -size; x < size; x += 7) { context.moveTo(gutter + x, gutter); context.lineTo(gutter + x + size, gutter + size); }
      context.stroke();
      context.restore();
    }
    context.strokeStyle = theme.line;
    context.strokeRect(gutter + 0.5, gutter + 0.5, size - 1, size - 1);
    context.fillStyle = theme.muted;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (const t of ticks()) {
      const p = gutter + (t + 0.5) * cell;
      context.textAlign = "right";
      context.fillText(String(t), gutter - 5, p);
      context.textAlign = "center";
      context.fillText(String(t), p, gutter - 9);
    }
    drawLines();
  }

  function ticks() {
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((n) => (n * size) / length >= 26) || 1000;
    return Array.from({ length: Math.ceil(length / step) }, (_, n) => n * step);
  }

  function drawLines() {
    if (!size) return;
    const context = fitCanvas(lines, gutter + size + edge, gutter + size);
    context.clearRect(0, 0, lines.width, lines.height);
    const cell = size / length;
    const thick = Math.max(cell, 3);
    context.strokeStyle = theme.ink;
    context.lineWidth = 1.5;
    context.strokeRect(gutter, gutter + (state.token + 0.5) * cell - thick / 2, size, thick);
    if (other !== null) context.strokeRect(gutter + (other + 0.5) * cell - thick / 2, gutter, thick, size);
  }

  // What it says
  const sentence = h("p", { class: "fx-readout" });
  const bars = h("div", { class: "fx-am-bars", "aria-hidden": "true" });
  const spread = h("p", { class: "fx-note" });
  const live = announcer();
  const table = h("div", { class: "fx-am-table" });
  const name = (i) => `“${tokens[i]}”`;

  function showRow() {
    const weights = row();
    const i = state.token;
    const top = largest(weights, 6);
    const most = weights[top[0]];
    cells.forEach((cell, j) => {
      const shade = Math.round(50 * Math.sqrt(weights[j] / most));
      if (shade !== cell.shade) cell.el.style.backgroundColor = theme.tints[(cell.shade = shade)];
      const text = weights[j] >= 0.01 ? weights[j].toFixed(2).replace(/^0/, "") : "";
      if (text !== cell.label) cell.weight.textContent = cell.label = text;
      const hidden = state.causal && j > i;
      if (hidden !== cell.hidden) cell.el.classList.toggle("is-future", (cell.hidden = hidden));
      const mark = j === other;
      if (mark !== cell.mark) cell.el.classList.toggle("is-other", (cell.mark = mark));
    });
    strip.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    cells[i].el.setAttribute("aria-selected", "true");
    strip.setAttribute("aria-activedescendant", cells[i].el.id);

    const [bits, unscaled] = [entropy(weights), entropy(row(i, !state.scaled))];
    const said = `Token ${name(i)} at ${i} looks most at ${name(top[0])} at ${top[0]} (${weightText(weights[top[0]])})`
      + (top.length > 1 ? `, then at ${name(top[1])} at ${top[1]} (${weightText(weights[top[1]])}).` : ".");
    sentence.textContent = said;
    live.say(said);
    const pointed = other === null ? "" : state.causal && other > i
      ? `Position ${other} is in the future: masked. ` : `It gives ${name(other)} at ${other} a weight of ${number(weights[other], 3)}. `;
    spread.textContent = `${pointed}Entropy ${bits.toFixed(2)} bits, that of an even look at ${(2 ** bits).toFixed(1)} tokens; `
      + `${state.scaled ? "without dividing" : "dividing"} by √${headDim} it would be ${unscaled.toFixed(2)}.`;
    bars.replaceChildren(...top.map((j) => h("div", {},
      h("span", { class: "fx-am-name" }, tokens[j]), h("span", { class: "fx-note" }, String(j)),
      h("i", { style: { width: `${100 * weights[j]}%` } }), h("b", {}, weightText(weights[j])))));
    if (state.view === "table") showTable(weights);
    else drawLines();
  }

  /** Bring the chosen token into the strip's window: scrolls the strip, never the page. */
  function reveal() {
    const { offsetTop, offsetHeight } = cells[state.token].el;
    if (offsetTop < strip.scrollTop) strip.scrollTop = offsetTop - 4;
    else if (offsetTop + offsetHeight > strip.scrollTop + strip.clientHeight) strip.scrollTop = offsetTop + offsetHeight + 4 - strip.clientHeight;
  }

  function showTable(weights) {
    const scores = scoreRow(...head(state.layer, state.head), state.token, headDim, state.causal, state.scaled);
    const line = (j) => h("tr", {}, h("td", {}, String(j)), h("th", { scope: "row", class: "fx-text" }, tokens[j]),
      h("td", {}, number(scores[j])), h("td", {}, weights[j] ? number(weights[j], 4) : "masked"));
    const make = (caption, positions) => h("table", { class: "fx-table" }, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, ["position", "token", "score", "weight"].map((title) =>
        h("th", { scope: "col", class: title === "token" ? "fx-text" : "" }, title)))),
      h("tbody", {}, positions.map(line)));
    const open = table.querySelector("details")?.open;
    const seen = state.causal ? state.token + 1 : length;
    const whole = h("details", { ontoggle: () => { // built when it is asked for: it may have 500 rows
      if (whole.open && whole.children.length === 1) whole.append(make(`All weights of token ${state.token}`, Array.from({ length: seen }, (_, j) => j)));
    } }, h("summary", {}, `The whole row: ${seen} ${seen === 1 ? "weight" : "weights"}`));
    const caption = `Layer ${state.layer}, head ${state.head}: where token ${state.token}, ${name(state.token)}, looks most`;
    table.replaceChildren(make(caption, largest(weights, 10)), whole);
    whole.open = Boolean(open);
  }

  // All heads, small: also a way to choose one. One Tab stops here; the arrows move.
  const small = layers.flatMap((l) => Array.from({ length: heads }, (_, n) => {
    const picture = h("canvas", { width: 48, height: 48 });
    return { layer: l, head: n, picture, done: "", el: h("button", {
      type: "button", class: "fx-am-small", tabindex: "-1", "aria-label": `Layer ${l}, head ${n}`, title: `Layer ${l}, head ${n}`,
      onclick: () => { set("layer", l); set("head", n); },
    }, picture) };
  }));
  const grid = h("div", { class: "fx-am-grid", role: "group", "aria-label": "All heads; each row is a layer", onkeydown: (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: heads, ArrowUp: -heads }[event.key];
    const here = small.findIndex((item) => item.el === event.target);
    if (!step || here < 0) return;
    event.preventDefault();
    const next = small[here + step];
    if (next) { next.el.focus(); next.el.click(); }
  }, style: { "--heads": heads } },
  layers.flatMap((l, n) => [h("span", { class: "fx-note", "aria-hidden": "true" }, String(l)), small.slice(n * heads, (n + 1) * heads).map((item) => item.el)]));

  /** Draw small maps until the time is up; returns whether some are left. Sampled rows will do. */
  function thumbnails(until) {
    const mode = `${state.causal}${state.scaled}`;
    const todo = small.filter((item) => item.done !== mode);
    const rows = Math.min(length, 48);
    while (todo.length && performance.now() < until) {
      const item = todo.shift();
      const [query, key] = head(item.layer, item.head);
      const weights = new Float32Array(rows * length);
      for (let r = 0; r < rows; r += 1) {
        attentionRow(query, key, Math.floor(((r + 0.5) * length) / rows), headDim, state.causal, state.scaled, weights.subarray(r * length, (r + 1) * length));
      }
      const image = pixels(weights, rows, rows);
      Object.assign(item.picture, { width: rows, height: rows }).getContext("2d").putImageData(image, 0, 0);
      item.done = mode;
    }
    return todo.length > 0;
  }

  /** A picture of the present state for saving: it stands alone, with its colours written in. */
  function picture() {
    const [side, pad] = [420, 28];
    const { ink, paper, muted, line, accent } = theme;
    while (map.rows < length) attentionRow(...head(state.layer, state.head), map.rows, headDim, state.causal, state.scaled, map.weights.subarray(map.rows * length, ++map.rows * length));
    const weights = row();
    const cell = side / length;
    const stairs = Array.from({ length: length - 1 }, (_, i) => `H${(i + 1) * cell}V${(i + 1) * cell}`).join("");
    const hatch = uid("hatch");
    return s("svg", { viewBox: "0 0 760 500", width: 760, height: 500, "font-family": "system-ui, sans-serif", "font-size": 13, fill: ink },
      s("rect", { width: 760, height: 500, fill: paper }),
      s("text", { x: pad, y: 30, "font-size": 16, "font-weight": 600 }, `Layer ${state.layer}, head ${state.head}: where each token looks`),
      s("g", { transform: `translate(${pad} 52)` },
        s("image", { href: bitmap(length).toDataURL(), width: side, height: side, style: "image-rendering: pixelated" }),
        state.causal && [s("pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(-45)" },
          s("rect", { width: 6, height: 6, fill: paper }), s("path", { d: "M0 0V6", stroke: line })),
        s("path", { d: `M${cell} 0${stairs}H${side}V0Z`, fill: `url(#${hatch})` })],
        s("rect", { width: side, height: side, fill: "none", stroke: line }),
        s("rect", { y: state.token * cell, width: side, height: Math.max(cell, 2), fill: "none", stroke: ink, "stroke-width": 1.5 })),
      s("text", { x: 480, y: 66 }, `Token ${state.token}, ${name(state.token)}, looks at`),
      largest(weights, 12).map((j, n) => s("g", { transform: `translate(480 ${84 + 30 * n})` },
        s("rect", { y: 16, width: 250 * weights[j], height: 4, fill: accent }),
        s("text", { y: 11 }, tokens[j], " ", s("tspan", { fill: muted }, String(j))),
        s("text", { x: 250, y: 11, "text-anchor": "end" }, weightText(weights[j])))),
      s("text", { x: pad, y: 490, fill: muted, "font-size": 12 }, "Rows look, columns are looked at; darker is more (square-root scale)."));
  }

  const mapView = h("div", { class: "fx-cols fx-am-cols" },
    h("div", {}, mapBox),
    h("div", { class: "fx-am-side" }, bars, spread,
      h("div", {}, h("p", { class: "fx-note" }, "All heads: a row for each layer"), h("div", { class: "fx-scroll" }, grid))));
  const masked = h("p", { class: "fx-note" }, "Without the mask a token also sees what comes after it. A model that writes from left to right never did, so these weights are not its own.");
  const root = h("div", { class: "fx fx-am", role: "group", "aria-label": "Attention map" },
    h("div", { class: "fx-bar" }, layer.el, headPick.el, causal.el, scaled.el, view.el),
    strip, sentence, masked, mapView, table, live.el,
    h("div", { class: "fx-bar" }, h("p", { class: "fx-note fx-am-help" }, "Point at a token, tap it, or use the arrow keys. Positions count from 0."),
      saveButtons(() => picture(), "attention-map")));
  el.append(root);

  function update() {
    const from = state.token;
    for (const key of ["layer", "head", "token", "causal", "scaled", "view"]) state[key] = model.get(key);
    layer.set(state.layer);
    headPick.set(state.head);
    causal.set(state.causal);
    scaled.set(state.scaled);
    view.set(state.view);
    masked.hidden = state.causal;
    mapView.hidden = state.view !== "map";
    table.hidden = state.view !== "table";
    for (const item of small) {
      const on = item.layer === state.layer && item.head === state.head;
      item.el.setAttribute("aria-pressed", on);
      item.el.tabIndex = on ? 0 : -1;
    }
    canvas.setAttribute("aria-label", `Map of the weights of layer ${state.layer}, head ${state.head}: ${length} rows that look, ${length} columns looked at. The table shows the same numbers.`);
    showRow();
    if (state.token !== from && !strip.matches(":hover")) reveal();
    work.again();
  }

  function recolour() {
    theme = Object.fromEntries(["ink", "paper", "muted", "line", "accent"].map((name) => [name, css(color(root, `--fx-${name}`))]));
    theme.shades = ramp(root);
    const [paper, accent] = ["--fx-paper", "--fx-accent"].map((name) => toLab(color(root, name)));
    theme.tints = Array.from({ length: 51 }, (_, n) => // behind words: half-way to the accent at most
      css(fromLab(paper.map((c, k) => c + (n / 100) * (accent[k] - c)))));
    const stops = [0, 32, 64, 96, 128, 160, 192, 224, 255].map((n) => css(theme.shades.slice(3 * n, 3 * n + 3)));
    legend.firstChild.style.background = `linear-gradient(to right, ${stops.join()})`;
    for (const item of small) item.done = "";
    for (const cell of cells) cell.shade = -1;
    drawn = null;
    if (state.token === undefined) return; // nothing is shown yet
    showRow();
    work.again();
  }

  recolour();
  update();
  watch(model, ["layer", "head", "token", "causal", "scaled", "view"], perFrame(update), life.signal);
  onTheme(root, recolour, life.signal);
  onResize(mapBox, (width) => {
    size = Math.max(120, Math.min(width, 480) - gutter - edge);
    legend.style.width = `${size}px`;
    drawn = null;
    drawLines();
    work();
  }, life.signal);
  return () => life.abort();
}

export default { render };
export { attentionRow, entropy, halfToFloat, largest, scoreRow, unpackHead, visible };
