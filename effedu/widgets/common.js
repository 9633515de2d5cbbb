/* Shared by every widget. Python puts this text in front of each widget's own module, so these are
   plain functions in the same scope: nothing is imported, and nothing is exported from here.

   Building      h(tag, props, ...children)        HTML; strings become text, never markup
                 s(tag, attributes, ...children)   the same for SVG
                 uid(prefix)                       an id no other view on the page has
   Controls      range select toggle segmented button saveButtons   -> { el, set(value), ... }
   Words         number(x, digits) count(n) bytes(n) announcer()
   Colour        color(el, "--fx-accent") -> [r, g, b]     ramp(el) -> Uint8Array, 256 x (r, g, b)
   Life          watch(model, names, fn, signal)  keep(model)  onTheme(el, fn, signal)
                 onResize(el, fn, signal)  perFrame(fn)
   Pictures      fitCanvas(canvas, width, height) -> context    saveSvg(svg, name)  savePng(svg, name)
   `signal` is an AbortSignal: a view makes one AbortController and aborts it when it is removed. */

const SVG_NS = "http://www.w3.org/2000/svg";

function append(el, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) el.append(child); // text stays text
  }
  return el;
}

/** h("button", { class: "fx-button", onclick: go, style: { width: "2em" }, "aria-label": "Go" }, "Go") */
function h(tag, props, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) el.style.setProperty(k, v);
    else if (name === "value" || name === "checked") el[name] = value;
    else el.setAttribute(name, value === true ? "" : value);
  }
  return append(el, children);
}

function s(tag, attributes, ...children) {
  const el = document.createElementNS(SVG_NS, tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== null && value !== false) el.setAttribute(name, value);
  }
  return append(el, children);
}

let ids = 0;
const idSeed = Math.random().toString(36).slice(2, 8); // one seed per module: widgets don't share `ids`
function uid(prefix = "fx") {
  return `${prefix}-${idSeed}-${(ids += 1)}`;
}

// Controls -------------------------------------------------------------------------------------

/** A labelled slider. `text(value)` says the value in words, for the eye and for screen readers. */
function range({ label, min, max, step = 1, value, text = String, oninput }) {
  const id = uid();
  const output = h("output", { for: id });
  const input = h("input", { id, type: "range", min, max, step });
  const show = () => {
    output.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => { show(); oninput(Number(input.value)); });
  const set = (v) => { input.value = v; show(); };
  set(value);
  const el = h("div", { class: "fx-field fx-range" }, h("label", { for: id }, label, output), input);
  const limits = (lo, hi) => { input.min = lo; input.max = hi; show(); };
  return { el, input, set, limits };
}

/** A labelled drop-down; `options` is [[value, label], ...] and values keep their type. */
function select({ label, options, value, onchange }) {
  const id = uid();
  const input = h("select", { id, onchange: () => onchange(options[input.selectedIndex][0]) },
    options.map(([, text]) => h("option", {}, text)));
  const set = (v) => { input.selectedIndex = options.findIndex(([option]) => option === v); };
  set(value);
  return { el: h("div", { class: "fx-field" }, h("label", { for: id }, label), input), input, set };
}

