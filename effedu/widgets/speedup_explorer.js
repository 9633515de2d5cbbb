/* SpeedupExplorer: measured speedups against length, beside the most that the pattern allows.
   The first part computes and touches no page; tests hold it equal to speedup_explorer.py. */

/** All causal pairs divided by those the block pattern keeps. */
export function limitAt(length, blockSize, blocksBack, sinks) {
  let live = 0;
  for (let start = 0; start < length; start += blockSize) {
    const stop = Math.min(length, start + blockSize);
    const hidden = Math.max(0, start - blocksBack * blockSize - Math.min(sinks, length)); // keys before the window
    live += (stop - start) * ((start + 1 + stop) / 2 - hidden);
  }
  return (length * (length + 1)) / 2 / live;
}

/** The speedup of `name` at `length`: a measurement, or a value on the line between two (on logarithmic
    axes) with measured: false, or null where nothing was measured on both sides. */
export function readingAt(rows, name, length, blockSize) {
  const points = rows.filter((row) => row.name === name && row.block_size === blockSize)
    .sort((a, b) => a.length - b.length);
  const after = points.findIndex((row) => row.length >= length);
  if (after < 0) return null;
  const here = points[after];
  if (here.length === length) return { ratio: here.ratio, low: here.low, high: here.high, measured: true };
  if (after === 0) return null;
  const before = points[after - 1];
  const part = Math.log(length / before.length) / Math.log(here.length / before.length);
  return { ratio: before.ratio * (here.ratio / before.ratio) ** part, low: null, high: null,
    measured: false, between: [before.length, here.length] };
}

/** Where the length slider stops: every measured length of this block size, and seven between two. */
export function stopsOf(rows, blockSize) {
  const lengths = [...new Set(rows.filter((row) => row.block_size === blockSize).map((row) => row.length))]
    .sort((a, b) => a - b);
  const stops = lengths.flatMap((length, i) => i + 1 === lengths.length ? [length]
    : Array.from({ length: 8 }, (_, k) => Math.round(length * (lengths[i + 1] / length) ** (k / 8))));
  return [...new Set(stops)];
}

// The page -------------------------------------------------------------------------------------

