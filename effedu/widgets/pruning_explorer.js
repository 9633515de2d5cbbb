/* PruningExplorer: keep the large weights of one row, drop the others, and see what that does.
   The first part computes and touches no page; tests hold it equal to pruning_explorer.py. */

/** One IEEE 754 half, given as its 16 bits, as a number. */
function halfToFloat(bits) {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** `count` numbers of little-endian float16 data from number `start` on. */
function unpack(view, start, count) {
  return Float64Array.from({ length: count }, (_, i) => halfToFloat(view.getUint16(2 * (start + i), true)));
}

/** The weights of a row: the softmax of its scores. */
function softmax(scores) {
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** The least weight that stays: the k-th largest, or the threshold, but at most the largest. */
function limitOf(weights, method, k, threshold) {
  const sorted = Float64Array.from(weights).sort().reverse();
  return method === "topk" ? sorted[Math.min(k, sorted.length) - 1] : Math.min(threshold, sorted[0]);
}

/** Row `row` = { weights, values: seen x width, width }, cut at `limit`. */
export function prune({ weights, values, width }, limit) {
  const seen = weights.length;
  const kept = Array.from(weights.keys()).filter((j) => weights[j] >= limit);
  const mass = kept.reduce((sum, j) => sum + weights[j], 0);
  const stays = new Set(kept);
  let [error, range] = [0, 0];
  for (let c = 0; c < width; c += 1) {
    let [dense, pruned, low, high] = [0, 0, Infinity, -Infinity];
    for (let j = 0; j < seen; j += 1) {
      const v = values[j * width + c];
      dense += weights[j] * v;
      if (stays.has(j)) pruned += (weights[j] / mass) * v;
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
    error = Math.max(error, Math.abs(pruned - dense));
    range = Math.max(range, high - low);
  }
  return {
    kept, kept_mass: mass, error, bound: Math.max(0, 1 - mass) * range,
    dense_multiply_adds: 2 * seen * width,
    pruned_multiply_adds: (seen + kept.length) * width,
    chosen_multiply_adds: 2 * kept.length * width,
  };
}

/** What the model's state says, read from its bytes. */
export function readRow(model, layer, head, token) {
  const [, heads, length, width] = model.get("shape");
  const at = layer * heads + head;
  const scores = unpack(model.get("score_bytes"), (at * length + token) * length, token + 1);
  return { weights: softmax(scores), values: unpack(model.get("value_bytes"), at * length * width, (token + 1) * width), width };
}

export { limitOf, softmax };

// The page -------------------------------------------------------------------------------------

const TRAITS = ["layer", "head", "token", "method", "k", "threshold"];
const THRESHOLDS = [0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];
const shown = (token) => token.replace(/ /g, "·").replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥") || "∅";
const percent = (x) => `${(100 * x).toFixed(x > 0.999 && x < 1 ? 2 : 1)}\u00a0%`;
const small = (x) => (x === 0 ? "0" : Number(x.toPrecision(2)).toString());

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const tokens = model.get("tokens").map(shown);
  const [layers, heads, length] = model.get("shape");
  let [width, row, now, curve] = [0, null, null, []];

  // Controls
  const numbersTo = (n) => Array.from({ length: n }, (_, i) => [i, String(i)]);
  const layer = select({ label: "Layer", options: numbersTo(layers), onchange: (v) => put("layer", v) });
  const head = select({ label: "Head", options: numbersTo(heads), onchange: (v) => put("head", v) });
  const method = segmented({
    label: "Keep", options: [["topk", "k largest"], ["threshold", "above a threshold"]], onchange: (v) => put("method", v),
  });
  const k = range({ label: "Keys kept, k", min: 1, max: length, value: 1, oninput: (v) => put("k", v) });
  const near = (v) => THRESHOLDS.reduce((best, x, i) => (Math.abs(x - v) < Math.abs(THRESHOLDS[best] - v) ? i : best), 0);
  const threshold = range({
    label: "Least weight kept", min: 0, max: THRESHOLDS.length - 1, value: 0,
    text: (i) => String(near(model.get("threshold")) === i ? model.get("threshold") : THRESHOLDS[i]),
    oninput: (i) => put("threshold", THRESHOLDS[i]),
  });

  // The text: a list box, so that one Tab reaches it and the arrows move in it.
  const cells = tokens.map((text) => {
    const weight = h("small", {});
    return { weight, el: h("span", { role: "option", class: "fxr-token", id: uid("token") }, h("span", {}, text), weight) };
  });
  const strip = h("div", {
    role: "listbox", tabindex: "0", class: "fxr-strip", "aria-orientation": "horizontal",
    "aria-label": "Tokens of the text: choose the one that looks",
    onclick: (event) => {
      const i = cells.findIndex((cell) => cell.el.contains(event.target));
      if (i >= 0) put("token", i);
    },
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -length, End: length }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      put("token", Math.max(0, Math.min(length - 1, model.get("token") + step)));
    },
  }, cells.map((cell) => cell.el));

  // The picture: error and bound for every number of kept keys.
  const parts = Object.fromEntries(["axis", "bound", "error", "now"].map((name) => [name, s("path", { class: `fxr-${name}` })]));
  const texts = Object.fromEntries(["top", "first", "last", "bound", "error"].map((name) => [name, s("text", { class: ["bound", "error"].includes(name) ? "fxr-name" : "" })]));
  const title = s("text", { x: 44, y: 12 }, "largest error of the output, and its bound");
  const svg = s("svg", { role: "img", class: "fxr-svg" }, Object.values(parts), Object.values(texts), title);
  const figure = h("div", { class: "fxr-figure" }, svg);
  const box = { left: 44, top: 24, height: 160 };
  const xOf = (n) => box.left + ((n - 1) / Math.max(1, row.weights.length - 1)) * box.width;
  const place = (node, x, y, words, anchor = "start") => {
    for (const [name, value] of Object.entries({ x, y, "text-anchor": anchor })) node.setAttribute(name, value);
    node.textContent = words;
  };

  function draw() {
    if (!width) return;
    box.width = Math.max(80, Math.min(width, 520) - box.left - 8);
    const bottom = box.top + box.height;
    const top = Math.max(curve[0].bound, 1e-9);
    const y = (v) => bottom - (v / top) * box.height;
    const line = (name) => curve.map((n, i) => `${i ? "L" : "M"}${xOf(i + 1).toFixed(2)} ${y(n[name]).toFixed(2)}`).join("");
    parts.axis.setAttribute("d", `M${box.left} ${box.top}V${bottom}h${box.width}`);
    parts.bound.setAttribute("d", line("bound"));
    parts.error.setAttribute("d", line("error"));
    parts.now.setAttribute("d", `M${xOf(now.kept.length)} ${box.top}V${bottom + 4}`);
    place(texts.top, box.left - 6, box.top + 8, small(top), "end");
    place(texts.first, box.left, bottom + 18, "1 key kept");
    place(texts.last, box.left + box.width, bottom + 18, `all ${row.weights.length}`, "end");
    const right = box.left + box.width;
    place(texts.bound, right, box.top + 14, "- - bound", "end");
    place(texts.error, right, box.top + 32, "— error", "end");
    for (const [name, value] of [["width", right + 8], ["height", bottom + 24], ["viewBox", `0 0 ${right + 8} ${bottom + 24}`]]) svg.setAttribute(name, value);
  }

  const point = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const seen = row.weights.length;
    const at = event.clientX - svg.getBoundingClientRect().left - box.left;
    put("method", "topk");
    put("k", Math.max(1, Math.min(seen, Math.round(1 + (at / box.width) * (seen - 1)))));
  };
  figure.addEventListener("pointerdown", point, { signal: life.signal });
  figure.addEventListener("pointermove", point, { signal: life.signal });

  // Words
  const big = h("p", { class: "fx-big" });
  const lost = h("p", { class: "fx-readout" });
  const costs = ["scores", "values", "together"].map((name) => {
    const cellsOf = [h("td", {}), h("td", {}), h("td", {})];
    return { cells: cellsOf, el: h("tr", {}, h("th", { scope: "row", class: "fx-text" }, name), cellsOf) };
  });
  const table = h("table", { class: "fx-table fxr-costs" }, h("caption", {}, "Multiply-adds for this row"),
    h("thead", {}, h("tr", {}, h("td", {}), ["dense", "pruned after scoring", "chosen before"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, costs.map((c) => c.el)));
  const note = h("p", { class: "fx-note" }, "Pruning has to know all scores before it can say which are small, and then sorts or compares them: "
    + "extra work, which multiply-adds don't count. The last column is out of reach, for it would know the answer beforehand.");
  const body = h("tbody", {});
  const rowCaption = h("caption", {});
  const whole = h("details", { ontoggle: () => list() }, h("summary", {}, "The row as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "The row as a table" },
      h("table", { class: "fx-table" }, rowCaption, h("thead", {}, h("tr", {}, ["position", "token", "weight", "after pruning"].map((t) =>
        h("th", { scope: "col", class: t === "token" ? "fx-text" : "" }, t)))), body)));

  function list() {
    if (!whole.open) return;
    rowCaption.textContent = `Layer ${model.get("layer")}, head ${model.get("head")}: weights of token ${model.get("token")}`;
    const stays = new Set(now.kept);
    body.replaceChildren(...Array.from(row.weights, (w, j) => h("tr", {}, h("td", {}, String(j)),
      h("th", { scope: "row", class: "fx-text" }, tokens[j]), h("td", {}, number(w, 4)),
      h("td", {}, stays.has(j) ? number(w / now.kept_mass, 4) : "dropped"))));
  }

  function tell(token) {
    const seen = row.weights.length;
    big.textContent = `${percent(now.kept_mass)} of the weight kept`;
    lost.textContent = `Token ${token}, “${tokens[token]}”, keeps ${now.kept.length} of ${seen} keys. `
      + `Its output changes by at most ${small(now.error)}; the bound allows ${small(now.bound)}.`;
    live.say(`${big.textContent}. ${lost.textContent}`);
    const [w, n] = [row.width, now.kept.length];
    [[seen * w, seen * w, n * w], [seen * w, n * w, n * w],
      [now.dense_multiply_adds, now.pruned_multiply_adds, now.chosen_multiply_adds]]
      .forEach((line, i) => line.forEach((v, j) => { costs[i].cells[j].textContent = v.toLocaleString("en"); }));
    svg.setAttribute("aria-label", `Error and bound against the number of kept keys, from 1 to ${seen}. ${lost.textContent}`);
    const stays = new Set(now.kept);
    cells.forEach(({ el: cell, weight }, j) => {
      cell.classList.toggle("is-future", j > token);
      cell.classList.toggle("is-kept", stays.has(j));
      cell.classList.toggle("is-dropped", j <= token && !stays.has(j));
      weight.textContent = j <= token && row.weights[j] >= 0.01 ? row.weights[j].toFixed(2).replace(/^0/, "") : "";
    });
    strip.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    cells[token].el.setAttribute("aria-selected", "true");
    strip.setAttribute("aria-activedescendant", cells[token].el.id);
  }

  let drawn = "";
  function update() {
    const p = Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
    const key = [p.layer, p.head, p.token].join();
    if (drawn !== key) {
      drawn = key;
      row = readRow(model, p.layer, p.head, p.token);
      const sorted = Float64Array.from(row.weights).sort().reverse();
      curve = Array.from(sorted, (limit) => prune(row, limit));
    }
    now = prune(row, limitOf(row.weights, p.method, p.k, p.threshold));
    layer.set(p.layer);
    head.set(p.head);
    method.set(p.method);
    k.el.hidden = p.method !== "topk";
    threshold.el.hidden = p.method === "topk";
    k.set(p.k);
    threshold.set(near(p.threshold));
    tell(p.token);
    draw();
    list();
  }

  el.append(h("div", { class: "fx fx-pruning", role: "group", "aria-label": "Pruning explorer" },
    h("div", { class: "fx-bar fxr-controls" }, layer.el, head.el, method.el, k.el, threshold.el),
    strip,
    h("div", { class: "fx-cols" }, h("div", {}, figure),
      h("div", { class: "fxr-side" }, big, lost, h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "Costs" }, table), note)),
    whole, saveButtons(() => svg, "pruning"), live.el));
  update();
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { width = w; draw(); }, life.signal);
  return () => life.abort();
}

export default { render };
