/* LowRankExplorer: a matrix as the product of two thin ones, for every rank.
   The first part computes and touches no page; tests hold it equal to low_rank_explorer.py. */

/** What rank `rank` keeps of a rows x columns matrix with these singular values, largest first. */
export function lowRank(spectrum, rank, rows, columns) {
  let [kept, dropped] = [0, 0]; // squares; summed apart, so that a small rest keeps its digits
  spectrum.forEach((value, k) => { if (k < rank) kept += value * value; else dropped += value * value; });
  const share = kept + dropped ? dropped / (kept + dropped) : 0;
  return {
    energy: 1 - share,
    relative_error: Math.sqrt(share),
    parameters: rank * (rows + columns),
    full_parameters: rows * columns,
    break_even: (rows * columns) / (rows + columns),
  };
}

/** The least rank that keeps this share of the energy. */
export function rankFor(spectrum, energy) {
  const all = spectrum.reduce((sum, value) => sum + value * value, 0);
  let kept = 0;
  for (let k = 0; k < spectrum.length; k += 1) {
    kept += spectrum[k] * spectrum[k];
    if (kept >= energy * all) return k + 1;
  }
  return spectrum.length;
}

/** Bits per byte at a rank: a measurement, or a value on the line between two, or null outside. */
export function readingAt(points, rank) {
  const after = points.findIndex(([r]) => r >= rank);
  if (after < 0) return null;
  const [r1, value] = points[after];
  if (r1 === rank) return { value, measured: true };
  if (after === 0) return null;
  const [r0, before] = points[after - 1];
  return { value: before + ((value - before) * (rank - r0)) / (r1 - r0), measured: false, between: [r0, r1] };
}

/** The matrix's corner out of its first `rank` components, row by row. Component k is the product of
    two runs of int8, each with a scale of its own. */
export function corner({ left, right, scales, high, wide }, rank) {
  const out = new Float64Array(high * wide);
  for (let k = 0; k < rank; k += 1) {
    for (let i = 0; i < high; i += 1) {
      const x = scales[k] * left[k * high + i];
      for (let j = 0; j < wide; j += 1) out[i * wide + j] += x * right[k * wide + j];
    }
  }
  return out;
}

/** What the state says of each matrix: spectrum and the corner's factors, read from the bytes. */
export function readMatrices(model) {
  const [floats, ints] = [model.get("spectrum_bytes"), model.get("factor_bytes")];
  let [f, b] = [0, 0];
  const take = (n) => Float32Array.from({ length: n }, () => floats.getFloat32(4 * (f++), true));
  const part = (n) => Int8Array.from({ length: n }, () => ints.getInt8(b++));
  return model.get("matrices").map(({ name, rows, columns, high, wide }) => {
    const ranks = Math.min(rows, columns);
    return { name, rows, columns, high, wide, spectrum: take(ranks), scales: take(ranks), left: part(ranks * high), right: part(ranks * wide) };
  });
}

// The page -------------------------------------------------------------------------------------

