/* HardwareCalculator: does a model fit a device, and how fast can it be there at the most.
   The first part computes and touches no page; tests hold it equal to effedu.cost and effedu.sizing. */

const BITS = [4, 8, 16, 32];

/** One pass over `length` new tokens after `cached` ones, logits for the last: as effedu.cost.cost. */
export function passCost(config, length, batch, cached, item) {
  const { width, queryWidth, kvWidth, projections, feedForward, norm } = shapeOf(config);
  const linears = [...projections, ...feedForward];
  const [layers, vocab, tokens] = [config.num_hidden_layers, config.vocab_size, batch * length];
  const sum = (part) => linears.reduce((total, one) => total + part(one), 0);
  const products = sum(([i, o]) => i * o);
  const table = vocab * width;
  const body = layers * (products + sum(([, , bias]) => bias) + 2 * norm) + norm;
  const pairs = layers * length * (cached + length); // a causal model needs about half of a prompt's
  const moved = layers * (sum(([i, o]) => i + o) + 2 * queryWidth + 2 * kvWidth); // numbers a token
  return {
    parameters: body + table * (config.tie_word_embeddings ? 1 : 2),
    attention: 4 * batch * queryWidth * pairs,
    other: 2 * tokens * layers * products + 2 * batch * table,
    weights: item * (body + table + tokens * width), // of the embedding only the rows looked up
    cache: item * batch * 2 * kvWidth * layers * (cached + length), // read and written, and kept
    activations: item * (tokens * moved + batch * (width + vocab)),
  };
}

/** Memory, times and limits: as effedu.sizing.fits, with the times beside them. */
function measure({ config, device, length, batch, bits, cache_bits }) {
  const item = bits === 32 ? 4 : 2;
  const prefill = passCost(config, length, batch, 0, item);
  const decode = passCost(config, 1, batch, length - 1, item);
  const rate = rateOf({ device, bits });
  const moved = (pass) => (pass.weights * bits + pass.cache * cache_bits) / (8 * item) + pass.activations;
  const prefillFlops = prefill.other + Math.floor((prefill.attention * (length + 1)) / (2 * length));
  const decodeFlops = decode.other + decode.attention;
  const times = {
    prefill: { compute: rate && prefillFlops / rate, memory: moved(prefill) / device.bandwidth },
    decode: { compute: rate && decodeFlops / rate, memory: moved(decode) / device.bandwidth },
  };
  const weights = Math.floor((prefill.parameters * bits) / 8);
  const kv_cache = Math.floor((decode.cache * cache_bits) / (8 * item));
  const held = 2 * config.hidden_size + 2 * config.intermediate_size;
  const activations = batch * item * (length * held + config.vocab_size);
  const total = weights + kv_cache + activations;
  return {
    weights, kv_cache, activations, total, times, rate,
    fits: device.memory === null ? null : total <= device.memory,
    flops_per_token: Math.floor(decodeFlops / batch),
    prefill_tokens_per_second: rate && (batch * length) / Math.max(times.prefill.compute, times.prefill.memory),
    decode_tokens_per_second: batch / Math.max(times.decode.compute ?? 0, times.decode.memory),
    decode_bound: (times.decode.compute ?? 0) > times.decode.memory ? "compute" : "memory",
  };
}

export function fit(question) {
  const found = measure(question);
  return { ...found, advice: advice(question, found) };
}

