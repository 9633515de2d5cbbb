/* CostExplorer: which part of a language model costs what, as the text grows.
   The first part computes and touches no page; tests hold it equal to effedu.cost. */

const PARTS = ["attention", "feed-forward", "projections", "logits", "embedding and norms"];
const MOST = 2 ** 24;

/** FLOPs, bytes moved and bytes kept of each part in one pass: as effedu.cost.cost, causal. */
export function partsOf({ config, length, task, bits, all_logits }) {
  const { width, queryWidth, kvWidth, projections, feedForward, norm } = shapeOf(config);
  const [layers, vocab] = [config.num_hidden_layers, config.vocab_size];
  const reading = task === "read";
  const [item, tokens, cached] = [bits / 8, reading ? length : 1, reading ? 0 : length - 1];
  const outputs = all_logits ? tokens : 1;
  const sum = (list, part) => list.reduce((total, one) => total + part(one), 0);

  /** Layers of [inputs, outputs, biases], read by so many tokens, so many times over. */
  const linear = (shapes, readers, times) => {
    const weights = times * sum(shapes, ([i, o, biases]) => i * o + biases);
    return {
      flops: 2 * readers * times * sum(shapes, ([i, o]) => i * o),
      bytes_moved: item * (weights + readers * times * sum(shapes, ([i, o]) => i + o)),
      bytes_kept: item * weights,
    };
  };
  const pairs = reading ? (length * (length + 1)) / 2 : length;
  const cache = item * layers * 2 * kvWidth; // bytes of one token
  const norms = (2 * layers + 1) * norm;
  return {
    attention: {
      flops: 4 * queryWidth * layers * pairs,
      bytes_moved: item * tokens * layers * 2 * (queryWidth + kvWidth) + cache * (cached + tokens),
      bytes_kept: cache * length,
    },
    "feed-forward": linear(feedForward, tokens, layers),
    projections: linear(projections, tokens, layers),
    logits: linear([[width, vocab, 0]], outputs, 1),
    "embedding and norms": {
      flops: 0,
      bytes_moved: item * (norms + tokens * width),
      bytes_kept: item * (norms + (config.tie_word_embeddings ? 0 : vocab * width)),
    },
  };
}

/** What each part takes, and its least time: arithmetic or memory, whichever is slower. */
export function measure(question) {
  const rate = rateOf(question);
  return Object.fromEntries(Object.entries(partsOf(question)).map(([name, part]) =>
    [name, { ...part, seconds: Math.max(rate ? part.flops / rate : 0, part.bytes_moved / question.device.bandwidth) }]));
}

/** The first length at which attention costs more than the feed-forward network, by what is shown. */
export function crossover(question) {
  const overtaken = (length) => {
    const parts = measure({ ...question, length });
    return parts.attention[question.shown] > parts["feed-forward"][question.shown];
  };
  let [low, high] = [0, MOST]; // attention's share only grows, so halving the interval finds it
  if (!overtaken(high)) return null;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (overtaken(middle)) high = middle; else low = middle;
  }
  return high;
}

// The page -------------------------------------------------------------------------------------

const TRAITS = ["config", "device", "length", "task", "shown", "bits", "all_logits"];
const [FIRST, LAST] = [16, 2 ** 20]; // of the picture
const STOPS = [];
for (let v = FIRST; v <= LAST; v *= 2) STOPS.push(v, ...(v < LAST ? [1.25 * v, 1.5 * v, 1.75 * v] : []));
const SHOWN = [["flops", "Operations", "of the operations"], ["bytes_moved", "Bytes moved", "of the bytes moved"],
  ["seconds", "Least time", "of the least time"], ["bytes_kept", "Memory", "of the memory"]];
const percent = (x) => `${x > 0 && x < 0.01 ? "<\u202f1" : Math.round(100 * x)}\u00a0%`;
const nearest = (v) => STOPS.reduce((best, x, i) => (Math.abs(Math.log(x / v)) < Math.abs(Math.log(STOPS[best] / v)) ? i : best), 0);

