/* Quantizer: a row of weights in a few bits: its levels, codes, errors and bytes.
   The first part computes and touches no page; tests hold it equal to effedu.quantization. */

const f32 = Math.fround; // every step is rounded to float32, as it is in Python

/** The nearest whole number, and of two that are equally near the even one, as torch.round. */
export function roundEven(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + Math.abs(low % 2) : Math.round(x) + 0;
}

/** The least bfloat16, which is a float32 without its last 16 bits, that is not below `x`. */
export function bfloat16Up(x) {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, x);
  const [upper, rest] = [view.getUint16(0), view.getUint16(2)];
  view.setUint32(0, ((upper + (rest && x > 0 ? 1 : 0)) << 16) >>> 0);
  return view.getFloat32(0);
}

/** What a code stands for in its group. */
export const levelOf = ({ scale, offset }, code) => (offset === null ? f32(code * scale) : f32(f32(code * scale) + offset));

/** `row` in groups of `size` weights that share a grid (null: one group). Symmetric codes count from
    the middle, others from the lowest level, the offset. */
export function quantizeRow(row, bits, size, symmetric, scaleDtype) {
  const hold = scaleDtype === "bfloat16" ? bfloat16Up : f32;
  const steps = 2 ** bits - 1;
  const [low, high] = symmetric ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, steps];
  const codes = new Int16Array(row.length);
  const restored = new Float32Array(row.length);
  const groups = [];
  for (let start = 0; start < row.length; start += size ?? row.length) {
    const stop = Math.min(row.length, start + (size ?? row.length));
    let [least, most] = [Infinity, -Infinity];
    for (let j = start; j < stop; j += 1) [least, most] = [Math.min(least, row[j]), Math.max(most, row[j])];
    const offset = symmetric ? null : -hold(-least) + 0;
    const wanted = symmetric ? f32(Math.max(-least, most) / (steps / 2)) : f32(f32(most / steps) - f32(offset / steps));
    const scale = hold(wanted < 2 ** -126 ? 1 : wanted); // without any spread every scale will do
    const step = f32(1 / scale);
    for (let j = start; j < stop; j += 1) {
      const code = roundEven(f32((symmetric ? row[j] : f32(row[j] - offset)) * step));
      codes[j] = Math.max(low, Math.min(high, code));
      restored[j] = levelOf({ scale, offset }, codes[j]);
    }
    groups.push({ start, stop, scale, offset });
  }
  return { codes, restored, groups, low, high };
}

/** The largest and the root-mean-square error of the weights for which `counts(j)` holds. */
export function errors(row, restored, counts = () => true) {
  let [largest, squares, power, n] = [0, 0, 0, 0];
  for (let j = 0; j < row.length; j += 1) {
    if (!counts(j)) continue;
    const error = Math.abs(restored[j] - row[j]);
    largest = Math.max(largest, error);
    squares += error * error;
    power += row[j] * row[j];
    n += 1;
  }
  return { n, largest_error: largest, rms_error: Math.sqrt(squares / n), signal_to_noise: 10 * Math.log10(power / squares),
    relative: power ? Math.sqrt(squares / power) : 0 };
}

/** Bytes of `n` weights: codes packed in eights, and the scales and offsets of the groups. */
export function bytesOf(n, groups, bits, symmetric, scaleDtype) {
  const each = groups * (scaleDtype === "bfloat16" ? 2 : 4);
  const parts = { codes: bits === 8 ? n : bits * Math.ceil(n / 8), scales: each, offsets: symmetric ? 0 : each };
  return { ...parts, all: parts.codes + parts.scales + parts.offsets };
}

/** The row with one of its weights made larger, as float32. */
export function stretched(row, index, factor) {
  const copy = Float32Array.from(row);
  copy[index] = row[index] * Math.fround(factor);
  return copy;
}

// The page -------------------------------------------------------------------------------------

