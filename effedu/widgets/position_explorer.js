/* PositionExplorer: how near two positions look to a model, and how rotating a pair makes it so.
   The first part computes and touches no page; tests hold it equal to effedu.positional. */

/** The angle by which each pair of numbers turns from one position to the next. */
export function frequencies(dim, base, scale) {
  return Float64Array.from({ length: dim / 2 }, (_, i) => 1 / base ** ((2 * i) / dim) / scale);
}

/** How fast each head of ALiBi forgets: as effedu.positional.alibi_slopes. */
export function slopes(heads) {
  const below = 2 ** Math.floor(Math.log2(heads));
  return Float64Array.from({ length: heads }, (_, i) => 2 ** (i < below ? (-8 * (i + 1)) / below : (-4 * (2 * (i - below) + 1)) / below));
}

/** The similarity of two positions for every distance from 0 to length - 1. For sines and rotations it
    is the mean cosine of all pairs, for ALiBi the bias on the score, and without positions nothing. */
export function similarities({ scheme, head_dim, base, scale, length, num_heads, head }) {
  if (scheme === "none") return new Float64Array(length);
  if (scheme === "alibi") {
    const slope = slopes(num_heads)[head];
    return Float64Array.from({ length }, (_, distance) => -slope * distance + 0);
  }
  const theta = frequencies(head_dim, base, scale);
  return Float64Array.from({ length }, (_, distance) => theta.reduce((sum, t) => sum + Math.cos(distance * t), 0) / theta.length);
}

// The page -------------------------------------------------------------------------------------

