/* ParetoExplorer: every measured configuration, its quality against its cost, and the frontier.
   The first part computes and touches no page; tests hold it equal to Python. */

const TOGETHER = "combinations";
const DENSE = "dense";

/** Less is better: extra bits, or the agreement turned round. */
const loss = (row, quality) => (quality === "agreement" ? -row.agreement : row[quality]);

/** The rows of one length and phase whose methods are all shown. */
export function shownRows(rows, { length, phase, hidden }) {
  return rows.filter((row) => row.length === length && row.phase === phase
    && !row.method.some((name) => hidden.includes(name)) && !(row.method.length > 1 && hidden.includes(TOGETHER)));
}

/** Those that have both numbers, the cheapest first. */
export function drawnRows(rows, { quality, cost }) {
  return rows.filter((row) => row[quality] !== null && row[cost] !== null)
    .sort((a, b) => a[cost] - b[cost] || loss(a, quality) - loss(b, quality));
}

/** No worse in both, and better in one. */
function dominates(a, b, { quality, cost }) {
  const [cheaper, better] = [b[cost] - a[cost], loss(b, quality) - loss(a, quality)];
  return cheaper >= 0 && better >= 0 && cheaper + better > 0;
}

/** The rows that no other one dominates, the cheapest first. */
export function frontier(rows, axes) {
  const drawn = drawnRows(rows, axes);
  return drawn.filter((row) => !drawn.some((other) => dominates(other, row, axes)));
}

/** Where to start: the cheapest with at most 1 % more bits per byte, or else the best. */
export function firstChoice(rows, axes) {
  const drawn = drawnRows(rows, axes);
  return drawn.find((row) => row.bits !== null && row.bits <= 0.01) ?? frontier(rows, axes).pop() ?? null;
}

// Axes and words -------------------------------------------------------------------------------

const QUARTER = 0.25; // what the article claims of the time
const SCALES = {
  // Logarithmic in what is lost, but even near nothing: so that zero and gains have a place.
  bits: { to: (x) => Math.asinh(x / 0.002), least: 0, most: 0.01, words: (x) => (x ? `${sign(x)}${whole(Math.abs(100 * x))}\u00a0%` : "0"),
    ticks: () => [0, ...[1, 10, 0.1, 100, 1000, 3, 30, 0.3, 300].flatMap((p) => [p / 100, -p / 100])] },
  agreement: { to: (x) => -Math.asinh((1 - x) / 0.01), least: 0.9, most: 1, words: (x) => `${Math.round(100 * x)}\u00a0%`,
    ticks: () => [1, 0.9, 0, 0.5, 0.99, 0.7, 0.8, 0.95, 0.98] },
  time: { to: Math.log, least: QUARTER, most: 1, words: fraction, ticks: fractions },
  memory: { to: Math.log, least: 0.5, most: 1, words: fraction, ticks: fractions },
};
const QUALITIES = [["bits", "Bits per byte"], ["agreement", "Agreement"]];
const COSTS = [["time", "Time"], ["memory", "Memory"]];
const PHASES = [["read", "Reading"], ["write", "Writing"]];

function fractions() {
  const halves = Array.from({ length: 13 }, (_, i) => 2 ** (i - 8)); // 1/256 to 16
  return [...halves.sort((a, b) => Math.abs(Math.log(a)) - Math.abs(Math.log(b))), 0.75, 1.5];
}
function fraction(x) {
  return x === 0.75 ? "3/4" : x >= 1 ? String(x) : `1/${Math.round(1 / x)}`;
}
const whole = (n) => n.toLocaleString("en");
const share = (x) => (x < 0.0995 ? x.toPrecision(2) : x.toFixed(2));
const times = (x) => (x < 9.95 ? x.toFixed(1) : whole(Math.round(x)));
const percent = (x) => `${(100 * x).toFixed(1)}\u00a0%`;
const amount = (x) => { const p = Math.abs(100 * x); return p.toFixed(p < 9.995 ? 2 : p < 99.95 ? 1 : 0); };
const sign = (x) => (x < 0 ? "\u2212" : "+");
function bitsInWords(x) {
  if (x === 0) return "as many bits per byte";
  return `${Math.abs(x) < 5e-5 ? "less than 0.01" : amount(x)}\u00a0% ${x < 0 ? "fewer" : "more"} bits per byte`;
}
const many = (n, what) => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;

