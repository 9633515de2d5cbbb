/* TilingStepper: the softmax of one query, computed tile by tile as FlashAttention does.
   The first part computes and touches no page; tests hold it equal to tiling_steps in Python. */

/** The largest number a format holds; what is larger becomes infinite. */
const LIMITS = { float16: 65504, float32: 3.4028234663852886e38 };

/** Softmax and its weighted mean of values all at once: what the tiles must arrive at. */
export function fullSoftmax(scores, values, width) {
  let largest = -Infinity;
  for (const score of scores) if (score > largest) largest = score;
  const weights = Float64Array.from(scores, (score) => Math.exp(score - largest));
  const sum = weights.reduce((a, b) => a + b, 0);
  const output = new Float64Array(width);
  for (let j = 0; j < scores.length; j += 1) {
    weights[j] /= sum;
    for (let c = 0; c < width; c += 1) output[c] += weights[j] * values[j * width + c];
  }
  return { weights, output };
}

/** One step for each tile: what was kept `before` it, what the `tile` adds, what is kept `after` it.
    `method` is "online", "unscaled" (what was summed is never rescaled) or "naive" (no maximum is
    subtracted, and a number above `limit` overflows). Outputs are divided by sums only at the end. */
export function tilingSteps(scores, values, width, tile, method = "online", limit = Infinity) {
  const hold = (x) => (method === "naive" && Math.abs(x) > limit ? Math.sign(x) * Infinity : x);
  const steps = [];
  let state = { maximum: -Infinity, sum: 0, output: new Float64Array(width) };
  for (let start = 0; start < scores.length; start += tile) {
    const stop = Math.min(scores.length, start + tile);
    const added = { maximum: -Infinity, sum: 0, output: new Float64Array(width) };
    for (let j = start; j < stop; j += 1) added.maximum = Math.max(added.maximum, scores[j]);
    const maximum = Math.max(state.maximum, added.maximum);
    const factor = method === "online" ? Math.exp(state.maximum - maximum) : 1; // 0 before the first tile
    const parts = new Float64Array(stop - start);
    for (let j = start; j < stop; j += 1) {
      const part = hold(Math.exp(scores[j] - (method === "naive" ? 0 : maximum)));
      parts[j - start] = part;
      added.sum = hold(added.sum + part);
      for (let c = 0; c < width; c += 1) added.output[c] = hold(added.output[c] + part * values[j * width + c]);
    }
    const after = {
      maximum,
      sum: hold(factor * state.sum + added.sum),
      output: state.output.map((x, c) => hold(factor * x + added.output[c])),
    };
    steps.push({ start, stop, factor, parts, before: state, tile: added, after });
    state = after;
  }
  return steps;
}

/** The output if the tiles ended with this step. */
export const normalized = (step) => step.after.output.map((x) => x / step.after.sum);

/** The weight of each key in that output, if the tiles ended with the first `step` of them. */
export function weightsSoFar(steps, step) {
  const weights = new Float64Array(step ? steps[step - 1].stop : 0);
  let later = 1; // all factors that came after a tile
  for (let t = step - 1; t >= 0; t -= 1) {
    steps[t].parts.forEach((part, i) => { weights[steps[t].start + i] = (part * later) / steps[step - 1].after.sum; });
    later *= steps[t].factor;
  }
  return weights;
}

const largestDifference = (a, b) => a.reduce((most, x, i) => (x - b[i] === 0 ? most : Math.max(most, Math.abs(x - b[i]))), 0);

// The page -------------------------------------------------------------------------------------

const TILES = [1, 2, 4, 8, 16, 32, 64, 128];
const visible = (token) => token.replace(/ /g, "·").replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥") || "∅";
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
/** A number of any size: 23.62, 1.8e10, −∞. */
function said(x, digits = 2) {
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x < 0 ? "−∞" : "∞";
  const size = Math.abs(x);
  return (size >= 1e5 ? x.toExponential(1).replace("e+", "e") : size >= 1e3 ? Math.round(x).toLocaleString("en") : number(x, digits))
    .replace(/^-/, "−");
}
/** Between 0 and 1, where what is close to either end still differs from it. */
const share = (x) => (x > 0.9995 && x < 1 ? ">0.999" : said(x, 3));