const TRAITS = ["scheme", "head_dim", "base", "scale", "length", "num_heads", "pair", "head", "query", "key", "together"];
const LENGTHS = [32, 64, 128, 256, 512, 1024, 2048, 4096];
const BASES = [100, 1000, 10000, 100000, 500000];
const SCALES = [1, 2, 4, 8];
const whole = (n) => n.toLocaleString("en");
const minus = (words) => String(words).replace("-", "−");
const three = (x) => minus(x === 0 ? 0 : Math.abs(x) >= 1000 ? whole(Math.round(x)) : Number(x.toPrecision(3)));
const degrees = (radians) => `${three((radians * 180) / Math.PI)}°`;
const among = (list, value) => [...new Set([...list, value])].sort((a, b) => a - b);

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  let size = 0; // the picture's width
  let shades = null;
  let known = { key: "" }; // similarities and the map, which most movements leave as they are

  function compute() {
    const q = Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
    const key = [q.scheme, q.head_dim, q.base, q.scale, q.length, q.num_heads, q.head].join();
    if (known.key !== key) known = { key, curve: similarities(q), map: null };
    const turns = q.scheme === "sinusoidal" || q.scheme === "rotary";
    const theta = frequencies(q.head_dim, q.base, q.scale);
    return { ...q, turns, theta, own: theta[q.pair], curve: known.curve, distance: Math.abs(q.query - q.key),
      rates: turns ? theta : q.scheme === "alibi" ? slopes(q.num_heads) : [] };
  }

  /** Move one position, or both by as much, as far as the text goes. */
  function move(which, to) {
    const other = which === "query" ? "key" : "query";
    const [from, far, last] = [model.get(which), model.get(other), model.get("length") - 1];
    let step = Math.max(-from, Math.min(last - from, Math.round(to) - from));
    if (model.get("together")) {
      step = Math.max(-far, Math.min(last - far, step));
      put(other, far + step);
    }
    put(which, from + step);
    update(); // where an end stopped it, the slider has to follow
  }

  // Controls ------------------------------------------------------------------------------------
  const scheme = segmented({
    label: "Positions", value: model.get("scheme"), onchange: (v) => put("scheme", v),
    options: [["sinusoidal", "sinusoidal"], ["rotary", "rotary"], ["alibi", "ALiBi"], ["none", "none"]],
  });
  const pick = (label, name, list, words, onchange = (v) => put(name, v)) =>
    select({ label, value: model.get(name), options: among(list, model.get(name)).map((v) => [v, words(v)]), onchange });
  const length = pick("Length", "length", LENGTHS, (v) => `${whole(v)} tokens`, (v) => {
    put("length", v);
    for (const name of ["query", "key"]) put(name, Math.min(model.get(name), v - 1));
  });
  const base = pick("Base", "base", BASES, whole);
  const scale = pick("Positions divided by", "scale", SCALES, (v) => (v === 1 ? "1: as they are" : String(v)));
  const pair = range({ label: "Pair", min: 0, max: model.get("head_dim") / 2 - 1, value: 0, text: (v) => `${v} of ${model.get("head_dim") / 2}`, oninput: (v) => put("pair", v) });
  const head = range({ label: "Head", min: 0, max: model.get("num_heads") - 1, value: 0, text: (v) => `${v} of ${model.get("num_heads")}`, oninput: (v) => put("head", v) });
  const place = (label, name) => range({ label, min: 0, max: 1, value: 0, text: whole, oninput: (v) => move(name, v) });
  const [query, key] = [place("Query at", "query"), place("Key at", "key")];
  const together = toggle({ label: "Keep the distance: move both", checked: false, onchange: (v) => put("together", v) });

  // Picture -------------------------------------------------------------------------------------
  const [left, right] = [44, 8];
  const svg = s("svg", { role: "img", class: "fxo-svg" });
  const figure = h("div", { class: "fxo-figure" }, svg);
  const canvas = h("canvas", {});
  const r1 = (v) => Math.round(10 * v) / 10;
  const path = (kind, d, props) => s("path", { class: `fxo-${kind}`, d, ...props });
  const text = (x, y, words, props) => s("text", { x, y, "paint-order": "stroke", ...props }, words);
  const end = { "text-anchor": "end" };
  const middle = { "text-anchor": "middle" };
  let places = {};

  function drawCurve(c) {
    const { top, height } = places.curve;
    const low = c.turns ? -1 : Math.min(-1e-9, c.curve.at(-1));
    const high = c.turns ? 1 : 0;
    const x = (d) => r1(left + (d / (c.length - 1)) * (size - left - right));
    const y = (v) => r1(top + (height * (high - v)) / (high - low));
    const line = (of) => Array.from(c.curve, (_, d) => `${d ? "L" : "M"}${x(d)} ${y(of(d))}`).join("");
    return [text(0, top - 9, c.turns ? "Similarity of two positions" : "Bias on the score", { class: "fxo-title" }),
      path("axis", `M${left} ${top}V${top + height}M${left} ${y(0)}H${size - right}`),
      c.turns ? path("pair", line((d) => Math.cos(d * c.own))) : null, path("own", line((d) => c.curve[d])),
      path("here", `M${x(c.distance)} ${top}V${top + height}`), s("circle", { class: "fxo-dot", cx: x(c.distance), cy: y(c.curve[c.distance]), r: 4.5 }),
      text(left - 6, y(high) + 9, three(high), end), c.turns ? text(left - 6, y(0) + 4, "0", end) : null, text(left - 6, y(low), three(low), end),
      text(left, top + height + 16, "0"), text(size - right, top + height + 16, whole(c.length - 1), end),
      text((left + size) / 2, top + height + 16, "distance in tokens", middle)];
  }

  /** Similarity of every position (down) with every position (across), for at most 96 of each. */
  function paint(c) {
    if (known.map) return known.map;
    const cells = Math.min(96, c.length);
    [canvas.width, canvas.height] = [cells, cells];
    const context = canvas.getContext("2d");
    const image = context.createImageData(cells, cells);
    const reach = c.turns ? 1 : Math.max(1e-9, -c.curve.at(-1));
    const at = (i) => Math.floor((i * c.length) / cells);
    for (let i = 0; i < cells; i += 1) {
      for (let j = 0; j < cells; j += 1) {
        const shade = 3 * Math.max(0, Math.min(255, Math.round(127.5 + (127.5 * c.curve[Math.abs(at(i) - at(j))]) / reach)));
        image.data.set([shades[shade], shades[shade + 1], shades[shade + 2], 255], 4 * (i * cells + j));
      }
    }
    context.putImageData(image, 0, 0);
    return (known.map = canvas.toDataURL());
  }

  function drawMap(c) {
    const { top, side } = places.map;
    const at = (p) => r1(((p + 0.5) / c.length) * side);
    return [text(0, top - 9, "Query ↓, key →", { class: "fxo-title" }),
      s("image", { x: 0, y: top, width: side, height: side, preserveAspectRatio: "none", href: paint(c), style: "image-rendering:pixelated" }),
      s("rect", { class: "fxo-edge", x: 0, y: top, width: side, height: side }),
      path("cross", `M0 ${top + at(c.query)}H${side}M${at(c.key)} ${top}V${top + side}`),
      s("circle", { class: "fxo-ring", cx: at(c.key), cy: top + at(c.query), r: 5 })];
  }

  function drawDial(c) {
    const { x, y, radius, top } = places.dial;
    if (!c.turns) return [text(x, y, c.scheme === "none" ? "" : "nothing turns", middle)];
    const tip = (angle, far = radius) => [r1(x + far * Math.cos(angle)), r1(y - far * Math.sin(angle))];
    const arrow = (angle, name, letter) => {
      const [tx, ty] = tip(angle, radius - 4);
      const [lx, ly] = tip(angle, radius + 11);
      return [path(name, `M${x} ${y}L${tx} ${ty}`), s("circle", { class: `fxo-tip-${name}`, cx: tx, cy: ty, r: 6 }), text(lx, ly + 4, letter, { ...middle, class: "fxo-strong" })];
    };
    const [from, to] = [c.key * c.own, c.query * c.own];
    const between = Math.atan2(Math.sin(to - from), Math.cos(to - from));
    const [ax, ay] = tip(from, radius * 0.45);
    const [bx, by] = tip(from + between, radius * 0.45);
    return [text(x - radius - 16, top - 9, `Pair ${c.pair}, turned`, { class: "fxo-title" }),
      s("circle", { class: "fxo-circle", cx: x, cy: y, r: radius }), path("axis", `M${x - radius} ${y}H${x + radius}M${x} ${y - radius}V${y + radius}`),
      path("arc", `M${ax} ${ay}A${r1(radius * 0.45)} ${r1(radius * 0.45)} 0 0 ${between > 0 ? 0 : 1} ${bx} ${by}`),
      arrow(from, "key", "k"), arrow(to, "query", "q"),
      text(x, y + radius + 28, `cosine ${minus(number(Math.cos(c.distance * c.own)))}`, middle)];
  }

  function drawRates(c) {
    if (!c.rates.length) return [];
    const { top, height } = places.rates;
    const n = c.rates.length;
    const step = (size - left - right) / n;
    // Turns within the length, or how much the bias falls over it.
    const amount = Array.from(c.rates, (rate) => (c.turns ? (rate * c.length) / (2 * Math.PI) : rate * c.length));
    const [low, high] = [Math.min(...amount, 1) / 1.5, Math.max(...amount, 1) * 1.5];
    const y = (v) => r1(top + (height * Math.log(high / v)) / Math.log(high / low));
    const chosen = c.turns ? c.pair : c.head;
    const bar = (i) => `M${r1(left + (i + 0.5) * step)} ${y(low)}V${y(amount[i])}`;
    const wide = { "stroke-width": Math.max(1, Math.min(14, 0.7 * step)) };
    const ticks = [0.001, 0.01, 0.1, 1, 10, 100, 1000].filter((v) => v > low && v < high);
    return [text(0, top - 9, c.turns ? "Turns of each pair within the length" : "Fall of the bias over the length", { class: "fxo-title" }),
      path("grid", ticks.map((v) => `M${left} ${y(v)}H${size - right}`).join("")), ticks.map((v) => text(left - 6, y(v) + 4, whole(v), end)),
      path("bars", amount.map((_, i) => (i === chosen ? "" : bar(i))).join(""), wide), path("chosen", bar(chosen), wide),
      path("axis", `M${left} ${y(low)}H${size - right}M${left} ${y(1)}H${size - right}`),
      text(left, top + height + 16, `${c.turns ? "pair" : "head"} 0`), text(size - right, top + height + 16, `${c.turns ? "pair" : "head"} ${n - 1}`, end)];
  }

  function draw(c) {
    shades ??= diverging(el.querySelector(".fx"));
    const side = Math.floor(Math.min(220, (size - 24) / 2));
    const radius = Math.floor(side / 2 - 22);
    places = {
      curve: { top: 24, height: 116 }, map: { top: 200, side },
      dial: { x: size - radius - 20, y: 200 + side / 2 - 8, radius, top: 200 },
      rates: { top: 200 + side + 40, height: 84 },
    };
    append((svg.replaceChildren(), svg), [drawCurve(c), drawMap(c), drawDial(c), drawRates(c)]);
    const height = c.rates.length ? places.rates.top + places.rates.height + 22 : places.map.top + side + 6;
    for (const [name, value] of Object.entries({ width: size, height, viewBox: `0 0 ${size} ${height}` })) svg.setAttribute(name, value);
  }

  // Pointing: the curve sets the distance, the map both positions, the dial turns, the bars choose.
  let grip = null; // the arrow that is held: { which, angle, turned, from }
  function point(event) {
    if (!size || (event.type === "pointermove" && !event.buttons)) return;
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const c = compute();
    const { map, dial, rates, curve } = places;
    const down = event.type === "pointerdown";
    const angle = Math.atan2(dial.y - py, px - dial.x);
    if (down) grip = null;
    if (grip) turn(c, angle);
    else if (py < curve.top + curve.height + 20) {
      const distance = Math.max(0, Math.min(c.length - 1, Math.round(((px - left) / (size - left - right)) * (c.length - 1))));
      put("query", Math.max(c.query, distance));
      put("key", Math.max(c.query, distance) - distance);
    } else if (py < map.top + map.side + 6 && px <= map.side) {
      const at = (v) => Math.max(0, Math.min(c.length - 1, Math.floor((v / map.side) * c.length)));
      put("query", at(py - map.top));
      put("key", at(px));
    } else if (down && c.turns && Math.hypot(px - dial.x, py - dial.y) < dial.radius + 20) {
      const off = (p) => Math.abs(Math.sin((angle - p * c.own) / 2));
      const which = off(c.query) <= off(c.key) ? "query" : "key";
      grip = { which, angle, turned: 0, from: c[which] };
      event.preventDefault();
    } else if (down && py > rates.top - 20 && c.rates.length) {
      const i = Math.floor(((px - left) / (size - left - right)) * c.rates.length);
      put(c.turns ? "pair" : "head", Math.max(0, Math.min(c.rates.length - 1, i)));
    }
  }
  function turn(c, angle) {
    grip.turned += Math.atan2(Math.sin(angle - grip.angle), Math.cos(angle - grip.angle));
    grip.angle = angle;
    move(grip.which, grip.from + grip.turned / c.own);
  }
  for (const type of ["pointerdown", "pointermove"]) figure.addEventListener(type, point, { signal: life.signal });
  for (const type of ["pointerup", "pointercancel"]) addEventListener(type, () => { grip = null; }, { signal: life.signal });

  // Words ---------------------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const [what, angles, all] = [0, 1, 2].map(() => h("p", { class: "fx-readout" }));
  const note = h("p", { class: "fx-note" });
  const WHAT = {
    sinusoidal: "A table of sines and cosines is added to the embeddings. The product of two of its rows, divided by their pairs, depends on the distance alone.",
    rotary: "Queries and keys are turned, pair by pair. This is the score of two equal vectors that have the same length in all pairs: it depends on the distance alone, and is the same curve as that of the sinusoids.",
    alibi: "Nothing turns. Each head subtracts its slope times the distance from the score.",
    none: "Nothing says where a token stands: every pair of positions looks alike.",
  };

  function tell(c) {
    big.textContent = c.scheme === "none" ? "No difference at any distance" : `${c.turns ? "Similarity" : "Bias"} ${minus(number(c.curve[c.distance], 3))} at distance ${whole(c.distance)}`;
    what.textContent = WHAT[c.scheme];
    angles.hidden = !c.turns;
    const turn_ = (p) => degrees((p * c.own) % (2 * Math.PI));
    angles.textContent = `Pair ${c.pair} turns ${degrees(c.own)} a token, once in ${three((2 * Math.PI) / c.own)} tokens. The query at ${whole(c.query)} stands at ${turn_(c.query)}, the key at ${whole(c.key)} at ${turn_(c.key)}: `
      + `${whole(c.distance)} × ${degrees(c.own)} apart. Move both by as much, and this stays.`;
    const full = c.theta.filter((t) => t * c.length >= 2 * Math.PI).length;
    all.textContent = c.turns ? `${full} of ${c.theta.length} pairs turn all the way round within ${whole(c.length)} tokens; at greater lengths the others meet angles that they never showed here.`
      : c.scheme === "alibi" ? `Head ${c.head} loses ${three(c.rates[c.head])} a token: the weight of a key halves every ${three(Math.LN2 / c.rates[c.head])} tokens.` : "";
    all.hidden = c.scheme === "none";
    note.textContent = `${c.turns ? "Thick: the mean of all pairs; thin: the pair on the dial. Drag its arrows. " : ""}Click the curve, the map or a bar.${c.length > 96 ? " The map shows 96 positions, evenly spread." : ""}${c.turns && c.scale !== 1 ? ` Every position is divided by ${c.scale}: position interpolation.` : ""}`;
    live.say(`${big.textContent}. ${c.turns ? angles.textContent : all.textContent}`);
    svg.setAttribute("aria-label", `${c.turns ? "Similarity" : "Bias"} against distance, for every two positions as a map${c.turns ? ", the angles of one pair on a dial, and the turns of all pairs" : ""}. ${big.textContent}. ${what.textContent}`);
  }

  const listCaption = h("caption", {});
  const listBody = h("tbody", {});
  const list = h("details", { ontoggle: () => fill(compute()) }, h("summary", {}, "The curve as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "The curve as a table" },
      h("table", { class: "fx-table" }, listCaption, h("thead", {}, h("tr", {}, ["Distance", "All pairs", "This pair"].map((t) => h("th", { scope: "col" }, t)))), listBody)));
  function fill(c) {
    if (!list.open) return;
    listCaption.textContent = c.turns ? `Similarity, and the cosine of pair ${c.pair}` : "Bias on the score";
    const steps = [...new Set([...Array(9).keys(), 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, c.distance, c.length - 1])].filter((d) => d < c.length).sort((a, b) => a - b);
    listBody.replaceChildren(...steps.map((d) => h("tr", { "aria-current": d === c.distance ? "true" : null }, h("th", { scope: "row" }, whole(d)),
      h("td", {}, minus(number(c.curve[d], 3))), h("td", {}, c.turns ? minus(number(Math.cos(d * c.own), 3)) : "–"))));
  }

  // All together --------------------------------------------------------------------------------
  el.append(h("div", { class: "fx fx-position", role: "group", "aria-label": "Position explorer" },
    h("div", { class: "fx-bar" }, scheme.el, length.el, base.el, scale.el),
    h("div", { class: "fx-bar" }, query.el, key.el, pair.el, head.el, together.el),
    h("div", { class: "fxo-parts" },
      h("div", { class: "fxo-say" }, big, what, angles, all),
      h("div", { class: "fxo-look" }, figure, note)),
    list, saveButtons(() => svg, "positions"), live.el));

  function update() {
    const c = compute();
    scheme.set(c.scheme);
    for (const [control, name] of [[length, "length"], [base, "base"], [scale, "scale"], [pair, "pair"], [head, "head"], [together, "together"]]) control.set(c[name]);
    for (const [control, name] of [[query, "query"], [key, "key"]]) { control.limits(0, c.length - 1); control.set(c[name]); }
    base.el.hidden = scale.el.hidden = pair.el.hidden = !c.turns;
    head.el.hidden = c.scheme !== "alibi";
    if (size) draw(c);
    tell(c);
    fill(c);
  }
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { size = w; update(); }, life.signal);
  onTheme(el, () => { shades = null; known.map = null; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