/** What the two axes say of a row, in a few words. */
function inShort(row, { quality, cost }) {
  const good = quality === "bits" ? bitsInWords(row.bits) : `${percent(row.agreement)} agreement`;
  return `${share(row[cost])} of the ${cost}, ${good}`;
}

/** All four numbers of a row as sentences. */
function inWords(row) {
  const doing = row.phase === "read" ? `To read ${whole(row.length)} tokens` : `To write a token after ${whole(row.length)}`;
  const faster = row.time < 0.995 ? ` (${times(1 / row.time)} times as fast)` : "";
  const memory = row.memory === null ? "; its memory was not measured" : ` and ${share(row.memory)} of its memory`;
  const bits = row.bits === null ? "Its bits per byte were not measured" : `It needs ${bitsInWords(row.bits)}`;
  const same = row.agreement === null ? "; how often it agrees was not measured"
    : `, and its most likely token is that of the dense model at ${percent(row.agreement)} of the positions`;
  const where = row.bits_length === row.length || (row.bits ?? row.agreement) === null ? "" : ` (measured on texts of ${whole(row.bits_length)} tokens)`;
  return `${doing}, ${row.label} takes ${share(row.time)} of the time of dense fp32${faster}${memory}. ${bits}${same}${where}.`;
}

// The page -------------------------------------------------------------------------------------