/** What would make it fit; or, where it does, what would make it faster. */
function advice(question, found) {
  const { device, batch, bits, length } = question;
  if (device.memory === null) return [];
  const lines = [];
  const other = (change) => measure({ ...question, ...change });
  const fewer = BITS.filter((b) => b < bits).reverse().map((b) => [b, other({ bits: b })]);
  const each = (found.kv_cache + found.activations) / batch; // bytes of one sequence
  const room = Math.trunc((device.memory - found.weights) / each);
  const gain = (than) => than.decode_tokens_per_second / found.decode_tokens_per_second;
  if (found.fits) {
    if (found.decode_bound === "memory" && room > batch) {
      lines.push(`there is room for a batch of ${whole(room)}: up to ${three(gain(other({ batch: room })))} times more tokens a second, as one reading of the weights serves all`);
    }
    if (fewer.length && gain(fewer[0][1]) > 1.05) {
      lines.push(`${fewer[0][0]}-bit weights: writes up to ${three(gain(fewer[0][1]))} times faster`);
    }
    return lines;
  }
  const small = fewer.find(([, it]) => it.fits);
  if (small) lines.push(`${small[0]}-bit weights: ${gb(small[1].total)} together, which fits`);
  if (room >= 1) lines.push(`a batch of at most ${whole(room)}`);
  else if (device.memory > found.weights) {
    const tokens = Math.trunc((length * (device.memory - found.weights)) / (each * batch));
    if (tokens) lines.push(`at most ${whole(tokens)} tokens a sequence`);
  }
  lines.push(`${Math.ceil(found.total / device.memory)} such devices that share the model, or a larger one`);
  return lines;
}

const gb = (n) => (n < 1e12 ? `${three(n / 1e9)} GB` : `${three(n / 1e12)} TB`);

// The page -------------------------------------------------------------------------------------