const TRAITS = ["bits", "group_size", "symmetric", "scale_dtype", "index", "factor"];
const BITS = [2, 3, 4, 8];
const FACTORS = [1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100];
const whole = (n) => n.toLocaleString("en");
/** Three digits of a number of any size. */
const three = (x) => (Number.isFinite(x) ? String(Number(x.toPrecision(3))) : "∞").replace("-", "−");
const percent = (x) => `${three(100 * x)}\u00a0%`;

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const view = model.get("row_bytes");
  const row = Float32Array.from({ length: view.byteLength / 4 }, (_, j) => view.getFloat32(4 * j, true));
  const n = row.length;
  const name = model.get("name") || "the row";
  const loudest = row.reduce((best, w, j) => (Math.abs(w) > Math.abs(row[best]) ? j : best), 0);
  const sizes = Array.from({ length: n - 1 }, (_, i) => i + 1).filter((size) => size >= 8 && n % size === 0).reverse();
  const sameGroup = (a, b) => a === b || (a ?? n) === (b ?? n);
  const near = (x) => FACTORS.reduce((best, f, i) => (Math.abs(Math.log(f / x)) < Math.abs(Math.log(FACTORS[best] / x)) ? i : best), 0);

  /** Everything there is to show, computed anew: a thousand weights take a millisecond or two. */
  function compute() {
    const q = Object.fromEntries(TRAITS.map((trait) => [trait, model.get(trait)]));
    const weights = stretched(row, q.index, q.factor);
    const now = quantizeRow(weights, q.bits, q.group_size, q.symmetric, q.scale_dtype);
    const size = q.group_size ?? n;
    const at = Math.floor(q.index / size);
    return { ...q, weights, now, size, at, group: now.groups[at], all: errors(weights, now.restored) };
  }

  // Controls ------------------------------------------------------------------------------------
  const bits = segmented({ label: "Bits a weight", options: BITS.map((b) => [b, String(b)]), value: 4, onchange: (v) => put("bits", v) });
  const given = model.get("group_size");
  const listed = given === null || given === n || sizes.includes(given) ? sizes : [...sizes, given].sort((a, b) => b - a);
  const group = select({
    label: "Group size", value: null, options: [[null, `whole row: ${whole(n)}`], ...listed.map((size) => [size, `${size} weights`])],
    onchange: (v) => put("group_size", v),
  });
  const symmetric = segmented({
    label: "Levels", options: [[true, "symmetric"], [false, "with offset"]], value: true, onchange: (v) => put("symmetric", v),
  });
  const scaleDtype = segmented({
    label: "Scales in", options: [["float32", "float32"], ["bfloat16", "bfloat16"]], value: "float32", onchange: (v) => put("scale_dtype", v),
  });
  const index = range({
    label: "Weight", min: 0, max: n - 1, value: 0, text: (j) => `number ${j}`, oninput: (v) => put("index", v),
  });
  const factor = range({
    label: "This weight made larger", min: 0, max: FACTORS.length - 1, value: 0,
    text: (i) => { const x = near(model.get("factor")) === i ? model.get("factor") : FACTORS[i]; return x === 1 ? "as it is" : `${three(x)} times`; },
    oninput: (i) => put("factor", FACTORS[i]),
  });
  const largest = button("Largest weight", () => put("index", loudest));

  // Picture -------------------------------------------------------------------------------------
  const [left, right] = [52, 6];
  const places = { row: { top: 24, height: 96 }, error: { top: 160, height: 56 }, line: { top: 256, height: 104 }, choice: { top: 446, height: 120 } };
  const svg = s("svg", { role: "img", class: "fxq-svg" });
  const figure = h("div", { class: "fxq-figure" }, svg);
  let size = 0; // the picture's width
  let hits = null; // how the last drawing maps the pointer to weights and choices

  const path = (kind, d, props) => s("path", { class: `fxq-${kind}`, d, ...props });
  const text = (x, y, words, props) => s("text", { x, y, "paint-order": "stroke", ...props }, words);
  const end = { "text-anchor": "end" };
  const middle = { "text-anchor": "middle" };
  const r1 = (v) => Math.round(10 * v) / 10;

  function drawRow(c, x, step) {
    const { top, height } = places.row;
    const edges = c.now.groups.flatMap((g) => [levelOf(g, c.now.low), levelOf(g, c.now.high)]);
    const reach = Math.max(...edges.map(Math.abs), ...c.weights.map(Math.abs)) || 1;
    const y = (w) => r1(top + (height / 2) * (1 - w / reach));
    const bars = (keep) => Array.from(c.weights, (w, j) => (keep(j) ? `M${r1(x(j))} ${y(0)}V${y(w)}` : "")).join("");
    const band = (g) => `M${r1(x(g.start - 0.5))} ${y(levelOf(g, c.now.high))}H${r1(x(g.stop - 0.5))}V${y(levelOf(g, c.now.low))}H${r1(x(g.start - 0.5))}z`;
    const inside = (j) => j >= c.group.start && j < c.group.stop;
    const thick = { "stroke-width": Math.max(1, Math.min(6, 0.7 * step)) };
    return [text(0, top - 9, "Weights, and the range of their levels", { class: "fxq-title" }),
      path("range", c.now.groups.map(band).join("")), path("here", band(c.group)),
      path("bars", bars((j) => !inside(j)), thick), path("mine", bars(inside), thick),
      path("axis", `M${left} ${y(0)}H${size - right}`),
      path("pick", `M${r1(x(c.index))} ${y(0)}V${y(c.weights[c.index])}`, { "stroke-width": Math.max(2, thick["stroke-width"]) }),
      s("circle", { class: "fxq-dot", cx: r1(x(c.index)), cy: y(c.weights[c.index]), r: 3.5 }),
      text(left - 6, top + 9, three(reach), end), text(left - 6, y(0) + 4, "0", end), text(left - 6, top + height, three(-reach), end)];
  }

  function drawErrors(c, x, step) {
    const { top, height } = places.error;
    const reach = Math.max(...c.now.groups.map((g) => g.scale / 2), c.all.largest_error);
    const y = (e) => r1(top + (height / 2) * (1 - e / reach));
    const bar = (j) => `M${r1(x(j))} ${y(0)}V${y(c.now.restored[j] - c.weights[j])}`;
    const bounds = (sign) => c.now.groups.map((g) => `M${r1(x(g.start - 0.5))} ${y((sign * g.scale) / 2)}H${r1(x(g.stop - 0.5))}`).join("");
    return [text(0, top - 9, "Errors, and half a step: their bound", { class: "fxq-title" }),
      path("bars", Array.from(c.weights, (_, j) => bar(j)).join(""), { "stroke-width": Math.max(1, Math.min(6, 0.7 * step)) }),
      path("bound", bounds(1) + bounds(-1)), path("axis", `M${left} ${y(0)}H${size - right}`),
      path("pick", bar(c.index), { "stroke-width": Math.max(2, Math.min(6, 0.7 * step)) }),
      text(left - 6, top + 9, three(reach), end), text(left - 6, y(0) + 4, "0", end)];
  }

  function drawLine(c) {
    const { top, height } = places.line;
    const { group: g, now } = c;
    const own = c.weights.subarray(g.start, g.stop);
    const levels = Array.from({ length: now.high - now.low + 1 }, (_, i) => levelOf(g, now.low + i));
    const [low, high] = [Math.min(levels[0], ...own) - 0.6 * g.scale, Math.max(levels.at(-1), ...own) + 0.6 * g.scale];
    const x = (w) => left + ((w - low) / (high - low)) * (size - left - right);
    const base = top + height;
    // Behind: all weights of the row. In front: how many of the group's weights each level stands for.
    const bins = new Array(Math.max(16, Math.min(80, Math.floor((size - left) / 6)))).fill(0);
    const cell = (size - left - right) / bins.length;
    for (const w of c.weights) { const i = Math.floor((x(w) - left) / cell); if (i >= 0 && i < bins.length) bins[i] += 1; }
    const counts = levels.map((_, i) => now.codes.subarray(g.start, g.stop).filter((code) => code === now.low + i).length);
    const tall = (v, list) => r1(base - ((height - 12) * v) / Math.max(1, ...list));
    const gap = x(levels[1]) - x(levels[0]);
    const every = [1, 2, 4, 8, 16, 32, 64].find((k) => k * gap >= 26) ?? 128;
    const [w, level] = [c.weights[c.index], now.restored[c.index]];
    hits.line = { x, own };
    return [text(0, top - 9, `Group ${c.at} on its number line`, { class: "fxq-title" }),
      path("behind", bins.map((v, i) => (v ? `M${r1(left + i * cell)} ${base}V${tall(v, bins)}h${r1(cell)}V${base}z` : "")).join("")),
      path("stems", counts.map((v, i) => (v ? `M${r1(x(levels[i]))} ${base}V${tall(v, counts)}` : "")).join(""), { "stroke-width": Math.max(1, Math.min(5, 0.5 * gap)) }),
      path("axis", `M${left} ${base}H${size - right}`),
      path("ticks", levels.map((v) => `M${r1(x(v))} ${base}v5`).join("")),
      levels.flatMap((v, i) => ((now.low + i) % every ? [] : [text(r1(x(v)), base + 18, String(now.low + i).replace("-", "−"), middle)])),
      path("move", `M${r1(x(w))} ${base + 30}H${r1(x(level))}`), path("pick", `M${r1(x(level))} ${base + 24}v12`, { "stroke-width": 2 }),
      s("circle", { class: "fxq-dot", cx: r1(x(w)), cy: base + 30, r: 4 }),
      text(0, base + 18, "code"), text(0, base + 34, "weight"), text(left - 6, top + 19, whole(Math.max(...counts)), end)];
  }

  function drawChoices(c) {
    const { top, height } = places.choice;
    const points = BITS.map((b) => [null, ...listed].map((of) => {
      const { restored, groups } = quantizeRow(c.weights, b, of, c.symmetric, c.scale_dtype);
      return { bits: b, of, each: (8 * bytesOf(n, groups.length, b, c.symmetric, c.scale_dtype).all) / n, error: errors(c.weights, restored).relative };
    }));
    const flat = points.flat().filter((p) => p.error > 0);
    if (!flat.length) return [];
    const most = Math.max(...flat.map((p) => p.each));
    const [least, worst] = [Math.min(...flat.map((p) => p.error)) / 1.2, Math.max(...flat.map((p) => p.error)) * 1.2];
    const x = (each) => left + 8 + ((each - 2) / (most - 2)) * (size - left - right - 16);
    const y = (error) => r1(top + 12 + ((height - 12) * Math.log(worst / error)) / Math.log(worst / least));
    hits.choices = flat.map((p) => ({ ...p, x: x(p.each), y: y(p.error) }));
    const ticks = [1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001].filter((v) => v < worst && v > least);
    const here = hits.choices.find((p) => p.bits === c.bits && sameGroup(p.of, c.group_size));
    const wide = [2, 4, 6, 8, 12, 16, 24, 32].filter((v) => v <= most + 0.01);
    return [text(0, top - 9, "All choices: error of 2, 3, 4 and 8 bits", { class: "fxq-title" }),
      path("grid", ticks.map((v) => `M${left} ${y(v)}H${size - right}`).join("")),
      ticks.map((v) => text(left - 6, y(v) + 4, percent(v), end)),
      wide.map((v) => text(r1(x(v)), top + height + 18, String(v), middle)),
      text(size - right, top + height + 34, "bits a weight, scales included", end),
      path("join", points.map((list) => list.filter((p) => p.error > 0).map((p, i) => `${i ? "L" : "M"}${r1(x(p.each))} ${y(p.error)}`).join("")).join("")),
      flat.map((p) => s("circle", { class: "fxq-choice", cx: r1(x(p.each)), cy: y(p.error), r: 3 })),
      points.map((list) => (list[0].error > 0 ? text(r1(x(list[0].each)) - 3, y(list[0].error) - 7, String(list[0].bits), { class: "fxq-strong" }) : null)),
      here ? s("circle", { class: "fxq-ring", cx: r1(here.x), cy: here.y, r: 7 }) : null];
  }

  function draw(c) {
    const step = (size - left - right) / n;
    const x = (j) => left + (j + 0.5) * step;
    hits = { index: (px) => Math.max(0, Math.min(n - 1, Math.floor((px - left) / step))), choices: [] };
    append((svg.replaceChildren(), svg), [drawRow(c, x, step), drawErrors(c, x, step), drawLine(c), drawChoices(c)]);
    const height = places.choice.top + places.choice.height + 40;
    for (const [key, value] of Object.entries({ width: size, height, viewBox: `0 0 ${size} ${height}` })) svg.setAttribute(key, value);
  }

  // Pointing picks a weight in the upper three parts, and a choice in the last. Fingers still scroll.
  function point(event) {
    if (!hits || (event.type === "pointermove" && !event.buttons)) return;
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    if (py < places.line.top - 20) put("index", hits.index(px));
    else if (py < places.choice.top - 20) {
      const { x, own } = hits.line;
      const best = own.reduce((a, w, j) => (Math.abs(x(w) - px) < Math.abs(x(own[a]) - px) ? j : a), 0);
      if (event.type === "pointerdown") put("index", Math.floor(model.get("index") / own.length) * own.length + best);
    } else if (event.type === "pointerdown" && hits.choices.length) {
      const far = (p) => (p.x - px) ** 2 + (p.y - py) ** 2;
      const best = hits.choices.reduce((a, b) => (far(b) < far(a) ? b : a));
      put("bits", best.bits);
      put("group_size", best.of);
    }
  }
  figure.addEventListener("pointerdown", point, { signal: life.signal });
  figure.addEventListener("pointermove", point, { signal: life.signal });

  // Words ---------------------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const sentence = h("p", { class: "fx-readout" });
  const about = h("p", { class: "fx-readout" });
  const line = (words) => {
    const cells = [h("td", {}), h("td", {}), h("td", {})];
    return { el: h("tr", {}, h("th", { scope: "row", class: "fx-text" }, words), cells), tell: (...said) => cells.forEach((cell, i) => { cell.textContent = said[i] ?? ""; }) };
  };
  const table = (caption, heads, lines) => h("table", { class: "fx-table fxq-table" }, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, h("td", {}), heads.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, lines.map((one) => one.el)));
  const [one, others, rest, total] = ["this weight", "others in its group", "other groups", "whole row"].map(line);
  const [codes, scales, offsets, stored, full, half] = ["codes", "scales", "offsets", "together", "in float32", "in float16"].map(line);
  const errorTable = table("Errors", ["largest", "RMS", "RMS before"], [one, others, rest, total]);
  const byteTable = table("Storage", ["bytes", "bits a weight", "of float16"], [codes, scales, offsets, stored, full, half]);
  const note = h("p", { class: "fx-note" }, "RMS is the root of the mean squared error; “before” is with every weight as it was trained.");

  function tell(c) {
    const { now, group: g } = c;
    const levels = now.high - now.low + 1;
    const used = new Set(now.codes.subarray(g.start, g.stop)).size;
    const size_ = bytesOf(n, now.groups.length, c.bits, c.symmetric, c.scale_dtype);
    big.textContent = `${percent(c.all.relative)} off at ${three((8 * size_.all) / n)} bits a weight`;
    sentence.textContent = `${levels} levels for each ${now.groups.length === 1 ? "weight of the row" : `group of ${c.size}`}. In group ${c.at} they stand ${three(g.scale)} apart, and its ${g.stop - g.start} weights use ${used} of them. `
      + `Signal-to-noise ratio of the whole row: ${Number.isFinite(c.all.signal_to_noise) ? `${c.all.signal_to_noise.toFixed(1)} dB` : "no noise"}.`;
    const before = quantizeRow(row, c.bits, c.group_size, c.symmetric, c.scale_dtype);
    const stretch = g.scale / before.groups[c.at].scale;
    about.textContent = `Weight ${c.index}, ${three(c.weights[c.index])}, gets code ${String(now.codes[c.index]).replace("-", "−")}, which stands for ${three(now.restored[c.index])}.`
      + (c.factor === 1 ? "" : ` Made ${three(c.factor)} times larger, it ${stretch > 1 ? `stretches the step ${three(stretch)} times for ${now.groups.length === 1 ? "all other weights" : "its group, and for no other"}` : "changes no step"}.`);
    const inside = (j) => j >= g.start && j < g.stop;
    for (const [cells, counts] of [[one, (j) => j === c.index], [others, (j) => inside(j) && j !== c.index], [rest, (j) => !inside(j)], [total, undefined]]) {
      const [found, was] = [errors(c.weights, now.restored, counts), errors(row, before.restored, counts)];
      cells.tell(...(found.n ? [three(found.largest_error), three(found.rms_error), three(was.rms_error)] : ["–", "–", "–"]));
    }
    for (const [cells, b] of [[codes, size_.codes], [scales, size_.scales], [offsets, size_.offsets], [stored, size_.all], [full, 4 * n], [half, 2 * n]]) {
      cells.tell(whole(b), three((8 * b) / n), percent(b / (2 * n)));
    }
    live.say(`${big.textContent}. ${about.textContent}`);
    svg.setAttribute("aria-label", `Weights and errors of ${name}, the number line of group ${c.at}, and the error of all choices against their size. ${big.textContent}. ${sentence.textContent} ${about.textContent}`);
  }

  const listCaption = h("caption", {});
  const listBody = h("tbody", {});
  const list = h("details", { ontoggle: () => fill(compute()) }, h("summary", {}, "The group as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "The group as a table" },
      h("table", { class: "fx-table" }, listCaption, h("thead", {}, h("tr", {}, ["Number", "Weight", "Code", "Stands for", "Error"].map((t) => h("th", { scope: "col" }, t)))), listBody)));
  function fill(c) {
    if (!list.open) return;
    const { group: g, now, weights } = c;
    listCaption.textContent = `Group ${c.at}: a code stands for code × ${three(g.scale)}${c.symmetric ? "" : ` ${g.offset < 0 ? "−" : "+"} ${three(Math.abs(g.offset))}`}`;
    listBody.replaceChildren(...Array.from({ length: g.stop - g.start }, (_, i) => {
      const j = g.start + i;
      return h("tr", { "aria-current": j === c.index ? "true" : null }, h("th", { scope: "row" }, String(j)),
        [three(weights[j]), String(now.codes[j]).replace("-", "−"), three(now.restored[j]), three(now.restored[j] - weights[j])].map((t) => h("td", {}, t)));
    }));
  }

  // All together --------------------------------------------------------------------------------
  el.append(h("div", { class: "fx fx-quantizer", role: "group", "aria-label": "Quantizer" },
    h("div", { class: "fx-bar" }, bits.el, group.el, symmetric.el, scaleDtype.el),
    h("div", { class: "fx-bar" }, index.el, factor.el, largest),
    h("div", { class: "fxq-parts" },
      h("div", { class: "fxq-say" }, big, sentence, about),
      h("div", { class: "fxq-look" }, figure, h("p", { class: "fx-note" }, `${whole(n)} weights: ${name}. Click a weight or a dot to choose it. On the number line, bars count the group's weights at each level, and behind them lie all weights of the row. Below, each line joins the group sizes, the whole row first.`)),
      h("div", { class: "fxq-rest" }, errorTable, byteTable, note)),
    list, saveButtons(() => svg, "quantizer"), live.el));

  const update = () => {
    const c = compute();
    bits.set(c.bits);
    group.set(sameGroup(c.group_size, null) ? null : c.group_size);
    symmetric.set(c.symmetric);
    scaleDtype.set(c.scale_dtype);
    index.set(c.index);
    factor.set(near(c.factor));
    if (size) draw(c);
    tell(c);
    fill(c);
  };
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { size = w; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