const TRAITS = ["rows", "length", "phase", "quality", "cost", "selected", "hidden", "machine", "trained_length"];
const COLOURS = 4; // of single methods; see the style sheet
const SHAPES = ["M-4.5-4.5h9v9h-9z", "M0-6L6 5H-6z", "M0-6.5L6.5 0 0 6.5-6.5 0z", "M0 6L6-5H-6z", "M-6.5-3h13v6h-13z", "M-3-6.5h6v13h-6z", "M-6 0L-3-5.5h6L6 0 3 5.5h-6z"];
const OTHERS = new Map([
  [DENSE, { class: "fxe-dense", d: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z" }], // a circle
  [TOGETHER, { class: "fxe-together", d: "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z" }], // a cross
]);

const PLACES = [[14, 4, "start"], [-14, 4, "end"], [0, -14, "middle"], [0, 21, "middle"], // of a name beside its point
  [8, -13, "start"], [-8, -13, "end"], [8, 20, "start"], [-8, 20, "end"]];
const FAR = [[0, -29, "middle"], [0, 36, "middle"], [0, -44, "middle"], [0, 51, "middle"]]; // of the chosen one's, which the ring shows

/** Copy the text of an element; false if the page may not, and the text is then left selected. */
async function copyText(el) {
  try {
    await navigator.clipboard.writeText(el.textContent);
    return true;
  } catch { /* no clipboard on this page, or no permission */ }
  getSelection().selectAllChildren(el);
  try { return document.execCommand("copy"); } catch { return false; }
}

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  let state = {};
  let width = 0;
  let spots = []; // where the last drawing put each row: [row, x, y]

  // What follows from the rows alone.
  const measured = (phase) => [...new Set(state.rows.filter((row) => row.phase === phase).map((row) => row.length))].sort((a, b) => a - b);
  const nearest = (list, v) => list.reduce((best, x, i) => (Math.abs(Math.log(x / v)) < Math.abs(Math.log(list[best] / v)) ? i : best), 0);
  const methods = () => [...new Set(state.rows.flatMap((row) => row.method)), ...(state.rows.some((row) => row.method.length > 1) ? [TOGETHER] : [])];
  const familyOf = (row) => (row.method.length > 1 ? TOGETHER : row.method[0]);
  /** One marker for each family: colours and shapes go round at different paces. */
  const markerOf = (family) => {
    const i = methods().filter((name) => !OTHERS.has(name)).indexOf(family);
    return OTHERS.get(family) ?? { class: `fxe-c${i % COLOURS}`, d: SHAPES[i % SHAPES.length] };
  };

  // Controls ------------------------------------------------------------------------------------
  const bar = h("div", { class: "fx-bar" });
  const filter = h("div", { class: "fx-bar" });
  let controls = null;
  /** Built anew when Python gives other rows; the choices are what was measured. */
  function build() {
    const length = range({ label: "Length N", min: 0, max: 1, value: 0,
      text: (i) => `${whole(measured(state.phase)[i] ?? state.length)} tokens`,
      oninput: (i) => put("length", measured(model.get("phase"))[i]) });
    length.el.classList.add("fxe-length");
    const phase = segmented({ label: "Phase", value: "", options: PHASES.filter(([name]) => measured(name).length),
      onchange: (name) => {
        put("phase", name);
        const lengths = measured(name);
        put("length", lengths[nearest(lengths, model.get("length"))]);
      } });
    const quality = segmented({ label: "Quality", value: "", options: QUALITIES, onchange: (name) => put("quality", name) });
    const cost = segmented({ label: "Cost", value: "", options: COSTS, onchange: (name) => put("cost", name) });
    bar.replaceChildren(length.el, phase.el, quality.el, cost.el);
    const boxes = methods().map((name) => {
      const box = toggle({ label: name, checked: true,
        onchange: (on) => put("hidden", methods().filter((other) => (other === name ? !on : model.get("hidden").includes(other)))) });
      const { d, ...marker } = markerOf(name);
      box.el.append(s("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": true }, s("path", { class: "fxe-dot", d })));
      box.el.classList.add(marker.class);
      return { name, box };
    });
    filter.replaceChildren(h("fieldset", { class: "fxe-filter" }, h("legend", {}, "Methods"), boxes.map(({ box }) => box.el)));
    controls = {
      rows: state.rows,
      refresh() {
        const lengths = measured(state.phase);
        length.limits(0, lengths.length - 1);
        length.set(nearest(lengths, state.length));
        phase.set(state.phase);
        quality.set(state.quality);
        cost.set(state.cost);
        for (const { name, box } of boxes) box.set(!state.hidden.includes(name));
      },
    };
  }

  // The choice by name: the way to every point without a pointer.
  const names = [];
  const pick = select({ label: "Configuration", options: names, value: "", onchange: (name) => put("selected", name) });
  pick.el.classList.add("fxe-pick");
  function offer({ drawn, front, chosen }) {
    names.splice(0, Infinity, ...drawn.map((row) => [row.label, `${row.label}${front.includes(row) ? " (frontier)" : ""}`]));
    const before = [...pick.input.options].map((option) => option.text);
    if (names.length !== before.length || names.some(([, text], i) => text !== before[i])) {
      pick.input.replaceChildren(...names.map(([, text]) => h("option", {}, text)));
    }
    pick.set(chosen?.label);
  }

  // Picture -------------------------------------------------------------------------------------
  const svg = s("svg", { role: "img", class: "fxe-svg" });
  const figure = h("div", { class: "fxe-figure" }, svg);
  const pen = h("canvas", {}).getContext("2d");
  const wide = (words, weight = 400) => {
    pen.font = `${weight} 12px ${getComputedStyle(figure).fontFamily}`;
    return pen.measureText(words).width;
  };

  /** From values to pixels, and the ticks that fit; room for a name beyond the outermost rows. */
  function scaleOf(name, rows, from, to, gap) {
    const scale = SCALES[name];
    const values = rows.map((row) => row[name]);
    const [low, high] = [Math.min(scale.least, ...values), Math.max(scale.most, ...values)];
    const room = 24 * Math.sign(to - from);
    const place = (value) => from + room + ((to - from - 2 * room) * (scale.to(value) - scale.to(low))) / (scale.to(high) - scale.to(low));
    const ticks = [];
    for (const value of scale.ticks()) {
      const at = place(value);
      const inside = at >= Math.min(from, to) && at <= Math.max(from, to);
      if (inside && ticks.every((tick) => Math.abs(tick.at - at) >= gap)) ticks.push({ value, at, words: scale.words(value) });
    }
    return { place, ticks };
  }

  function draw({ drawn, front, chosen }) {
    const [right, top, height] = [width - 6, 40, Math.round(Math.min(440, Math.max(280, 0.7 * width)))];
    const bottom = height - 42;
    const up = scaleOf(state.quality, drawn, bottom, top, 24);
    const left = 8 + Math.max(...up.ticks.map(({ words }) => wide(words)));
    // One frame for every length, so that moving it shows what it saves.
    const all = measured(state.phase).flatMap((length) => drawnRows(shownRows(state.rows, { ...state, length }), state));
    const across = scaleOf(state.cost, all, left, right, 34);
    const [x, y] = [across.place, up.place];
    const text = (px, py, words, attributes) => s("text", { x: px.toFixed(1), y: py.toFixed(1), ...attributes }, words);
    const fitting = (...choices) => choices.find((words) => wide(words) < right) ?? choices[choices.length - 1];
    const parts = [text(0, 12, state.quality === "bits"
      ? fitting("more bits per byte than dense fp32 (less is better; logarithmic beyond 0.2\u00a0%)", "more bits per byte (less is better)")
      : fitting("same most likely token as dense fp32, share of positions (more is better; logarithmic below 99\u00a0%)", "same token as dense (more is better)"))];
    for (const { value, at, words } of up.ticks) {
      parts.push(s("path", { class: value === (state.quality === "bits" ? 0 : 1) ? "fxe-one" : "fxe-line", d: `M${left} ${at.toFixed(1)}H${right}` }),
        text(left - 6, at + 4, words, { "text-anchor": "end" }));
    }
    for (const { value, at, words } of across.ticks) {
      parts.push(s("path", { class: value === 1 ? "fxe-one" : "fxe-line", d: `M${at.toFixed(1)} ${top}V${bottom}` }),
        text(at, bottom + 18, words, { "text-anchor": "middle" }));
    }
    const title = fitting(`${state.cost}, as a share of that of dense fp32 (less is better)`, `${state.cost} / dense (less is better)`);
    parts.push(text(Math.min((left + right) / 2, right - wide(title) / 2), bottom + 37, title, { "text-anchor": "middle" }));
    if (state.cost === "time") {
      const words = fitting("a quarter: the article’s claim");
      const half = wide(words, 600) / 2;
      parts.push(s("path", { class: "fxe-quarter", "stroke-dasharray": "5 4", d: `M${x(QUARTER).toFixed(1)} ${top - 6}V${bottom}` }),
        text(Math.min(right - half, Math.max(half, x(QUARTER))), top - 11, words, { "text-anchor": "middle", class: "fxe-strong" }));
    }
    spots = drawn.map((row) => [row, x(row[state.cost]), y(row[state.quality])]);
    const at = (row) => spots.find(([one]) => one === row).slice(1);
    // What can be had for a cost: the quality of the last point before it.
    const steps = front.map(at);
    if (steps.length) {
      parts.push(s("path", { class: "fxe-front", fill: "none",
        d: steps.map(([px, py], i) => (i ? `H${px.toFixed(1)}V${py.toFixed(1)}` : `M${px.toFixed(1)} ${py.toFixed(1)}`)).join("") + `H${right}` }));
    }
    // The frontier above the others, the choice on top.
    const order = [...drawn].sort((a, b) => Number(front.includes(a)) - Number(front.includes(b)) || Number(a === chosen) - Number(b === chosen));
    for (const row of order) {
      const { d, class: colour } = markerOf(familyOf(row));
      const [px, py] = at(row);
      parts.push(s("g", { class: `fxe-point ${colour}`, transform: `translate(${px.toFixed(1)} ${py.toFixed(1)})` },
        row === chosen && s("circle", { class: "fxe-ring", r: 10, fill: "none" }),
        s("path", { class: front.includes(row) ? "fxe-dot" : "fxe-open", d }), s("title", {}, `${row.label}: ${inShort(row, state)}`)));
    }
    parts.push(...labels({ left, right, top, bottom, steps, quarter: x(QUARTER), one: x(1), none: y(state.quality === "bits" ? 0 : 1) }, [chosen, ...front, ...drawn], [chosen, ...front]).map(({ row, px, py, anchor }) =>
      s("g", { class: markerOf(familyOf(row)).class }, text(px, py, row.label, { "text-anchor": anchor, "paint-order": "stroke", class: row === chosen ? "fxe-name fxe-strong" : "fxe-name" }))));
    svg.replaceChildren(...parts);
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) svg.setAttribute(name, value);
  }

  /** Names beside their points, the first ones first, wherever they cover no other point or name. The choice
      and the frontier may cross a line if they have to. */
  function labels({ left, right, top, bottom, steps, quarter, one, none }, rows, must) {
    const points = spots.map(([row, px, py]) => ({ row, box: [px - 12, py - 7, px + 12, py + 7] })); // no name beside another's
    const placed = [];
    const lines = steps.flatMap(([px, py], i) => {
      const next = steps[i + 1] ?? [right, py];
      return [[px, py, next[0], py], [next[0], Math.min(py, next[1]), next[0], Math.max(py, next[1])]];
    });
    if (state.cost === "time") lines.push([quarter, top, quarter, bottom]);
    const light = [[one, top, one, bottom], [left, none, right, none]]; // of the dense model; these may be crossed
    const meet = (a, b) => a[0] <= b[2] && a[2] >= b[0] && a[1] <= b[3] && a[3] >= b[1];
    for (const row of new Set(rows)) {
      const [, cx, cy] = spots.find(([one]) => one === row) ?? [];
      if (cx === undefined) continue;
      const size = wide(row.label, row === rows[0] ? 600 : 400);
      const tries = [...PLACES, ...(row === rows[0] ? FAR : [])].map(([dx, dy, anchor]) => {
        const py = cy + dy;
        const px = anchor === "middle" ? Math.min(right - size / 2 - 2, Math.max(left + size / 2 + 2, cx)) : cx + dx;
        const start = px - { start: 0, middle: size / 2, end: size }[anchor];
        return { row, px, py, anchor, box: [start - 2, py - 11, start + size + 2, py + 4] };
      }).filter(({ box }) => box[0] >= left && box[2] <= right && box[1] >= top && box[3] <= bottom
        && ![...points, ...placed].some((other) => other.row !== row && meet(box, other.box)));
      const crossed = ({ box }, list) => list.filter((line) => meet(box, line)).length;
      const [best] = tries.sort((a, b) => crossed(a, lines) - crossed(b, lines) || crossed(a, light) - crossed(b, light));
      if (!best || (crossed(best, lines) && !must.includes(row))) continue;
      placed.push(best);
    }
    return placed;
  }

  figure.addEventListener("click", (event) => {
    const frame = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - frame.left, event.clientY - frame.top].map((v) => (v * width) / (frame.width || 1));
    const away = ([, cx, cy]) => Math.hypot(cx - px, cy - py);
    const [best] = [...spots].sort((a, b) => away(a) - away(b));
    if (best && away(best) < 32) put("selected", best[0].label);
  }, { signal: life.signal });

  // Words and numbers ---------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const sentence = h("p", { class: "fx-readout" });
  const standing = h("p", { class: "fx-readout" });
  const code = h("code", {});
  const copy = button("Copy", async () => {
    const done = await copyText(code);
    copy.textContent = done ? "Copied" : "Press Ctrl+C to copy";
    live.say(done ? "Copied" : "The call is selected; press Ctrl+C to copy it");
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  const call = h("div", { class: "fxe-call" }, code, copy);
  const plain = h("p", { class: "fx-note" }, "No call makes it: it is the model as it is.");
  const summary = h("p", { class: "fx-readout" });
  const left = h("p", { class: "fx-note fxe-left" });
  const note = h("p", { class: "fx-note" });

  function tell({ here, drawn, front, chosen }) {
    const words = { bits: "bits per byte", agreement: "agreement" }[state.quality];
    if (chosen) {
      big.textContent = `${chosen.label}: ${inShort(chosen, state)}`;
      sentence.textContent = inWords(chosen);
      const better = front.filter((row) => dominates(row, chosen, state)).pop();
      standing.textContent = better ? `Not on the frontier: ${better.label} is at least as good in both (${inShort(better, state)}).`
        : "On the frontier: nothing shown is better in one of the two without being worse in the other.";
      code.textContent = chosen.call;
    } else {
      big.textContent = "Nothing to show";
      sentence.textContent = here.length ? `Of what is shown, nothing has both ${words} and ${state.cost} measured.` : "Nothing was measured here, or all methods are hidden.";
      standing.textContent = "";
    }
    call.hidden = !chosen?.call;
    plain.hidden = !chosen || Boolean(chosen.call);
    const quick = drawn.filter((row) => row.time <= QUARTER).length;
    const doing = state.phase === "read" ? "reading" : "writing";
    summary.textContent = `${many(drawn.length, "configuration")} at ${whole(state.length)} tokens, ${doing}: ${whole(front.length)} on the frontier`
      + `, ${whole(quick)} at a quarter of the time or less.`;
    const out = here.length - drawn.length;
    left.textContent = out ? `${many(out, "configuration")} left out: ${[state.quality, state.cost].filter((name) => here.some((row) => row[name] === null))
      .map((name) => (name === state.quality ? words : name)).join(" or ")} not measured.` : "";
    left.hidden = !out;
    note.textContent = "Filled markers lie on the frontier, which the steps join. For an open one, something shown is at least as good in both."
      + (state.trained_length && state.length > state.trained_length ? ` This is beyond the ${whole(state.trained_length)} tokens that the model was trained on.` : "")
      + (state.machine ? ` Measured on ${state.machine}.` : "");
    live.say([big, sentence, standing, summary, left].map((one) => one.textContent).filter(Boolean).join(" "));
    svg.setAttribute("aria-label", `${words} against ${state.cost}, both relative to dense fp32. ${summary.textContent} Chosen: ${big.textContent}. The table below has every number.`);
  }

  // Every number of this length and phase, for those who can't see the picture.
  const caption = h("caption", {});
  const body = h("tbody", {});
  const list = h("details", {}, h("summary", {}, "All of them as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "All of them as a table" },
      h("table", { class: "fx-table fxe-list" }, caption, h("thead", {}, h("tr", {},
        ["Configuration", "Time", "Memory", "More bits", "Agreement", "Frontier"].map((t, i) => h("th", { scope: "col", class: i ? "" : "fx-text" }, t)))), body)));
  function fillList() {
    if (!list.open) return;
    const { here, front } = look();
    const or = (value, words) => (value === null ? "–" : words(value));
    caption.textContent = `${state.phase === "read" ? "Reading" : "Writing"}, ${whole(state.length)} tokens; time and memory as shares of those of dense fp32`;
    body.replaceChildren(...[...here].sort((a, b) => (a[state.cost] ?? Infinity) - (b[state.cost] ?? Infinity)).map((row) =>
      h("tr", {}, h("th", { scope: "row", class: "fx-text" }, row.label),
        [or(row.time, share), or(row.memory, share), or(row.bits, (x) => (x ? `${sign(x)}${amount(x)}\u00a0%` : "0")), or(row.agreement, percent), front.includes(row) ? "yes" : "no"]
          .map((t) => h("td", {}, t)))));
  }
  list.addEventListener("toggle", fillList);

  // All together --------------------------------------------------------------------------------
  el.append(h("div", { class: "fx fx-pareto", role: "group", "aria-label": "Pareto explorer" },
    bar, filter, h("div", { class: "fxe-parts" }, figure,
      h("div", { class: "fxe-words" }, pick.el, big, sentence, standing, call, plain, summary, left, note)),
    list, saveButtons(() => svg, "quality-against-cost"), live.el));

  /** What the present state shows. */
  function look() {
    const here = shownRows(state.rows, state);
    const drawn = drawnRows(here, state);
    return { here, drawn, front: frontier(here, state), chosen: drawn.find((row) => row.label === state.selected) ?? firstChoice(here, state) };
  }
  function update() {
    state = Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
    if (!controls || controls.rows !== state.rows) build();
    controls.refresh();
    const found = look();
    offer(found);
    if (width) draw(found);
    tell(found);
    fillList();
  }
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { width = w; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