const octaves = (from, to) => {
  const values = [];
  for (let v = from; v <= to; v *= 2) values.push(v, ...(v >= 2 && v < to ? [1.5 * v] : []));
  return values;
};
const CHOICES = { length: octaves(128, 131072), batch: octaves(1, 512) };
const nearest = (values, v) => values.reduce((best, x, i) => (Math.abs(x - v) < Math.abs(values[best] - v) ? i : best), 0);
const MEASURES = [["memory", "Memory, GB", 1e9], ["bandwidth", "Bandwidth, GB/s", 1e9], ["compute", "Compute, TFLOP/s", 1e12]];
function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const [models, devices] = [model.get("models"), model.get("devices")];
  const now = () => Object.fromEntries(["config", "device", "length", "batch", "bits", "cache_bits"].map((name) => [name, model.get(name)]));

  // Controls ------------------------------------------------------------------------------------
  const modelPick = known({ label: "Model", list: models, of: (one) => one.config, now: () => model.get("config"), onchange: (config) => put("config", config) });
  const devicePick = known({ label: "Device", list: devices, now: () => model.get("device"), onchange: (device) => put("device", device) });
  const bitsOf = (name, label) => segmented({ label, value: model.get(name), options: BITS.map((b) => [b, String(b)]), onchange: (v) => put(name, v) });
  const bits = bitsOf("bits", "Bits a weight");
  const cacheBits = bitsOf("cache_bits", "Bits in the cache");
  function stepped(label, name, unit) {
    const values = CHOICES[name];
    const control = range({
      label, min: 0, max: values.length - 1, value: 0, oninput: (i) => put(name, values[i]),
      text: (i) => `${whole(nearest(values, model.get(name)) === i ? model.get(name) : values[i])} ${unit}`,
    });
    return { el: control.el, refresh: () => control.set(nearest(values, model.get(name))) };
  }
  const sliders = [stepped("Context", "length", "tokens"), stepped("Batch", "batch", "at a time")];

  const sizes = shapeFields(model, put);
  const deviceFields = MEASURES.map(([name, label, unit]) => numberField(label, {
    limits: () => [0.001, LARGEST],
    read: () => { const value = name === "compute" ? fit(now()).rate : model.get("device")[name]; return value === null ? null : value / unit; },
    write: (value) => {
      const device = { ...model.get("device"), name: OWN };
      if (name === "compute") device.peak = { bfloat16: value * unit, float32: value * unit };
      else device[name] = value * unit;
      put("device", device);
    },
  }));

  // Picture -------------------------------------------------------------------------------------
  const PARTS = [["weights", "Weights"], ["kv_cache", "KV cache"], ["activations", "Activations"]];
  const svg = s("svg", { role: "img", class: "fxh-svg" });
  const figure = h("div", { class: "fxh-figure" }, svg);
  let size = 0;
  const text = (x, y, words, props) => s("text", { x, y, ...props }, words);

  function draw(q, found) {
    const right = size - 1;
    const memory = q.device.memory;
    const scale = (size - 2) / Math.max(found.total, memory ?? 0);
    const nodes = [];
    const high = 40;
    let top = 44;
    nodes.push(text(0, 14, `${modelPick.name() ?? "Your own model"} on ${devicePick.name() ?? "your own device"}`, { class: "fxh-title" }));
    if (memory !== null) {
      const x = 1 + memory * scale;
      nodes.push(s("rect", { class: "fxh-room", x: 1, y: top, width: memory * scale, height: high }));
      nodes.push(text(x, top - 8, `${gb(memory)} of memory`, { "text-anchor": x > size / 2 ? "end" : "start" }));
    }
    let x = 1;
    PARTS.forEach(([name]) => {
      const wide = found[name] * scale;
      nodes.push(s("rect", { class: `fxh-${name}`, x, y: top, width: Math.max(0.5, wide), height: high }));
      x += wide;
    });
    if (memory !== null) {
      if (!found.fits) nodes.push(s("rect", { class: "fxh-over", x: 1 + memory * scale, y: top, width: Math.max(1, (found.total - memory) * scale), height: high }));
      nodes.push(s("path", { class: "fxh-edge", d: `M${1 + memory * scale} ${top - 4}v${high + 8}` }));
    }
    top += high + 20;
    PARTS.forEach(([name, label], i) => {
      const y = top + 20 * i;
      nodes.push(s("rect", { class: `fxh-${name}`, x: 1, y: y - 10, width: 12, height: 12 }), text(20, y, label),
        text(right, y, gb(found[name]), { "text-anchor": "end", class: "fxh-strong" }));
    });
    top += 20 * PARTS.length + 22;
    const one = q.batch === 1;
    const tasks = {
      prefill: `To read ${one ? "a prompt" : `${whole(q.batch)} prompts`} of ${whole(q.length)} tokens`,
      decode: one ? "To write one more token" : `To write one more token in ${whole(q.batch)} texts`,
    };
    for (const [name, label] of Object.entries(tasks)) {
      const { compute, memory: moving } = found.times[name];
      const slow = Math.max(compute ?? 0, moving);
      nodes.push(text(0, top, label, { class: "fxh-title" }));
      [["compute", "computing", compute], ["memory", "moving bytes", moving]].forEach(([kind, words, time], i) => {
        const y = top + 12 + 24 * i;
        const start = 98;
        const space = Math.max(20, size - start - 76);
        const wide = time === null ? 0 : Math.max(1, (space * time) / slow);
        nodes.push(text(0, y + 13, words), s("rect", { class: time === slow ? "fxh-slow" : "fxh-quick", x: start, y: y + 1, width: wide, height: 15 }),
          text(start + wide + 8, y + 13, time === null ? "no rate published" : seconds(time), { class: time === slow ? "fxh-strong" : "" }));
      });
      top += 90;
    }
    svg.replaceChildren(...nodes);
    for (const [name, value] of Object.entries({ width: size, height: top - 20, viewBox: `0 0 ${size} ${top - 20}` })) svg.setAttribute(name, value);
  }

  // Words ---------------------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const fitting = h("p", { class: "fx-readout" });
  const reading = h("p", { class: "fx-readout" });
  const writing = h("p", { class: "fx-readout" });
  const changes = h("ul", { class: "fxh-advice" });
  const changeTitle = h("p", { class: "fxh-heading" });

  function tell(q, found) {
    const { memory } = q.device;
    big.textContent = found.fits === null ? `It needs ${gb(found.total)}` : found.fits ? "It fits" : "It doesn't fit";
    big.className = `fx-big ${found.fits === null ? "" : found.fits ? "fxh-good" : "fxh-bad"}`;
    fitting.textContent = memory === null ? "How much memory the device has isn't known."
      : `Weights, cache and activations take ${gb(found.total)} of ${gb(memory)}: `
        + (found.fits ? `${gb(memory - found.total)} are left.` : `${gb(found.total - memory)} too much.`);
    const one = q.batch === 1;
    const { compute, memory: moving } = found.times.prefill;
    const pace = { compute: "its arithmetic sets the pace", memory: "its memory bandwidth sets the pace" };
    const if_ = found.fits === false ? "If it did, it could read" : "It can read";
    reading.textContent = found.prefill_tokens_per_second === null ? `How fast it reads a prompt can't be said: no ${q.bits === 32 ? "float32 rate" : "rate of arithmetic"} is published for this device.`
      : `${if_} at most ${three(found.prefill_tokens_per_second)} tokens a second: ${compute > moving ? pace.compute : pace.memory}.`;
    writing.textContent = `${found.fits === false ? "It could write" : "It can write"} at most ${three(found.decode_tokens_per_second)} tokens a second${one ? "" : `, ${three(found.decode_tokens_per_second / q.batch)} in each of ${whole(q.batch)} texts`}: ${pace[found.decode_bound]}.`;
    changeTitle.textContent = found.fits === false ? "What would make it fit" : "What would make it faster";
    changeTitle.hidden = changes.hidden = !found.advice.length;
    changes.replaceChildren(...found.advice.map((line) => h("li", {}, line[0].toUpperCase() + line.slice(1))));
    live.say(`${big.textContent}. ${fitting.textContent} ${writing.textContent}`);
    svg.setAttribute("aria-label", `${fitting.textContent} ${PARTS.map(([name, label]) => `${label} ${gb(found[name])}`).join(", ")}.`);
  }

  // All together --------------------------------------------------------------------------------
  const fold = (words, fields, note) => h("details", {}, h("summary", {}, words), h("div", { class: "fx-fields" }, fields.map((f) => f.el)), h("p", { class: "fx-note" }, note));
  const shapeNote = h("span", {});
  const sourceNote = h("span", {});
  const note = h("p", { class: "fx-note" }, "Limits, never promises: programs stay below them, and a runtime needs some memory of its own. The cache holds all texts at full length; activations are an estimate for reading all prompts at once.");
  el.append(h("div", { class: "fx fx-hardware", role: "group", "aria-label": "Hardware calculator" },
    h("div", { class: "fx-bar" }, modelPick.el, devicePick.el, bits.el, cacheBits.el),
    h("div", { class: "fx-bar" }, sliders.map((slider) => slider.el)),
    h("div", { class: "fxh-folds" }, fold("Change the model", sizes, shapeNote), fold("Change the device", deviceFields, sourceNote)),
    h("div", { class: "fxh-parts" },
      h("div", { class: "fxh-say" }, big, fitting, reading, writing, changeTitle, changes),
      h("div", {}, figure, note)),
    saveButtons(() => svg, "model-on-device"), live.el));

  const update = () => {
    const q = now();
    const found = fit(q);
    for (const control of [modelPick, devicePick, ...sliders, ...sizes, ...deviceFields]) control.refresh();
    bits.set(q.bits);
    cacheBits.set(q.cache_bits);
    shapeNote.textContent = `${count(passCost(q.config, 1, 1, 0, 2).parameters)} parameters, ${{ gpt_neox: "as in GPT-NeoX: two matrices a feed-forward network, with biases", llama: "as in Llama: three matrices a feed-forward network, no biases", qwen2: "as in Qwen2: three matrices a feed-forward network, biases for queries, keys and values" }[q.config.model_type]}.`;
    sourceNote.textContent = q.device.source ? `Figures of ${q.device.name} from ${q.device.source}` : "";
    if (size) draw(q, found);
    tell(q, found);
  };
  watch(model, ["config", "device", "length", "batch", "bits", "cache_bits"], perFrame(update), life.signal);
  onResize(figure, (w) => { size = w; update(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