/** Three digits with the unit's prefix: 1.23 TFLOP, 17.9 GB, 0.42 ms. */
function say(value, shown) {
  if (shown === "seconds") return seconds(value).replace(" ", "\u00a0");
  const unit = shown === "flops" ? "FLOP" : "B";
  const prefix = [["E", 1e18], ["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, size]) => value >= size);
  return prefix ? `${three(value / prefix[1])}\u00a0${prefix[0]}${unit}` : `${three(value)}\u00a0${unit}`;
}

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const [models, devices] = [model.get("models"), model.get("devices")];
  const now = () => Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));

  // Controls ------------------------------------------------------------------------------------
  const modelPick = known({ label: "Model", list: models, of: (one) => one.config, now: () => model.get("config"), onchange: (config) => put("config", config) });
  const devicePick = select({ label: "Device, for the least time", value: null, options: devices.map((one) => [one.name, one.name]),
    onchange: (v) => put("device", devices.find((one) => one.name === v)) });
  const task = segmented({ label: "Task", value: "", options: [["read", "Read a text"], ["write", "Write one token"]], onchange: (v) => put("task", v) });
  const shown = segmented({ label: "Share out", value: "", options: SHOWN.map(([value, label]) => [value, label]), onchange: (v) => put("shown", v) });
  const bits = segmented({ label: "Bits a number", value: 0, options: [[16, "16"], [32, "32"]], onchange: (v) => put("bits", v) });
  const logits = toggle({ label: "Logits for every token read, not the last one only", checked: true, onchange: (v) => put("all_logits", v) });
  const length = range({ label: "Length N", min: 0, max: STOPS.length - 1, value: 0, oninput: (i) => put("length", STOPS[i]),
    text: (i) => `${whole(nearest(model.get("length")) === i ? model.get("length") : STOPS[i])} tokens` });

  const fields = shapeFields(model, put);

  // Picture -------------------------------------------------------------------------------------
  const still = s("g", {}); // changes with everything but the length
  const moving = s("g", {}); // follows the length
  const svg = s("svg", { role: "img", class: "fxc-svg" }, still, moving);
  const figure = h("div", { class: "fxc-figure" }, svg);
  let width = 0;
  let axes = null;
  const text = (x, y, words, props) => s("text", { x, y, ...props }, words);

  function draw(q, found) {
    const [left, right, top, height] = [50, width - 8, 34, Math.round(Math.min(340, Math.max(230, 0.5 * width)))];
    const bottom = height - 42;
    const x = (n) => left + ((right - left) * Math.log(n / FIRST)) / Math.log(LAST / FIRST);
    const y = (share) => bottom - (bottom - top) * share;
    axes = { x, top, bottom };
    const steps = 96;
    const points = Array.from({ length: steps + 1 }, (_, i) => FIRST * (LAST / FIRST) ** (i / steps)).map((n) => {
      const parts = measure({ ...q, length: n });
      const values = PARTS.map((name) => parts[name][q.shown]);
      const total = values.reduce((a, b) => a + b);
      let sum = 0;
      return [x(n), [0, ...values.map((value) => (sum += value / total))]];
    });
    const nodes = [];
    PARTS.forEach((name, i) => {
      const line = (list, level) => list.map(([px, sums]) => `${px.toFixed(1)} ${y(sums[level]).toFixed(1)}`).join("L");
      nodes.push(s("path", { class: `fxc-part${i}`, d: `M${line(points, i)}L${line([...points].reverse(), i + 1)}Z` }));
      // Its name where the band leaves most room for the whole word.
      const half = 3.6 * name.length + 6;
      const room = ([at]) => {
        const near = points.filter(([px]) => Math.abs(px - at) <= half).map(([, sums]) => sums);
        return [at, Math.max(...near.map((sums) => sums[i])), Math.min(...near.map((sums) => sums[i + 1]))];
      };
      const rooms = points.filter(([px]) => px > left + half && px < right - half).map(room);
      const best = rooms.reduce((x0, x1) => (x1[2] - x1[1] > x0[2] - x0[1] + 1e-9 ? x1 : x0), [0, 1, 0]);
      if ((best[2] - best[1]) * (bottom - top) > 18) {
        nodes.push(text(best[0], y((best[1] + best[2]) / 2) + 4, name, { "text-anchor": "middle", class: "fxc-name" }));
      }
    });
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      nodes.push(s("path", { class: "fxc-line", d: `M${left} ${y(share)}H${right}` }), text(left - 6, y(share) + 4, percent(share), { "text-anchor": "end" }));
    }
    for (const [n, words] of [[16, "16"], [256, "256"], [4096, "4,096"], [65536, "65,536"], [2 ** 20, "1 M"]]) {
      nodes.push(s("path", { class: "fxc-tick", d: `M${x(n)} ${bottom}v5` }),
        text(x(n), bottom + 18, words, { "text-anchor": n === LAST ? "end" : "middle" }));
    }
    nodes.push(text((left + right) / 2, height - 6, `tokens N${width < 480 ? "" : " (at each mark 16 times as many)"}`, { "text-anchor": "middle" }));
    if (found !== null && found >= FIRST && found <= LAST) {
      const at = x(found);
      nodes.push(s("path", { class: "fxc-cross", "stroke-dasharray": "5 4", d: `M${at} ${top - 6}V${bottom}` }));
      const words = width < 480 ? `overtakes at ${whole(found)}` : `attention overtakes the feed-forward network at ${whole(found)} tokens`;
      const half = 3.9 * words.length;
      nodes.push(text(Math.min(right - half, Math.max(left + half, at)), 18, words, { "text-anchor": "middle", class: "fxc-strong" }));
    }
    still.replaceChildren(...nodes);
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) svg.setAttribute(name, value);
  }

  // Pointing at the picture moves the length; up and down still scrolls the page.
  const look = (event) => {
    if (!axes || (event.type === "pointermove" && event.pointerType === "mouse" && !event.buttons)) return;
    const frame = svg.getBoundingClientRect();
    const px = ((event.clientX - frame.left) * width) / (frame.width || 1);
    const best = STOPS.reduce((a, b) => (Math.abs(axes.x(b) - px) < Math.abs(axes.x(a) - px) ? b : a));
    if (best !== model.get("length")) put("length", best);
  };
  figure.addEventListener("pointerdown", (event) => {
    try { figure.setPointerCapture(event.pointerId); } catch { /* already released */ }
    look(event);
  }, { signal: life.signal });
  figure.addEventListener("pointermove", look, { signal: life.signal });

  // Words and numbers ---------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const sentence = h("p", { class: "fx-readout" });
  const note = h("p", { class: "fx-note" });
  const body = h("tbody", {});
  const table = h("table", { class: "fx-table fxc-table" }, h("caption", { class: "fx-sr" }, "Each part at this length"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "fx-text" }, "Part"), h("th", { scope: "col" }, "Share"),
      ["Computes", "Moves", "At least", "Keeps"].map((words, i) => h("th", { scope: "col", class: `fxc-${SHOWN[i][0]}` }, words)))), body);

  function tell(q, found) {
    const parts = measure(q);
    const total = (name) => PARTS.reduce((sum, part) => sum + parts[part][name], 0);
    const [, , words] = SHOWN.find(([name]) => name === q.shown);
    const all = total(q.shown);
    big.textContent = `Attention: ${percent(parts.attention[q.shown] / all)} ${words}`;
    const doing = q.task === "read" ? `To read ${whole(q.length)} tokens` : `To write one token after ${whole(q.length - 1)}`;
    const where = found === null ? "never costs more of this than the feed-forward network"
      : `costs more of this than the feed-forward network from ${whole(found)} tokens on`;
    sentence.textContent = `${doing}, ${modelPick.name() ?? OWN} computes ${say(total("flops"), "flops")}, moves ${say(total("bytes_moved"), "bytes_moved")} and keeps ${say(total("bytes_kept"), "bytes_kept")}. Its attention ${where}.`;
    const row = (name, cells, i) => h("tr", { class: i === undefined ? "fxc-total" : "" },
      h("th", { scope: "row", class: "fx-text" }, i !== undefined && h("span", { class: `fxc-swatch fxc-back${i}`, "aria-hidden": "true" }), name), cells);
    const cellsOf = (value) => [h("td", {}, percent(value(q.shown) / all)), ...SHOWN.map(([name]) => h("td", { class: `fxc-${name}` }, say(value(name), name)))];
    body.replaceChildren(...PARTS.map((name, i) => row(name, cellsOf((what) => parts[name][what]), i)), row("together", cellsOf(total)));
    table.dataset.shown = q.shown;
    note.textContent = `Pairs that the causal mask hides are not counted. Least time: the slower of arithmetic and memory on ${q.device.name}, part after part`
      + `${rateOf(q) === null ? "; no rate of arithmetic is published for it, so this is moving the bytes alone" : ""}. Memory: weights, and keys and values of the text.`;
    live.say(`${big.textContent}. ${sentence.textContent}`);
    svg.setAttribute("aria-label", `Shares ${words} against the length, from ${FIRST} to a million tokens. ${big.textContent} at ${whole(q.length)} tokens. The table has every number.`);
    if (width) {
      const at = axes.x(Math.min(LAST, Math.max(FIRST, q.length)));
      moving.replaceChildren(s("path", { class: "fxc-here", d: `M${at} ${axes.top}V${axes.bottom}` }), s("circle", { class: "fxc-grip", cx: at, cy: axes.bottom, r: 5 }));
    }
  }

  // All together --------------------------------------------------------------------------------
  el.append(h("div", { class: "fx fx-cost", role: "group", "aria-label": "Cost explorer" },
    h("div", { class: "fx-bar" }, modelPick.el, task.el, shown.el),
    h("div", { class: "fx-bar" }, length.el),
    h("details", {}, h("summary", {}, "Change the model, or the device"),
      h("div", { class: "fx-fields" }, fields.map((one) => one.el)),
      h("div", { class: "fx-bar" }, devicePick.el, bits.el, logits.el)),
    big, sentence, figure, table, note, saveButtons(() => svg, "cost-by-part"), live.el));

  let drawn = "";
  let found = null;
  /** The picture is drawn anew only when something other than the length changed. */
  function update() {
    const q = now();
    modelPick.refresh();
    devicePick.set(q.device.name);
    task.set(q.task);
    shown.set(q.shown);
    bits.set(q.bits);
    logits.set(q.all_logits);
    length.set(nearest(q.length));
    for (const one of fields) one.refresh();
    const key = JSON.stringify([width, { ...q, length: 0 }]);
    if (width && key !== drawn) {
      found = crossover(q);
      draw(q, found);
      drawn = key;
    }
    tell(q, width ? found : crossover(q));
  }
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { width = w; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