function floats(view) {
  return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const tokens = model.get("tokens").map(visible);
  const [queries, keys, width] = model.get("shape");
  const scores = floats(model.get("scores_bytes"));
  const values = floats(model.get("values_bytes"));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const named = (j) => (tokens.length ? ` “${tokens[j]}”` : "");
  const queryName = (i) => `${i + keys - queries}${named(i + keys - queries)}`;

  /** The scores of one query up to the last key that it may look at. */
  function rowOf(query) {
    const row = scores.subarray(query * keys, (query + 1) * keys);
    return row.subarray(0, row.findLastIndex((score) => score > -Infinity) + 1);
  }
  /** Everything there is to show, computed anew: 500 keys take less than a millisecond. */
  function compute() {
    const [query, tile, method, format] = ["query", "tile", "method", "format"].map((name) => model.get(name));
    const row = rowOf(query);
    const steps = tilingSteps(row, values, width, tile, method, LIMITS[format]);
    const step = Math.min(model.get("step"), steps.length);
    return { query, tile, method, format, row, steps, step, now: steps[step - 1], full: fullSoftmax(row, values, width) };
  }
  const outputOf = ({ now }) => (now ? normalized(now) : new Float64Array(width));

  // Controls ------------------------------------------------------------------------------------
  const last = () => Math.ceil(rowOf(model.get("query")).length / model.get("tile"));
  function go(step) {
    put("step", Math.max(0, Math.min(last(), step)));
  }
  const stay = () => { stop(); go(Math.min(model.get("step"), last())); }; // fewer tiles than before
  const query = range({
    label: "Query", min: 0, max: queries - 1, value: model.get("query"), text: queryName,
    oninput: (v) => { put("query", v); stay(); },
  });
  query.el.hidden = queries === 1;
  const sizes = TILES.filter((size) => size < 2 * keys);
  const tile = select({
    label: "Tile size", options: [...new Set([...sizes, model.get("tile")])].sort((a, b) => a - b).map((n) => [n, plural(n, "key")]),
    value: model.get("tile"), onchange: (v) => { put("tile", v); stay(); },
  });
  const method = segmented({
    label: "Softmax", value: model.get("method"), onchange: (v) => put("method", v),
    options: [["online", "Online"], ["unscaled", "No rescaling"], ["naive", "No maximum"]],
  });
  const format = select({
    label: "Numbers held in", options: [["float16", "float16"], ["float32", "float32"]], value: model.get("format"),
    onchange: (v) => put("format", v),
  });
  const step = range({
    label: "Tiles done", min: 0, max: 1, value: 0, text: (v) => `${v} of ${last()}`,
    oninput: (v) => { stop(); go(v); },
  });
  const back = button("Previous", () => { stop(); go(model.get("step") - 1); });
  const next = button("Next", () => { stop(); go(model.get("step") + 1); });
  const play = button("", () => {
    if (timer) stop();
    else if (still.matches) go(last());
    else {
      if (model.get("step") >= last()) go(0);
      timer = setInterval(() => { go(model.get("step") + 1); if (model.get("step") >= last()) stop(); }, 1200);
    }
    label();
  });
  let timer = 0;
  function stop() {
    clearInterval(timer);
    timer = 0;
    label();
  }
  function label() { // where motion is unwelcome nothing moves by itself
    play.textContent = timer ? "Pause" : still.matches ? "To the end" : "Play";
    const [at, end] = [model.get("step"), last()];
    back.disabled = at <= 0;
    next.disabled = at >= end;
    play.disabled = still.matches && at >= end;
  }
  still.addEventListener("change", stop, { signal: life.signal });
  life.signal.addEventListener("abort", () => clearInterval(timer));

  // Picture -------------------------------------------------------------------------------------
  const path = (name) => s("path", { class: `fxt-${name}` });
  // A rim in the paper's colour keeps words readable on top of bars, in a saved picture, too.
  const text = (props) => s("text", { "paint-order": "stroke", ...props });
  const [left, right] = [38, 4];
  const bandA = path("band");
  const [masked, tiles, zeroA, done, current, coming, maxima, limit] =
    ["masked", "tiles", "axis", "done", "current", "coming", "maxima", "limit"].map(path);
  const [zeroB, weightsDone, weightsNow, ghostB] = ["axis", "done", "current", "ghost"].map(path);
  const [zeroC, out, ghostC] = ["axis", "done", "ghost"].map(path);
  const titles = Array.from({ length: 3 }, () => text({ class: "fxt-title" }));
  const ticks = Array.from({ length: 6 }, () => text({ "text-anchor": "end" }));
  const [maxName, limitName, maskName, lostName, fullName] = Array.from({ length: 5 }, () => text({}));
  maxName.classList.add("fxt-strong");
  for (const node of [limitName, lostName, fullName]) node.classList.add("fxt-bad");
  const svg = s("svg", { role: "img", class: "fxt-svg" }, bandA, masked, tiles, zeroA, coming, done, current, maxima, limit,
    zeroB, weightsDone, weightsNow, ghostB, zeroC, out, ghostC, titles, ticks, maxName, limitName, maskName, lostName, fullName);
  const figure = h("div", { class: "fxt-figure", onclick: (event) => {
    const box = svg.getBoundingClientRect();
    const key = Math.floor(((event.clientX - box.left - left) / (size - left - right)) * keys);
    if (event.clientY - box.top > places.C.top - 20 || key < 0 || key >= keys) return;
    stop();
    go(Math.floor(key / model.get("tile")) + 1);
  } }, svg);
  let size = 0; // the picture's width
  const places = { A: { top: 36, height: 124 }, B: { top: 200, height: 84 }, C: { top: 324, height: 104 } };
  let shown = null; // weights and output as they are drawn now, on their way to the true ones
  let moving = 0;

  const round = (v) => Math.round(100 * v) / 100;
  /** Bars from `zero` to each value; `x(i)` is where a bar begins, `w` how wide it is. */
  function bars(list, x, w, y, zero, from = 0) {
    let d = "";
    list.forEach((value, i) => {
      if (!Number.isFinite(value)) return;
      const [a, b] = [y(value), y(zero)];
      d += `M${round(x(from + i))} ${round(Math.min(a, b))}h${round(w)}v${round(Math.max(0.75, Math.abs(a - b)))}h${round(-w)}z`;
    });
    return d;
  }
  const scale = ({ top, height }, low, high) => (v) => top + height * (1 - (v - low) / (high - low || 1));
  const set = (node, attributes, words) => {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (words !== undefined) node.textContent = words;
  };

  function drawScores(c) {
    const { row, steps, now } = c;
    const cell = (size - left - right) / keys;
    const x = (j) => left + j * cell;
    const wide = Math.max(0.75, cell - (cell >= 4 ? 1 : 0));
    const overflow = Math.log(LIMITS[c.format]);
    const near = c.method === "naive" && overflow < 3 * Math.max(...row, 1); // else far outside the picture
    const [low, high] = [Math.min(0, ...row), Math.max(0, ...row, near ? overflow : 0)];
    const y = scale(places.A, low, high);
    const bottom = places.B.top + places.B.height;
    const at = now ? [now.start, now.stop] : [0, 0];
    const part = (from, to) => bars(row.subarray(from, to), x, wide, y, 0, from);
    set(done, { d: part(0, at[0]) });
    set(current, { d: part(...at) });
    set(coming, { d: part(at[1], row.length) });
    set(zeroA, { d: `M${left} ${y(0)}H${size - right}` });
    set(bandA, { d: now ? `M${x(at[0])} ${places.A.top - 4}H${x(at[1])}V${bottom + 4}H${x(at[0])}z` : "" });
    set(masked, { d: row.length < keys ? `M${x(row.length)} ${places.A.top - 4}H${size - right}V${bottom + 4}H${x(row.length)}z` : "" });
    set(maskName, { x: x(row.length) + 6, y: places.A.top + 10 }, (keys - row.length) * cell > 90 ? "later: masked" : "");
    let lines = "";
    for (let j = c.tile; cell * c.tile >= 5 && j < row.length; j += c.tile) lines += `M${round(x(j))} ${places.A.top - 4}V${bottom + 4}`;
    set(tiles, { d: lines });
    set(maxima, { d: c.method === "naive" ? "" : steps.slice(0, c.step).map((t, i) =>
      `${i ? "L" : "M"}${round(x(t.start))} ${round(y(t.after.maximum))}H${round(x(t.stop))}`).join("") });
    const labelled = now && c.method !== "naive";
    const end = x(at[1]) > size / 2;
    set(maxName, { x: end ? x(at[1]) : x(at[1]) + 5, y: Math.max(places.A.top - 4, y(labelled ? now.after.maximum : 0) - 5), "text-anchor": end ? "end" : "start" },
      labelled ? `m = ${said(now.after.maximum)}` : "");
    set(limit, { d: near ? `M${left} ${round(y(overflow))}H${size - right}` : "" });
    set(limitName, { x: left + 4, y: y(overflow) - 5 }, near ? `above ${said(overflow)}, exp is too large for ${c.format}` : "");
    set(titles[0], { x: 0, y: places.A.top - 23 }, `Scores s of query ${queryName(c.query)}`);
    set(ticks[0], { x: left - 6, y: y(high) + 9 }, said(Math.max(...row), 1));
    set(ticks[1], { x: left - 6, y: y(0) + 4 }, "0");
    set(ticks[5], { x: left - 6, y: y(low) }, low < 0 && y(low) - y(0) > 18 ? said(low, 1) : "");
    svg.setAttribute("aria-label", `${plural(row.length, "score")} in ${plural(steps.length, "tile")}, the weights so far and the output so far, beside those of the full softmax. Text and tables say the same.`);
  }

  /** The two lower parts, from what is `shown`: on the way between two steps, or at rest. */
  function drawState(c) {
    const cell = (size - left - right) / keys;
    const x = (j) => left + j * cell;
    const wide = Math.max(0.75, cell - (cell >= 4 ? 1 : 0));
    const y = scale(places.B, 0, c.peak);
    const start = c.now ? c.now.start : 0;
    set(weightsDone, { d: bars(shown.weights.subarray(0, start), x, wide, y, 0) });
    set(weightsNow, { d: bars(shown.weights.subarray(start), x, wide, y, 0, start) });
    set(ghostB, { d: Array.from(c.full.weights, (w, j) => `M${round(x(j))} ${round(y(w))}h${round(wide)}`).join("") });
    set(zeroB, { d: `M${left} ${y(0)}H${size - right}` });
    const bar = (size - left - right) / width;
    const thin = Math.max(0.75, Math.min(bar - (bar >= 3 ? 1 : 0), 40));
    const yc = scale(places.C, -c.reach, c.reach);
    const xc = (i) => left + i * bar;
    set(out, { d: bars(shown.output, xc, thin, yc, 0) });
    set(ghostC, { d: Array.from(c.full.output, (v, i) => `M${round(xc(i))} ${round(yc(v))}h${round(thin)}`).join("") });
    set(zeroC, { d: `M${left} ${yc(0)}H${size - right}` });
    set(titles[1], { x: 0, y: places.B.top - 13 }, `Weights so far, ${c.method === "naive" ? "exp(s)" : "exp(s − m)"} / l`);
    set(titles[2], { x: 0, y: places.C.top - 13 }, "Output so far, o / l");
    set(fullName, { x: size - right, y: places.C.top - 13, "text-anchor": "end" }, "— full softmax");
    set(ticks[2], { x: left - 6, y: y(c.peak) + 9 }, said(c.peak));
    set(ticks[3], { x: left - 6, y: y(0) + 2 }, "0");
    set(ticks[4], { x: left - 6, y: yc(0) + 4 }, "0");
    const lost = c.now && shown.output.some((v) => !Number.isFinite(v));
    set(lostName, { x: left + 8, y: places.C.top + places.C.height / 2 - 8 }, lost ? "overflow: ∞ / ∞ is not a number" : "");
  }

  /** Let the bars grow and shrink to where they belong; at once where motion is unwelcome. */
  function moveTo(c) {
    cancelAnimationFrame(moving);
    const goal = { weights: weightsSoFar(c.steps, c.step), output: outputOf(c) };
    const before = shown;
    const began = performance.now();
    const frame = (time) => {
      const t = still.matches || !before ? 1 : Math.min(1, Math.max(0, (time - began) / 350));
      const mix = (to, from) => to.map((v, i) => {
        const u = i < from.length && Number.isFinite(from[i]) ? from[i] : 0;
        return t === 1 || !Number.isFinite(v) ? v : u + (1 - (1 - t) ** 3) * (v - u);
      });
      shown = { weights: mix(goal.weights, before?.weights ?? []), output: mix(goal.output, before?.output ?? []) };
      drawState(c);
      if (t < 1 && !life.signal.aborted) moving = requestAnimationFrame(frame);
    };
    frame(began);
  }

  function draw(c) {
    const height = places.C.top + places.C.height + 4;
    set(svg, { width: size, height, viewBox: `0 0 ${size} ${height}` });
    // One scale for all steps, so that nothing but the state moves.
    const finite = (list) => list.reduce((most, v) => (Number.isFinite(v) ? Math.max(most, Math.abs(v)) : most), 0);
    c.peak = Math.max(finite(c.full.weights), ...c.steps.map((_, t) => finite(weightsSoFar(c.steps, t + 1))));
    c.reach = Math.max(finite(c.full.output), ...c.steps.map((t) => finite(normalized(t)))) || 1;
    drawScores(c);
    moveTo(c);
  }

  // Words ---------------------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const sentence = h("p", { class: "fx-readout" });
  const line = (symbol, words) => {
    const cells = ["before", "factor", "tile", "after"].map(() => h("td", {}));
    const name = h("th", { scope: "row", class: "fx-text" }, h("b", {}, symbol), words);
    return { el: h("tr", {}, name, cells), tell: (...said) => cells.forEach((cell, i) => { cell.textContent = said[i]; }) };
  };
  const [mLine, lLine, oLine] = [line("m", " maximum"), line("l", " sum"), line("o", width > 1 ? ` 1st of ${width}` : " output")];
  const ledger = h("table", { class: "fx-table fxt-ledger" },
    h("caption", {}, "Carried from tile to tile: the maximum and two sums, of exp(s − m) and of exp(s − m) · value"),
    h("thead", {}, h("tr", {}, h("td", {}), ["before", "factor", "this tile", "after"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, mLine.el, lLine.el, oLine.el));
  const tileBody = h("tbody", {});
  const tileHead = h("tr", {});
  const tileCaption = h("caption", {});
  const tileTable = h("div", { class: "fx-scroll fxt-tile", tabindex: 0, role: "region", "aria-label": "The keys of this tile" },
    h("table", { class: "fx-table" }, tileCaption, h("thead", {}, tileHead), tileBody));
  const note = h("p", { class: "fx-note" });

  /** What a step says: a headline, a sentence or two, and whether it came out "good" or "bad". */
  function headline(c) {
    const { now, steps, step, method } = c;
    if (!now) return ["Nothing read yet", `The row has ${plural(c.row.length, "score")}. The walk reads ${plural(Math.min(c.tile, c.row.length), "key")} at a time.`];
    const output = outputOf(c);
    const lost = output.some((v) => !Number.isFinite(v));
    const off = largestDifference(output, c.full.output);
    const by = `exp(${said(now.before.maximum)} − ${said(now.after.maximum)})`;
    const factor = share(Math.exp(now.before.maximum - now.after.maximum));
    let words;
    if (method === "naive") {
      const power = `exp(${said(now.tile.maximum)})`;
      const end = `${c.format} ends at ${said(LIMITS[c.format])}`;
      words = !lost ? `${power} = ${said(Math.exp(now.tile.maximum))} still fits: ${end}.`
        : now.parts.includes(Infinity) ? `${power} is ${said(Math.exp(now.tile.maximum))}, but ${end}: it becomes ∞, and the output ∞ / ∞.`
          : "A sum has overflowed, and no later tile can repair that.";
    } else if (step === 1) words = "The first maximum. There is nothing before it to rescale.";
    else if (now.after.maximum === now.before.maximum) words = "No larger score, so nothing is rescaled: this tile is just added.";
    else if (method === "online") words = `A larger score: all that was summed so far is multiplied by ${by} = ${factor}.`;
    else words = `A larger score: all that was summed so far should be multiplied by ${by} = ${factor}, but is left as it was.`;
    if (step < steps.length) return [`Tile ${step} of ${steps.length}: keys ${now.start} to ${now.stop - 1}`, words, lost ? "bad" : ""];
    if (lost) return ["Not a number", words, "bad"];
    if (off > 1e-9 * Math.max(1, c.reach)) return ["Not the softmax", `${words} Earlier tiles count too much: the output is off by up to ${said(off, 3)}.`, "bad"];
    const equal = `${width === 1 ? "The output doesn't differ" : `Of ${width} output numbers none differs`} by more than ${off ? off.toExponential(0) : 0}.`;
    const lucky = { online: "", unscaled: " The largest score came first, so no rescaling was missed.", naive: " No score was large enough to overflow." }[method];
    return ["Equal to the full softmax", `${words} ${equal}${lucky}`, "good"];
  }

  function tell(c) {
    const { now, method } = c;
    const [title, words, tone = ""] = headline(c);
    big.textContent = title;
    big.className = `fx-big ${tone && `fxt-${tone}`}`;
    sentence.textContent = words;
    const times = now && method === "online" && c.step > 1 ? `× ${share(now.factor)}` : "";
    mLine.tell(...(now ? [said(now.before.maximum), "", said(now.tile.maximum), said(now.after.maximum)] : ["", "", "", "−∞"]));
    for (const [row, digits, read] of [[lLine, 3, (part) => part.sum], [oLine, 2, (part) => part.output[0]]]) {
      row.tell(...(now ? [said(read(now.before), digits), times, `+ ${said(read(now.tile), digits)}`, said(read(now.after), digits)] : ["", "", "", "0"]));
    }
    tileTable.hidden = !now;
    if (now) {
      tileCaption.textContent = `In fast memory: ${plural(now.stop - now.start, "key")} and their values`;
      tileHead.replaceChildren(...["key", ...(tokens.length ? ["token"] : []), "score s", method === "naive" ? "exp(s)" : "exp(s − m)"]
        .map((t) => h("th", { scope: "col", class: t === "token" ? "fx-text" : "" }, t)));
      tileBody.replaceChildren(...Array.from(now.parts, (part, i) => {
        const j = now.start + i;
        const top = c.row[j] === now.tile.maximum ? "fxt-strong" : "";
        return h("tr", { class: top }, h("th", { scope: "row" }, String(j)), tokens.length ? h("td", { class: "fx-text fxt-token" }, tokens[j]) : null,
          h("td", {}, said(c.row[j])), h("td", {}, said(part, 3)));
      }));
    }
    note.textContent = `Held at once: ${plural(Math.min(c.tile, c.row.length), "score")}, m, l and ${plural(width, "output number")} o. The full softmax holds all ${plural(c.row.length, "score")}.`
      + (method === "naive" ? " Only overflow is imitated here; rounding is not." : "");
    live.say(`${title}. ${words}`);
  }

  const allBody = h("tbody", {});
  const allCaption = h("caption", {});
  const all = h("details", { ontoggle: () => list(compute()) }, h("summary", {}, "All steps as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "All steps as a table" },
      h("table", { class: "fx-table" }, allCaption, h("thead", {}, h("tr", {},
        ["Keys", "Maximum m", "Factor", "Sum l", "Off by"].map((t, i) => h("th", { scope: "col", class: i ? "" : "fx-text" }, t)))), allBody)));
  function list(c) {
    if (!all.open) return;
    const many = c.steps.length > 48;
    allCaption.textContent = `${many ? `The first and last 24 of ${plural(c.steps.length, "tile")}` : plural(c.steps.length, "tile")}; the last column is the largest difference between o / l and the full softmax's output`;
    const some = many ? [...c.steps.slice(0, 24), ...c.steps.slice(-24)] : c.steps;
    allBody.replaceChildren(...some.map((t) => h("tr", { "aria-current": t === c.now ? "step" : null },
      h("th", { scope: "row", class: "fx-text" }, t.stop - t.start === 1 ? `${t.start}` : `${t.start} to ${t.stop - 1}`),
      [said(t.after.maximum), c.method === "online" ? share(t.factor) : "–", said(t.after.sum, 3), said(largestDifference(normalized(t), c.full.output), 3)]
        .map((words) => h("td", {}, words)))));
  }

  // All together --------------------------------------------------------------------------------
  const about = h("p", { class: "fx-note" }, model.get("about"));
  about.hidden = !model.get("about");
  el.append(h("div", { class: "fx fx-tiling", role: "group", "aria-label": "Tiling stepper" },
    h("div", { class: "fx-bar" }, method.el, format.el, tile.el, query.el),
    h("div", { class: "fx-bar fxt-steps" }, h("div", { class: "fx-bar" }, back, next, play), step.el),
    h("div", { class: "fxt-parts" },
      h("div", { class: "fxt-say" }, big, sentence),
      h("div", { class: "fxt-look" }, figure, h("p", { class: "fx-note" }, h("i", { class: "fxt-key" }), "The full softmax, computed all at once. Click or tap a tile to go to it."), note, about),
      h("div", { class: "fxt-rest" }, ledger, tileTable)),
    all, saveButtons(() => svg, "online-softmax"), live.el));

  const update = () => {
    const c = compute();
    query.set(c.query);
    tile.set(c.tile);
    method.set(c.method);
    format.set(c.format);
    format.el.hidden = c.method !== "naive";
    step.limits(0, c.steps.length);
    step.set(c.step);
    label();
    if (size) draw(c);
    tell(c);
    list(c);
  };
  watch(model, ["query", "tile", "method", "format", "step"], perFrame(update), life.signal);
  onResize(figure, (w) => { size = w; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