const TRAITS = ["rows", "machine", "baseline", "blocks_back", "sinks", "block_size", "length", "hidden"];
const STYLES = ["one", "two", "three", "four", "five", "six"]; // colour and shape; see the style sheet
const SHAPES = [
  (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`, // circle
  (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`, // square
  (r) => `M0 ${-1.2 * r}L${1.2 * r} ${r}H${-1.2 * r}z`, // triangle
  (r) => `M0 ${-1.3 * r}L${1.3 * r} 0 0 ${1.3 * r} ${-1.3 * r} 0z`, // diamond
  (r) => `M0 ${1.2 * r}L${1.2 * r} ${-r}H${-1.2 * r}z`, // triangle, point down
  (r) => `M${-1.3 * r} ${-r / 2}h${2.6 * r}v${r}h${-2.6 * r}z`, // bar
];
const whole = (n) => n.toLocaleString("en");
const ratio = (x) => (x < 9.995 ? x.toFixed(2) : x < 99.95 ? x.toFixed(1) : whole(Math.round(x)));
const times = (x) => `${ratio(x)}×`;
const percent = (x) => `${Math.round(100 * x)}\u00a0%`; // together on one line

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  let state = {};
  let width = 0;
  let axes = null; // how the last drawing maps length and ratio to the picture

  // What follows from the rows alone.
  const names = () => [...new Set(state.rows.map((row) => row.name))];
  const sizes = () => [...new Set(state.rows.map((row) => row.block_size))].sort((a, b) => a - b);
  const lengths = () => [...new Set(state.rows.map((row) => row.length))].sort((a, b) => a - b);
  const shown = () => names().filter((name) => !state.hidden.includes(name));
  const limit = (length) => limitAt(length, state.block_size, state.blocks_back, state.sinks);
  const styleOf = (name) => names().indexOf(name) % STYLES.length;

  // Controls ------------------------------------------------------------------------------------
  const bar = h("div", { class: "fx-bar fxs-controls" });
  let controls = null;
  /** Built anew when Python gives other rows; the choices are what was measured. */
  function build() {
    const blocks = segmented({
      label: "Block size b", options: sizes().map((b) => [b, whole(b)]), value: state.block_size,
      onchange: (b) => {
        put("block_size", b);
        const stops = stopsOf(state.rows, b);
        put("length", Math.min(stops[stops.length - 1], Math.max(stops[0], model.get("length"))));
      },
    });
    const length = range({
      label: "Length N", min: 0, max: 1, value: 0,
      text: (i) => {
        const stops = stopsOf(state.rows, state.block_size);
        return `${whole(closest(stops, state.length) === i ? state.length : stops[i])} tokens`;
      },
      oninput: (i) => put("length", stopsOf(model.get("rows"), model.get("block_size"))[i]),
    });
    length.el.classList.add("fxs-length");
    const peers = names().map((name) => {
      const swatch = s("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", class: `fxs-${STYLES[styleOf(name)]}`, "aria-hidden": true },
        s("path", { class: "fxs-dot", d: SHAPES[styleOf(name)](4.5) }));
      const control = toggle({
        label: name, checked: true,
        onchange: (on) => put("hidden", names().filter((other) => (other === name ? !on : model.get("hidden").includes(other)))),
      });
      control.el.append(swatch);
      return { name, control };
    });
    bar.replaceChildren(blocks.el, length.el,
      h("fieldset", { class: "fxs-peers" }, h("legend", { class: "fx-sr" }, "Show"), peers.map((p) => p.control.el)));
    controls = {
      rows: state.rows,
      refresh() {
        const stops = stopsOf(state.rows, state.block_size);
        blocks.set(state.block_size);
        length.limits(0, stops.length - 1);
        length.set(closest(stops, state.length));
        for (const { name, control } of peers) control.set(!state.hidden.includes(name));
      },
    };
  }
  const closest = (stops, length) => stops.reduce((best, stop, i) =>
    (Math.abs(Math.log(stop / length)) < Math.abs(Math.log(stops[best] / length)) ? i : best), 0);

  // Picture -------------------------------------------------------------------------------------
  const still = s("g", {}); // changes with the block size, the names, the width
  const moving = s("g", {}); // follows the length
  const svg = s("svg", { role: "img", class: "fxs-svg" }, still, moving);
  const figure = h("div", { class: "fxs-figure" }, svg);

  function draw() {
    const wide = width >= 500;
    const labels = wide ? 104 : 12;
    const [left, right, top] = [46, width - labels, 22];
    const height = Math.round(Math.min(400, Math.max(240, 0.62 * width)));
    const bottom = height - 42;
    const all = lengths();
    const [first, last] = [all[0], all[all.length - 1]];
    // One frame for every block size, so that switching between them compares.
    const drawn = state.rows.filter((row) => !state.hidden.includes(row.name));
    const most = Math.max(1, ...drawn.map((row) => row.high), ...state.rows.map((row) => row.limit)) * 1.25;
    const least = Math.min(1, ...drawn.map((row) => row.low)) / 1.25;
    const x = (length) => first === last ? (left + right) / 2
      : left + 8 + ((right - left - 16) * Math.log(length / first)) / Math.log(last / first);
    const y = (value) => bottom - ((bottom - top) * Math.log(value / least)) / Math.log(most / least);
    axes = { x, y, left, right, top, bottom, first, last };

    const parts = [];
    const text = (px, py, words, attributes) => s("text", { x: px, y: py, ...attributes }, words);
    // Axes: 1, 2, 5, 10 ... upwards; the measured lengths sideways, as many as fit.
    let labelled = Infinity;
    for (let power = Math.floor(Math.log10(least)); 10 ** power <= most; power += 1) {
      for (const digit of [1, 2, 5]) {
        const value = digit * 10 ** power;
        if (value < least || value > most) continue;
        parts.push(s("path", { class: value === 1 ? "fxs-one-line" : "fxs-line", d: `M${left} ${y(value)}H${right}` }));
        if (labelled - y(value) < 16) continue;
        labelled = y(value);
        parts.push(text(left - 8, y(value) + 4, `${Number(value.toPrecision(1))}×`, { "text-anchor": "end" }));
      }
    }
    parts.push(text(0, 12, `times as fast as ${state.baseline}`));
    let free = -Infinity;
    for (const length of all) {
      parts.push(s("path", { class: "fxs-tick", d: `M${x(length)} ${bottom}v4` }));
      const half = 3.6 * whole(length).length;
      if (x(length) - half < free + 8) continue;
      free = x(length) + half;
      parts.push(text(x(length), bottom + 18, whole(length), { "text-anchor": "middle" }));
    }
    parts.push(text((left + right) / 2, bottom + 36, "tokens N", { "text-anchor": "middle" }));

    // The limit: computed, so it has a line and no dots.
    const own = stopsOf(state.rows, state.block_size);
    const ends = [];
    parts.push(s("path", { class: "fxs-limit", fill: "none", "stroke-dasharray": "5 4",
      d: own.map((n, i) => `${i ? "L" : "M"}${x(n).toFixed(1)} ${y(limit(n)).toFixed(1)}`).join("") }));
    const end = own[own.length - 1];
    ends.push({ y: y(limit(end)), words: "limit", style: "" });

    for (const name of [...shown()].reverse()) { // the first one on top
      const style = STYLES[styleOf(name)];
      const points = state.rows.filter((row) => row.name === name && row.block_size === state.block_size)
        .sort((a, b) => a.length - b.length);
      if (!points.length) continue;
      parts.push(s("g", { class: `fxs-${style}` },
        s("path", { class: "fxs-join", fill: "none", d: points.map((p, i) => `${i ? "L" : "M"}${x(p.length).toFixed(1)} ${y(p.ratio).toFixed(1)}`).join("") }),
        points.map((p) => s("path", { class: "fxs-spread", fill: "none", d: `M${x(p.length).toFixed(1)} ${y(p.low).toFixed(1)}V${y(p.high).toFixed(1)}` })),
        points.map((p) => s("path", { class: "fxs-dot", d: SHAPES[styleOf(name)](4), transform: `translate(${x(p.length).toFixed(1)} ${y(p.ratio).toFixed(1)})` }))));
      ends.push({ y: y(points[points.length - 1].ratio), words: name, style });
    }
    if (wide) {
      ends.push({ y: y(1), words: "dense", style: "" });
      ends.sort((a, b) => a.y - b.y);
      for (let i = 1; i < ends.length; i += 1) ends[i].y = Math.max(ends[i].y, ends[i - 1].y + 15);
      const over = Math.max(0, ends[ends.length - 1].y - bottom);
      for (const entry of ends) {
        const short = entry.words.length > 15 ? `${entry.words.slice(0, 14)}…` : entry.words;
        parts.push(s("g", { class: entry.style && `fxs-${entry.style}` },
          text(right + 8, entry.y - over + 4, short, { class: "fxs-name" })));
      }
    } else {
      parts.push(text(x(end), y(limit(end)) - 8, "limit", { "text-anchor": "end", class: "fxs-name" }));
    }
    still.replaceChildren(...parts);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }

  /** The line at the chosen length: filled rings on measurements, open ones between them. */
  function point() {
    const { x, y, top, bottom } = axes;
    const at = Math.min(axes.last, Math.max(axes.first, state.length));
    moving.replaceChildren(s("path", { class: "fxs-here", d: `M${x(at)} ${top}V${bottom}` }),
      ...shown().flatMap((name) => {
        const reading = readingAt(state.rows, name, state.length, state.block_size);
        return reading ? [s("g", { class: `fxs-${STYLES[styleOf(name)]}` },
          s("circle", { class: reading.measured ? "fxs-ring" : "fxs-open", cx: x(at), cy: y(reading.ratio), r: reading.measured ? 8 : 4.5,
            ...(reading.measured ? { fill: "none" } : {}) }))] : [];
      }),
      s("circle", { class: "fxs-atlimit", cx: x(at), cy: y(limit(state.length)), r: 3 }));
  }

  // Pointing at the picture moves the length; up and down still scrolls the page.
  const look = (event) => {
    if (!axes || (event.type === "pointermove" && event.pointerType === "mouse" && !event.buttons)) return;
    const frame = svg.getBoundingClientRect();
    const px = ((event.clientX - frame.left) * width) / (frame.width || 1);
    const stops = stopsOf(state.rows, state.block_size);
    const best = stops.reduce((a, b) => (Math.abs(axes.x(b) - px) < Math.abs(axes.x(a) - px) ? b : a));
    if (best !== model.get("length")) put("length", best);
  };
  figure.addEventListener("pointerdown", (event) => {
    try { figure.setPointerCapture(event.pointerId); } catch { /* already released */ }
    look(event);
  }, { signal: life.signal });
  figure.addEventListener("pointermove", look, { signal: life.signal });

  // Words ---------------------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const sentence = h("p", { class: "fx-readout" });
  const body = h("tbody", {});
  const now = h("table", { class: "fx-table fxs-now" }, h("caption", { class: "fx-sr" }, "At this length"),
    h("thead", {}, h("tr", {}, ["", "speedup", "spread", "of limit"].map((t, i) =>
      (t ? h("th", { scope: "col" }, t) : h("td", {}))))), body);
  const note = h("p", { class: "fx-note" });

  function tell() {
    const limitHere = limit(state.length);
    const at = `${whole(state.length)} tokens in blocks of ${whole(state.block_size)}`;
    const main = shown()[0];
    const reading = main && readingAt(state.rows, main, state.length, state.block_size);
    if (!main) {
      big.textContent = `At most ${times(limitHere)}`;
      sentence.textContent = `At ${at} the pattern leaves so many times fewer pairs. Choose something to compare it with.`;
    } else if (!reading) {
      big.textContent = "Not measured";
      sentence.textContent = `${main} was not measured at ${at}.`;
    } else {
      const share = `${percent(reading.ratio / limitHere)} of the limit, ${times(limitHere)}`;
      const took = reading.ratio >= 1 ? `1/${ratio(reading.ratio)} of the time` : `${ratio(1 / reading.ratio)} times as long as it`;
      big.textContent = reading.measured ? `${times(reading.ratio)} as fast` : `About ${times(reading.ratio)}`;
      sentence.textContent = reading.measured
        ? `At ${at}, ${main} took ${took}${reading.ratio >= 1 ? ` of ${state.baseline}` : `: slower than ${state.baseline}`}. That is ${share}.`
        : `At ${at}, ${main} would take about ${took}. That was not measured: it is a value on the line between the measurements at ${whole(reading.between[0])} and ${whole(reading.between[1])} tokens, and ${share}.`;
    }
    body.replaceChildren(...shown().map((name) => {
      const r = readingAt(state.rows, name, state.length, state.block_size);
      const cells = r ? [`${r.measured ? "" : "≈ "}${times(r.ratio)}`, r.measured ? `${ratio(r.low)} to ${ratio(r.high)}` : "–", percent(r.ratio / limitHere)]
        : ["–", "not measured", "–"];
      return h("tr", {}, h("th", { scope: "row", class: `fx-text fxs-${STYLES[styleOf(name)]}` }, h("span", { class: "fxs-name" }, name)),
        cells.map((t) => h("td", {}, t)));
    }));
    note.textContent = "Dots are medians of interleaved rounds, upright bars hold half of the rounds, lines only join the dots. "
      + "Dashed, the limit: all pairs of a query and an earlier key, divided by those the pattern keeps."
      + (state.machine ? ` Measured on ${state.machine}.` : "");
    live.say(`${big.textContent}. ${sentence.textContent}`);
    svg.setAttribute("aria-label", `Speedup over ${state.baseline} against length, in blocks of ${whole(state.block_size)}. ${sentence.textContent} The table below has every measurement.`);
  }

  // Every measurement of this block size, for those who can't see the picture.
  const listCaption = h("caption", {});
  const listHead = h("tr", {});
  const listBody = h("tbody", {});
  const list = h("details", {}, h("summary", {}, "All measurements as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "All measurements as a table" },
      h("table", { class: "fx-table fxs-list" }, listCaption, h("thead", {}, listHead), listBody)));
  function fillList() {
    if (!list.open) return;
    listCaption.textContent = `Speedup over ${state.baseline} in blocks of ${whole(state.block_size)}, with its spread`;
    listHead.replaceChildren(...["Tokens", ...names(), "limit"].map((t) => h("th", { scope: "col" }, t)));
    const own = lengths().filter((n) => state.rows.some((row) => row.length === n && row.block_size === state.block_size));
    listBody.replaceChildren(...own.map((n) => h("tr", {}, h("th", { scope: "row" }, whole(n)),
      names().map((name) => {
        const r = readingAt(state.rows, name, n, state.block_size);
        return h("td", {}, r && r.measured ? `${times(r.ratio)} (${ratio(r.low)} to ${ratio(r.high)})` : "–");
      }), h("td", {}, times(limit(n))))));
  }
  list.addEventListener("toggle", fillList);

  // All together --------------------------------------------------------------------------------
  el.append(h("div", { class: "fx fx-speedup", role: "group", "aria-label": "Speedup explorer" },
    bar, h("div", { class: "fxs-parts" }, figure, h("div", { class: "fxs-words" }, big, sentence, now, note)),
    list, saveButtons(() => svg, "speedup"), live.el));

  /** The picture is drawn anew only when something other than the length changed. */
  function update() {
    const before = state;
    state = Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
    const same = TRAITS.every((name) => name === "length" || before[name] === state[name]);
    if (!controls || controls.rows !== state.rows) build();
    controls.refresh();
    if (width && (!same || !axes || axes.width !== width)) { draw(); axes.width = width; }
    if (width) point();
    tell();
    if (!same) fillList();
  }
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { width = w; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