/** A checkbox with its label. */
function toggle({ label, checked, onchange }) {
  const input = h("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) });
  const set = (v) => { input.checked = v; };
  return { el: h("label", { class: "fx-toggle" }, input, h("span", {}, label)), input, set };
}

/** One of a few, side by side: native radio buttons. `options` is [[value, label], ...]. */
function segmented({ label, options, value, onchange, hideLabel = false }) {
  const name = uid();
  const inputs = options.map(([option]) =>
    h("input", { type: "radio", name, onchange: () => onchange(option) }));
  const set = (v) => inputs.forEach((input, i) => { input.checked = options[i][0] === v; });
  set(value);
  const el = h("fieldset", { class: "fx-seg" }, h("legend", { class: hideLabel ? "fx-sr" : "" }, label),
    options.map(([, text], i) => h("label", {}, inputs[i], h("span", {}, text))));
  return { el, inputs, set };
}

function button(label, onclick, props) {
  return h("button", { type: "button", class: "fx-button", onclick, ...props }, label);
}

/** "Save SVG" and "Save PNG"; `picture()` returns the <svg> to save, `name` the file without suffix. */
function saveButtons(picture, name) {
  return h("div", { class: "fx-bar", style: { gap: "0.5rem" } },
    button("Save SVG", () => saveSvg(picture(), name)),
    button("Save PNG", () => savePng(picture(), name)));
}

// Words ----------------------------------------------------------------------------------------

/** 0.4312 -> "0.43"; what would round to nothing keeps its size ("3e-4"), and none is written as -0. */
function number(x, digits = 2) {
  if (!Number.isFinite(x)) return String(x);
  if (x !== 0 && Math.abs(x) < 0.5 * 10 ** -digits) return x.toExponential(0);
  return (x + 0).toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
}

/** 1234 -> "1,234"; 8.4e6 -> "8.4 million": whole numbers as people say them. */
function count(n) {
  for (const [size, word] of [[1e15, " quadrillion"], [1e12, " trillion"], [1e9, " billion"], [1e6, " million"]]) {
    if (n >= size) return Number((n / size).toPrecision(3)).toLocaleString("en") + word;
  }
  return Math.round(n).toLocaleString("en");
}

/** Binary units, as memory is sold: 1536 -> "1.5 KiB". */
function bytes(n) {
  let unit = 0;
  while (n >= 1024 && unit < 5) { n /= 1024; unit += 1; }
  return `${Number(n.toPrecision(3)).toLocaleString("en")} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

/** A polite live region. `say(text)` waits until the reader pauses, so that dragging doesn't chatter. */
function announcer(delay = 400) {
  const el = h("p", { class: "fx-sr", "aria-live": "polite", role: "status" });
  let timer = 0;
  const say = (text) => {
    clearTimeout(timer);
    timer = setTimeout(() => { if (el.textContent !== text) el.textContent = text; }, delay);
  };
  return { el, say };
}

// Colour ---------------------------------------------------------------------------------------

/** The value of a CSS colour variable as the browser resolves it: [red, green, blue] in 0..255. */
function color(el, name) {
  const probe = h("span", { style: { color: `var(${name})`, display: "none" } });
  el.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  const context = h("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  context.fillStyle = value;
  context.fillRect(0, 0, 1, 1);
  return Array.from(context.getImageData(0, 0, 1, 1).data.slice(0, 3));
}

const css = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;

// OKLab (Ottosson, 2020): equal steps in it look like equal steps to the eye.
function toLab(rgb) {
  const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const n = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [0.2104542553 * l + 0.793617785 * m - 0.0040720468 * n,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * n,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * n];
}

function fromLab([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const n = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * n,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * n,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * n]
    .map((c) => Math.round(255 * Math.min(1, Math.max(0,
      c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055))));
}

/** 256 shades from paper through the accent towards ink, in equal steps of lightness: 256 x (r, g, b).
    One hue and an even lightness, so it reads the same for every kind of colour vision and in grey. */
function ramp(el) {
  const stops = ["--fx-paper", "--fx-accent", "--fx-ink"].map((name) => toLab(color(el, name)));
  const [paper, accent, ink] = stops;
  const end = accent.map((c, i) => c + 0.8 * (ink[i] - c));
  const turn = Math.min(0.9, Math.max(0.1, (accent[0] - paper[0]) / (end[0] - paper[0] || 1)));
  const shades = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i += 1) {
    const t = i / 255;
    const [from, to, u] = t < turn ? [paper, accent, t / turn] : [accent, end, (t - turn) / (1 - turn)];
    shades.set(fromLab(from.map((c, k) => c + u * (to[k] - c))), 3 * i);
  }
  return shades;
}

// Life -----------------------------------------------------------------------------------------

/** Call `fn` when one of the traits changes, from this view, another view, or Python. */
function watch(model, names, fn, signal) {
  for (const name of names) {
    model.on(`change:${name}`, fn);
    signal?.addEventListener("abort", () => model.off(`change:${name}`, fn));
  }
}

/** keep(model) returns set(name, value): changes the trait now, tells Python when the hand rests. */
function keep(model, delay = 120) {
  let timer = 0;
  return (name, value) => {
    model.set(name, value);
    clearTimeout(timer);
    timer = setTimeout(() => model.save_changes(), delay);
  };
}

/** Call `fn` after the page turns dark or light, and when `el` comes onto the page if it isn't there
    yet: JupyterLab renders a view first, when no colour is known. */
function onTheme(el, fn, signal) {
  const later = perFrame(fn);
  let known = el.isConnected;
  onResize(el, () => { if (!known) { known = true; fn(); } }, signal);
  const observer = new MutationObserver(later);
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, { attributeFilter: ["data-theme", "theme", "class", "data-jp-theme-light", "data-jp-theme-name"] });
  }
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", later, { signal });
  signal?.addEventListener("abort", () => observer.disconnect());
}

/** Call `fn(width)` with the element's content width, now and whenever it changes. */
function onResize(el, fn, signal) {
  let last = -1;
  const observer = new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== last) requestAnimationFrame(() => fn((last = width)));
  });
  observer.observe(el);
  signal?.addEventListener("abort", () => observer.disconnect());
}

/** However often the result is called, `fn` runs once in the next frame. */
function perFrame(fn) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; fn(); });
  };
}

// Pictures -------------------------------------------------------------------------------------

/** Size a canvas in CSS pixels with sharp device pixels behind them; drawing is in CSS pixels. */
function fitCanvas(canvas, width, height) {
  const ratio = Math.min(3, globalThis.devicePixelRatio || 1);
  const [w, hgt] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== hgt) { canvas.width = w; canvas.height = hgt; }
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/** A copy of an <svg> that looks the same outside the page: what its style sheets said, written in. */
function standalone(svg) {
  const copy = svg.cloneNode(true);
  copy.setAttribute("xmlns", SVG_NS);
  if (svg.isConnected) {
    const box = svg.getBoundingClientRect();
    if (!copy.getAttribute("viewBox")) copy.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    copy.setAttribute("width", Math.round(box.width));
    copy.setAttribute("height", Math.round(box.height));
    const names = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity",
      "opacity", "font-family", "font-size", "font-weight", "text-anchor", "dominant-baseline"];
    const [from, to] = [svg, copy].map((root) => [root, ...root.querySelectorAll("*")]);
    from.forEach((node, i) => {
      const style = getComputedStyle(node);
      for (const name of names) to[i].style.setProperty(name, style.getPropertyValue(name));
    });
    copy.style.background = css(color(svg.closest(".fx"), "--fx-paper"));
  }
  return copy;
}

const svgText = (svg) => new XMLSerializer().serializeToString(standalone(svg));

function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function saveSvg(svg, name) {
  download(new Blob([svgText(svg)], { type: "image/svg+xml" }), `${name}.svg`);
}

/** The same picture as a PNG, at twice its size so that it stays sharp in print. */
async function savePng(svg, name, scale = 2) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(svg))}`;
  await image.decode();
  const canvas = h("canvas", { width: image.naturalWidth * scale, height: image.naturalHeight * scale });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => download(blob, `${name}.png`), "image/png");
}