const TRAITS = ["matrix", "rank"];
const STYLES = ["one", "two", "three", "four"]; // colour and dash; see the style sheet
const whole = (n) => n.toLocaleString("en");
const percent = (x) => `${(100 * x).toFixed(x > 0.9995 && x < 1 ? 2 : 1)}\u00a0%`;
const sides = (m) => `${whole(m.rows)}\u00a0×\u00a0${whole(m.columns)}`;

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const matrices = readMatrices(model).map((m) => ( // the curves never change
    { ...m, curve: Array.from(m.spectrum, (_, k) => lowRank(m.spectrum, k + 1, m.rows, m.columns).relative_error) }));
  const sweep = model.get("sweep");
  const about = model.get("about");

  function compute() {
    const m = matrices.find((one) => one.name === model.get("matrix"));
    const ranks = m.spectrum.length;
    const rank = Math.min(model.get("rank"), ranks);
    return { m, ranks, rank, now: lowRank(m.spectrum, rank, m.rows, m.columns),
      readings: sweep.map(({ name, points }) => ({ name, reading: readingAt(points, rank) })) };
  }
  const go = (rank) => put("rank", Math.max(1, Math.min(compute().ranks, Math.round(rank))));
  const even = (m) => Math.max(1, Math.floor((m.rows * m.columns) / (m.rows + m.columns)));

  // Controls ------------------------------------------------------------------------------------
  const matrix = select({
    label: "Matrix", value: null, options: matrices.map((m) => [m.name, `${m.name}, ${sides(m)}`]),
    onchange: (v) => { put("matrix", v); go(model.get("rank")); },
  });
  matrix.el.hidden = matrices.length === 1;
  const rank = range({ label: "Rank r", min: 1, max: 1, value: 1, text: (r) => `${whole(r)} of ${whole(compute().ranks)}`, oninput: go });
  const half = button("Half the parameters", () => go(even(compute().m) / 2));
  const breakEven = button("Break-even rank", () => go(even(compute().m)));

  // Picture -------------------------------------------------------------------------------------
  const [left, right] = [44, 8];
  const svg = s("svg", { role: "img", class: "fxl-svg" });
  const figure = h("div", { class: "fxl-figure" }, svg);
  const canvas = h("canvas", {});
  let size = 0; // the picture's width
  let shades = null; // 256 x (r, g, b), from the most negative to the most positive
  const most = Math.max(...matrices.map((m) => m.spectrum.length), ...sweep.flatMap(({ points }) => points.map(([r]) => r)));
  const x = (r) => Math.round(10 * (left + ((r - 0.5) / most) * (size - left - right))) / 10;
  const r1 = (v) => Math.round(10 * v) / 10;
  const path = (kind, d) => s("path", { class: `fxl-${kind}`, d });
  const text = (px, py, words, props) => s("text", { x: px, y: py, "paint-order": "stroke", ...props }, words);
  const end = { "text-anchor": "end" };
  const line = (values, y) => Array.from(values, (v, k) => `${k ? "L" : "M"}${x(k + 1)} ${r1(y(v))}`).join("");

  /** What stands behind each of the upper parts: two ticks, the break-even line, the rank. */
  function frame(c, top, height, [high, low], here) {
    const at = x(c.now.break_even + 0.5);
    return [path("axis", `M${left} ${top}V${top + height}H${size - right}`),
      path("even", `M${at} ${top}V${top + height}`), path("rank", `M${x(c.rank)} ${top}V${top + height}`),
      text(left - 6, top + 9, high, end), text(left - 6, top + height, low, end),
      here === null ? null : s("circle", { class: "fxl-dot", cx: x(c.rank), cy: r1(here), r: 4 })];
  }

  function drawSpectrum(c, top, height) {
    const y = (v) => top + height * (1 - v);
    const scaled = (m) => m.spectrum.map((v) => v / (m.spectrum[0] || 1));
    const own = scaled(c.m);
    const area = (list, from) => (list.length ? `M${x(from + 0.5)} ${top + height}${Array.from(list, (v, k) => `L${x(from + k + 1)} ${r1(y(v))}`).join("")}L${x(from + list.length + 0.5)} ${top + height}z` : "");
    const at = x(c.now.break_even + 0.5);
    const label = at > (left + size) / 2 ? { ...end, x: at - 5 } : { x: at + 5 };
    return [text(0, top - 9, "Singular values, over the largest", { class: "fxl-title" }),
      path("kept", area(own.subarray(0, c.rank), 0)), path("dropped", area(own.subarray(c.rank), c.rank)),
      matrices.filter((m) => m !== c.m).map((m) => path("other", line(scaled(m), y))),
      frame(c, top, height, ["1", "0"], y(own[c.rank - 1])),
      text(0, top + 14, `break-even rank ${r1(c.now.break_even)}`, label)];
  }

  function drawErrors(c, top, height) {
    const y = (v) => top + height * (1 - v);
    return [text(0, top - 9, "Relative error of the matrix", { class: "fxl-title" }),
      matrices.map((m) => path(m === c.m ? "own" : "other", line(m.curve, y))),
      frame(c, top, height, ["1", "0"], y(c.now.relative_error))];
  }

  function drawSweep(c, top, height) {
    const values = sweep.flatMap(({ points }) => points.map(([, v]) => v));
    const [low, high] = [Math.min(...values) / 1.02, Math.max(...values) * 1.02];
    const y = (v) => top + (height * Math.log(high / v)) / Math.log(high / low);
    return [text(0, top - 9, "Bits per byte, measured", { class: "fxl-title" }),
      frame(c, top, height, [number(high), number(low)], null),
      sweep.map(({ name, points }, i) => {
        const style = `fxl-${STYLES[i % STYLES.length]}`;
        const reading = c.readings[i].reading;
        return s("g", { class: style }, path("join", points.map(([r, v], k) => `${k ? "L" : "M"}${x(r)} ${r1(y(v))}`).join("")),
          points.map(([r, v]) => s("circle", { class: "fxl-point", cx: x(r), cy: r1(y(v)), r: 3 })),
          reading ? s("circle", { class: reading.measured ? "fxl-ring" : "fxl-open", cx: x(c.rank), cy: r1(y(reading.value)), r: reading.measured ? 7 : 4 }) : null,
          text(size - right, top + 12 + 16 * i, `${["—", "- -", "···", "-·-"][i % STYLES.length]} ${name}`, { ...end, class: "fxl-name" }));
      })];
  }

  function paint(values, reach, m) {
    [canvas.width, canvas.height] = [m.wide, m.high];
    const context = canvas.getContext("2d");
    const image = context.createImageData(m.wide, m.high);
    values.forEach((v, i) => {
      const shade = 3 * Math.max(0, Math.min(255, Math.round(127.5 + (127.5 * v) / reach)));
      image.data.set([shades[shade], shades[shade + 1], shades[shade + 2], 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
  }

  function drawMaps(c, top) {
    const full = corner(c.m, c.ranks);
    const now = corner(c.m, c.rank);
    const reach = full.reduce((best, v) => Math.max(best, Math.abs(v)), 0) || 1;
    const wide = Math.floor((size - 16) / 3);
    const high = Math.round((wide * c.m.high) / c.m.wide);
    return [[full, "the matrix"], [now, `rank ${c.rank}`], [full.map((v, i) => v - now[i]), "difference"]].flatMap(([values, words], i) => [
      text(i * (wide + 8), top - 9, words, { class: i ? "" : "fxl-title" }),
      s("image", { x: i * (wide + 8), y: top, width: wide, height: high, preserveAspectRatio: "none", href: paint(values, reach, c.m), style: "image-rendering:pixelated" }),
      s("rect", { class: "fxl-edge", x: i * (wide + 8), y: top, width: wide, height: high })]).concat([high]);
  }

  let bottom = 0; // of the parts where the pointer chooses a rank
  function draw(c) {
    shades ??= diverging(el.querySelector(".fx"));
    const places = [24, 162, 282];
    const parts = [drawSpectrum(c, places[0], 96), drawErrors(c, places[1], 76)];
    if (sweep.length) parts.push(drawSweep(c, places[2], 104));
    bottom = sweep.length ? places[2] + 104 : places[1] + 76;
    parts.push([1, Math.round(most / 4), Math.round(most / 2), Math.round((3 * most) / 4), most].map((r, i) => text(x(r), bottom + 18, whole(r), { "text-anchor": i === 4 ? "end" : "middle" })),
      text(left + (size - left - right) / 2, bottom + 34, "rank r", { "text-anchor": "middle" }));
    const maps = drawMaps(c, bottom + 74);
    const height = bottom + 74 + maps.pop() + 2;
    append((svg.replaceChildren(), svg), [parts, maps]);
    for (const [key, value] of Object.entries({ width: size, height, viewBox: `0 0 ${size} ${height}` })) svg.setAttribute(key, value);
  }

  function point(event) {
    if (!size || (event.type === "pointermove" && !event.buttons)) return;
    const box = svg.getBoundingClientRect();
    if (event.clientY - box.top > bottom + 20) return;
    go(0.5 + ((event.clientX - box.left - left) / (size - left - right)) * most);
  }
  figure.addEventListener("pointerdown", point, { signal: life.signal });
  figure.addEventListener("pointermove", point, { signal: life.signal });

  // Words ---------------------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const sentence = h("p", { class: "fx-readout" });
  const pays = h("p", { class: "fx-readout" });
  const measured = h("ul", { class: "fxl-measured" });
  const row = (words, n) => {
    const cells = Array.from({ length: n }, () => h("td", {}));
    return { el: h("tr", {}, h("th", { scope: "row", class: "fx-text" }, words), cells), cells, tell: (...said) => cells.forEach((cell, i) => { cell.textContent = said[i]; }) };
  };
  const table = (caption, heads, rows) => h("table", { class: "fx-table fxl-table" }, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, h("td", {}), heads.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, rows.map((one) => one.el)));
  const [numbers, flops] = [row("numbers to store", 3), row("FLOPs a token", 3)];
  const compared = matrices.map((m) => row(m.name, 2));

  function tell(c) {
    const { m, now } = c;
    const saved = now.parameters / now.full_parameters;
    big.textContent = `${percent(now.relative_error)} off with ${percent(saved)} of the numbers`;
    sentence.textContent = `Rank ${c.rank} of ${c.ranks} keeps ${percent(now.energy)} of the energy, the sum of the squared singular values. `
      + `Two matrices, ${whole(m.rows)}\u00a0×\u00a0${c.rank} and ${c.rank}\u00a0×\u00a0${whole(m.columns)}, stand for one of ${sides(m)}.`;
    pays.textContent = now.parameters < now.full_parameters ? `Below the break-even rank, ${r1(now.break_even)}, they are smaller than the one.`
      : now.parameters === now.full_parameters ? "At this rank they are just as large as the one."
        : `Above the break-even rank, ${r1(now.break_even)}, they are larger than the one, and save nothing.`;
    pays.className = `fx-readout ${now.parameters < now.full_parameters ? "" : "fxl-bad"}`;
    measured.replaceChildren(...c.readings.map(({ name, reading }) => h("li", {}, `${name}: ${!reading ? "not measured at this rank"
      : reading.measured ? `${number(reading.value, 3)} bits per byte` : `about ${number(reading.value, 2)} bits per byte, on the line between ranks ${reading.between[0]} and ${reading.between[1]}`}`)));
    numbers.tell(whole(now.full_parameters), whole(now.parameters), percent(saved));
    flops.tell(whole(2 * now.full_parameters), whole(2 * now.parameters), percent(saved));
    matrices.forEach((one, i) => {
      const at = Math.min(c.rank, one.spectrum.length);
      compared[i].tell(percent(lowRank(one.spectrum, at, one.rows, one.columns).relative_error), whole(rankFor(one.spectrum, 0.9)));
      if (one === m) compared[i].el.setAttribute("aria-current", "true"); else compared[i].el.removeAttribute("aria-current");
    });
    live.say(`${big.textContent}. ${pays.textContent}`);
    svg.setAttribute("aria-label", `Singular values of ${m.name} and the relative error for every rank${sweep.length ? ", bits per byte for some" : ""}, and a corner of the matrix, of its approximation and of their difference. ${big.textContent}. ${sentence.textContent}`);
  }

  const all = sweep.length ? h("details", {}, h("summary", {}, "All measurements as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "All measurements as a table" },
      h("table", { class: "fx-table" }, h("caption", {}, "Bits per byte"), h("thead", {}, h("tr", {}, ["Rank", ...sweep.map(({ name }) => name)].map((t) => h("th", { scope: "col" }, t)))),
        h("tbody", {}, [...new Set(sweep.flatMap(({ points }) => points.map(([r]) => r)))].sort((a, b) => a - b).map((r) =>
          h("tr", {}, h("th", { scope: "row" }, whole(r)), sweep.map(({ points }) => h("td", {}, number(points.find(([at]) => at === r)?.[1] ?? NaN, 3).replace("NaN", "–"))))))))) : null;

  // All together --------------------------------------------------------------------------------
  el.append(h("div", { class: "fx fx-lowrank", role: "group", "aria-label": "Low-rank explorer" },
    h("div", { class: "fx-bar" }, matrix.el, rank.el, h("div", { class: "fx-bar fxl-buttons" }, half, breakEven)),
    h("div", { class: "fxl-parts" },
      h("div", { class: "fxl-say" }, big, sentence, pays, measured),
      h("div", { class: "fxl-look" }, figure, h("p", { class: "fx-note" }, `Drag in the curves to choose a rank.${matrices.length > 1 ? " Thin lines are the other matrices." : ""} The three squares show the first ${matrices[0].high} rows and ${matrices[0].wide} columns, drawn from factors in 8 bits: the two colours are positive and negative.`)),
      h("div", { class: "fxl-rest" }, table("Cost", ["the matrix", "two thin ones", "share"], [numbers, flops]),
        table("All matrices", ["error at this rank", "rank for 90\u00a0% of the energy"], compared), about ? h("p", { class: "fx-note" }, about) : null)),
    all, saveButtons(() => svg, "low-rank"), live.el));

  const update = () => {
    const c = compute();
    matrix.set(c.m.name);
    rank.limits(1, c.ranks);
    rank.set(c.rank);
    if (size) draw(c);
    tell(c);
  };
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { size = w; update(); }, life.signal);
  onTheme(el, () => { shades = null; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
