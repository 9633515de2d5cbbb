/* TransformerWalk: one token followed from its embedding to the next token.
   The first part computes and touches no page; tests hold it equal to transformer_walk.py. */

/** What one token gathers on its way: the embedding, then for each layer its heads and all else in
    it, as arrays of `width` numbers; stored as integers times one scale a vector. */
export function partsOf(integers, scales, token, parts, width) {
  return Array.from({ length: parts }, (_, p) => {
    const row = token * parts + p;
    const scale = scales.getFloat32(4 * row, true);
    return Float64Array.from({ length: width }, (_, c) => integers.getInt8(row * width + c) * scale);
  });
}

/** The residual stream: the embedding, and the sum after each layer of `each` parts. */
export function streamOf(parts, each) {
  const stream = [parts[0]];
  for (let p = 1; p < parts.length; p += each) {
    const sum = Float64Array.from(stream.at(-1));
    for (const part of parts.slice(p, p + each)) part.forEach((v, c) => { sum[c] += v; });
    stream.push(sum);
  }
  return stream;
}

/** The probability of a logit, where `total` is the logarithm of the sum over all logits. */
export const probability = (logit, total) => Math.exp(logit - total);

export const lengthOf = (vector) => Math.sqrt(vector.reduce((sum, v) => sum + v * v, 0));

/** Votes for one token as { embedding, layers: layers x each, norm, sum }. */
export function tally(votes, each) {
  const layers = [];
  for (let p = 1; p < votes.length - 1; p += each) layers.push(votes.slice(p, p + each));
  return { embedding: votes[0], layers, norm: votes.at(-1), sum: votes.reduce((a, b) => a + b, 0) };
}

// The page -------------------------------------------------------------------------------------

const TRAITS = ["token", "stage", "head"];
const visible = (token) => token.replace(/ /g, "·").replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥") || "∅";
const percent = (p) => (p > 0 && p < 0.005 ? "<1\u00a0%" : p < 1 && p > 0.995 ? ">99\u00a0%" : `${Math.round(100 * p)}\u00a0%`);
const said = (x, digits = 2) => number(x, digits).replace(/^-/, "−");
const signed = (x, digits = 1) => (x > 0 ? "+" : "") + said(x, digits);

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const tokens = model.get("tokens").map(visible);
  const words = model.get("words").map(visible);
  const [layers, heads, length, width, vocabulary, hidden] = model.get("shape");
  const each = heads + 1; // parts of a layer
  const last = layers + 1; // the stage of the next token
  const stageNames = ["Embedding", ...Array.from({ length: layers }, (_, l) => `Layer ${l}`), "Next token"];
  const quoted = (text) => `“${text}”`;
  const state = {};
  let [parts, stream] = [[], []];
  let column = 0; // the number of each vector that is spelled out
  let chosen = 0; // the guess whose votes are shown
  let colours = null;

  const weight = (layer, head, i, j) =>
    model.get("weights_bytes").getUint16(2 * (((layer * heads + head) * length + i) * length + j), true) / 65535;
  const reading = (stage) => model.get("readings")[state.token][Math.min(stage, layers)];
  const guess = (stage) => {
    const { top: [[word, logit]], total } = reading(stage);
    return [words[word], probability(logit, total)];
  };

  // The text: a list box, so that one Tab reaches it and the arrows move in it.
  const cells = tokens.map((text) => {
    const note = h("small", {});
    return { note, el: h("span", { role: "option", class: "fxw-token", id: uid("token") }, h("span", {}, text), note) };
  });
  const strip = h("div", {
    role: "listbox", tabindex: "0", class: "fxw-strip", "aria-orientation": "horizontal",
    "aria-label": "Tokens of the text: choose the one to follow",
    onclick: (event) => {
      const i = cells.findIndex((cell) => cell.el.contains(event.target));
      if (i >= 0) put("token", i);
    },
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -length, End: length }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      put("token", Math.max(0, Math.min(length - 1, model.get("token") + step)));
    },
  }, cells.map((cell) => cell.el));

  // Steps
  let timer = 0;
  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  }
  const go = (stage) => put("stage", Math.max(0, Math.min(last, stage)));
  const back = button("Previous", () => { stop(); go(model.get("stage") - 1); });
  const next = button("Next", () => { stop(); go(model.get("stage") + 1); });
  const play = button("Play", () => {
    if (timer) { stop(); return; }
    if (model.get("stage") >= last) go(0);
    timer = setInterval(() => { go(model.get("stage") + 1); if (model.get("stage") >= last) stop(); }, 1600);
    play.textContent = "Pause";
  });
  play.hidden = still.matches; // where motion is unwelcome nothing moves by itself
  life.signal.addEventListener("abort", stop);

  // The way through the model: one row a stage; native radio buttons, so that arrows walk it.
  const name = uid("stage");
  const way = stageNames.map((title, stage) => {
    const input = h("input", { type: "radio", name, onchange: () => { stop(); put("stage", stage); } });
    const canvas = stage < last ? h("canvas", { class: "fxw-vector", "aria-hidden": "true" }) : null;
    const [word, share, bar] = [h("b", {}), h("span", {}), h("i", {})];
    return { input, canvas, word, share, bar, el: h("label", { class: "fxw-stage" }, input, h("span", { class: "fxw-dot" }),
      h("span", { class: "fxw-name" }, title), h("span", { class: "fxw-cell" }, canvas),
      h("span", { class: "fxw-guess" }, word, share, bar)) };
  });
  const path = h("fieldset", { class: "fxw-way" }, h("legend", {}, "The stream, and what it would say next"), way.map((row) => row.el));

  // What happens at the stage
  const big = h("p", { class: "fx-big" });
  const sentence = h("p", { class: "fx-readout" });
  const heading = (text) => h("p", { class: "fxw-heading" }, text);

  const headName = uid("head");
  const looks = Array.from({ length: heads }, (_, n) => {
    const input = h("input", { type: "radio", name: headName, onchange: () => put("head", n) });
    const boxes = tokens.map(() => h("i", {}));
    const most = h("span", { class: "fxw-most" });
    return { input, boxes, most, el: h("label", { class: "fxw-look" }, input, h("span", { class: "fxw-name" }, `head ${n}`),
      h("span", { class: "fxw-row", "aria-hidden": "true" }, boxes), most) };
  });
  const lookPart = h("fieldset", { class: "fxw-part" }, h("legend", { class: "fxw-heading" }, "Attention: where each head looks"), looks.map((row) => row.el));

  const sumNames = ["before", ...Array.from({ length: heads }, (_, n) => `+ head ${n}`), "+ feed-forward", "= after"];
  const sums = sumNames.map((title) => {
    const canvas = h("canvas", { class: "fxw-vector", role: "img" });
    const value = h("td", {});
    return { title, canvas, value, el: h("tr", {}, h("th", { scope: "row", class: "fx-text" }, title), h("td", {}, canvas), value) };
  });
  const columnHead = h("th", { scope: "col" });
  const sumScale = h("p", { class: "fx-note" });
  const sumTable = h("table", { class: "fx-table fxw-sum" },
    h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col", class: "fx-text" }, `${width} numbers`), columnHead)), h("tbody", {}, sums.map((row) => row.el)));
  const pick = range({
    label: "Spell out number", min: 0, max: width - 1, value: 0, oninput: (v) => { column = v; spell(); },
  });
  const point = (event) => {
    if (event.type === "pointermove" && event.pointerType === "touch" && !event.buttons) return;
    const canvas = event.target.closest("canvas");
    if (!canvas) return;
    const box = canvas.getBoundingClientRect();
    column = Math.max(0, Math.min(width - 1, Math.floor(((event.clientX - box.left) / box.width) * width)));
    pick.set(column);
    spell();
  };
  sumTable.addEventListener("pointermove", point, { signal: life.signal });
  sumTable.addEventListener("click", point, { signal: life.signal });
  const sumPart = h("div", { class: "fxw-part" }, heading("The sum: everything is added to the stream"), sumTable, pick.el, sumScale);

  const neuronBody = h("div", { class: "fxw-bars" });
  const neuronPart = h("div", { class: "fxw-part" }, heading(`Feed-forward: the most active of ${count(hidden)} neurons`), neuronBody,
    h("p", { class: "fx-note" }, "After each: the tokens that it lifts most."));

  const guessHeading = heading("");
  const guessBody = h("div", { class: "fxw-bars fxw-guesses" });
  const truth = h("p", { class: "fx-note" });
  const guessPart = h("div", { class: "fxw-part" }, guessHeading, guessBody, truth);

  const most = Math.max(...model.get("votes").map((list) => list.length));
  const votePick = select({ label: "Who lifts", options: Array.from({ length: most }, (_, n) => [n, ""]), value: 0, onchange: (v) => { chosen = v; voteTable(); } });
  const voteBody = h("tbody", {});
  const voteSum = h("p", { class: "fx-note" });
  const votePart = h("div", { class: "fxw-part" }, heading("Who voted for it"), votePick.el,
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "Votes" }, h("table", { class: "fx-table fxw-votes" },
      h("caption", {}, "What each part adds to the logit, above the average token"),
      h("thead", {}, h("tr", {}, h("td", {}), Array.from({ length: heads }, (_, n) => h("th", { scope: "col" }, `head ${n}`)), h("th", { scope: "col" }, "feed-fwd"))),
      voteBody)), voteSum);

  // Drawing -------------------------------------------------------------------------------------

  /** One pixel a number: the accent above zero, the warm colour below, full at `top`. */
  function paint(canvas, vector, top, mark = -1) {
    if (canvas.width !== width) Object.assign(canvas, { width, height: 1 });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, 1);
    vector.forEach((v, c) => {
      const shade = 3 * (100 + Math.round(100 * Math.max(-1, Math.min(1, v / top))));
      image.data.set(c === mark ? colours.ink : colours.shades.subarray(shade, shade + 3), 4 * c);
      image.data[4 * c + 3] = 255;
    });
    context.putImageData(image, 0, 0);
  }

  /** A strength that all but the largest fiftieth of the numbers stay below. */
  function strong(vectors) {
    const sizes = Float64Array.from(vectors.flatMap((v) => Array.from(v, Math.abs))).sort();
    return sizes[Math.floor(0.98 * (sizes.length - 1))] || 1;
  }

  const layerParts = (layer) => {
    const p = 1 + layer * each;
    return [stream[layer], ...parts.slice(p, p + each), stream[layer + 1]];
  };

  /** The sum of a layer, and one of its columns in numbers. */
  function spell() {
    const layer = state.stage - 1;
    if (layer < 0 || layer >= layers) return;
    const vectors = layerParts(layer);
    const top = strong(vectors);
    vectors.forEach((vector, n) => {
      paint(sums[n].canvas, vector, top, column);
      sums[n].canvas.setAttribute("aria-label", `${sumNames[n]}: ${width} numbers, length ${said(lengthOf(vector), 1)}`);
      sums[n].value.textContent = n === 0 || n === vectors.length - 1 ? said(vector[column]) : signed(vector[column], 2);
    });
    columnHead.textContent = `no. ${column}`;
    sumScale.replaceChildren(h("i", { class: "fxw-minus" }), ` below zero, `, h("i", { class: "fxw-plus" }), ` above; full colour from ±${said(top, 1)}. `
      + `Lengths: before ${said(lengthOf(vectors[0]), 1)}, after ${said(lengthOf(vectors.at(-1)), 1)}. Feed-forward counts the biases in.`);
  }

  const bar = (share, ...content) => h("div", {}, content[0], h("i", { style: { "--share": Math.max(0, Math.min(1, share)) } }), content.slice(1));

  function showGuesses() {
    const { top, total, next: following } = reading(state.stage);
    guessHeading.textContent = state.stage === 0 ? "If the model ended here" : state.stage === last ? `Softmax of ${count(vocabulary)} logits` : `If the model ended after layer ${state.stage - 1}`;
    guessBody.replaceChildren(...top.map(([word, logit]) => {
      const p = probability(logit, total);
      return bar(p, h("span", { class: following?.[0] === word ? "fxw-word is-true" : "fxw-word" }, words[word]), h("b", {}, percent(p)));
    }));
    truth.textContent = following
      ? `The text goes on with ${quoted(words[following[0]])}: ${percent(probability(following[1], total))} here, ${following[2] === 1 ? "the first choice" : `place ${count(following[2])}`}.`
      : "Here the text ends: nobody knows what is right.";
  }

  function showLayer(layer) {
    looks.forEach(({ input, boxes, most }, n) => {
      input.checked = n === state.head;
      const row = tokens.map((_, j) => (j > state.token ? 0 : weight(layer, n, state.token, j)));
      row.forEach((w, j) => {
        boxes[j].style.backgroundColor = colours.tints[Math.round(50 * Math.sqrt(w))];
        boxes[j].classList.toggle("is-future", j > state.token);
      });
      const best = row.indexOf(Math.max(...row));
      most.replaceChildren(h("span", { class: "fxw-word" }, tokens[best]), ` ${said(row[best])}`);
    });
    neuronBody.replaceChildren(...model.get("neurons")[state.token][layer].map(([n, activation, lifted], _, all) =>
      bar(activation / all[0][1], h("span", {}, `no. ${n}`), h("b", {}, said(activation, 1)), h("span", { class: "fxw-lifts" }, lifted.map((i) => h("span", { class: "fxw-word" }, words[i]))))));
    spell();
  }

  function voteTable() {
    const list = model.get("votes")[state.token];
    const [word, above, votes] = list[chosen];
    const found = tally(votes, each);
    const top = Math.max(...votes.map(Math.abs), 1e-9);
    const cell = (v) => h("td", { style: { "background-color": colours.soft[50 + Math.round((50 * v) / top)] } }, signed(v));
    voteBody.replaceChildren(...found.layers.map((row, l) => h("tr", {}, h("th", { scope: "row", class: "fx-text" }, `layer ${l}`), row.map(cell))));
    voteSum.textContent = `With ${signed(found.embedding)} from the embedding and ${signed(found.norm)} from the last norm, ${quoted(words[word])} stands ${said(found.sum, 1)} above the average token`
      + ` (logit minus mean: ${said(above, 1)}).`;
  }

  function showVotes() {
    const list = model.get("votes")[state.token];
    chosen = Math.min(chosen, list.length - 1);
    votePick.input.replaceChildren(...list.map(([word]) => h("option", {}, quoted(words[word]))));
    votePick.input.selectedIndex = chosen;
    voteTable();
  }

  /** What the stage does, in a headline and a sentence. */
  function tell() {
    const { token, stage, head } = state;
    const [word, share] = guess(stage);
    if (stage === 0) {
      return [`${quoted(tokens[token])} becomes ${width} numbers`,
        `Row ${model.get("ids")[token]} of a table of ${count(vocabulary)} rows. It is the same wherever the token stands: nothing of the text is in it yet.`];
    }
    if (stage === last) {
      return [`Next: ${quoted(word)}, ${percent(share)}`,
        `A last norm, then one product with each row of a table gives ${count(vocabulary)} logits; the softmax makes them probabilities.`];
    }
    const layer = stage - 1;
    const row = tokens.map((_, j) => (j > token ? 0 : weight(layer, head, token, j)));
    const best = row.indexOf(Math.max(...row));
    const [before, was] = guess(stage - 1);
    const change = before === word ? `The best guess stays ${quoted(word)} (${percent(was)} before, ${percent(share)} now).`
      : `The best guess turns from ${quoted(before)} (${percent(was)}) to ${quoted(word)} (${percent(share)}).`;
    return [`Layer ${layer}: ${quoted(word)}, ${percent(share)}`, `Head ${head} looks most at ${best === token ? "the token itself" : quoted(tokens[best])} (${said(row[best])}). ${change}`];
  }

  function update() {
    const before = state.token;
    for (const key of TRAITS) state[key] = model.get(key);
    if (before !== state.token) {
      parts = partsOf(model.get("parts_bytes"), model.get("scales_bytes"), state.token, 1 + layers * each, width);
      stream = streamOf(parts, each);
      chosen = 0;
    }
    const { token, stage, head } = state;
    const layer = stage - 1;
    const inLayer = stage > 0 && stage < last;
    cells.forEach(({ el: cell, note }, j) => {
      const w = inLayer && j <= token ? weight(layer, head, token, j) : 0;
      cell.style.backgroundColor = inLayer ? colours.tints[Math.round(50 * Math.sqrt(w))] : "";
      note.textContent = w >= 0.01 ? said(w).replace(/^0/, "") : "";
      cell.classList.toggle("is-future", j > token);
    });
    strip.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    cells[token].el.setAttribute("aria-selected", "true");
    strip.setAttribute("aria-activedescendant", cells[token].el.id);
    way.forEach((row, n) => {
      row.input.checked = n === stage;
      row.el.classList.toggle("is-done", n <= stage);
      const [word, share] = guess(n);
      row.word.textContent = word;
      row.share.textContent = percent(share);
      row.bar.style.setProperty("--share", share);
      if (row.canvas) paint(row.canvas, stream[n], strong([stream[n]]));
      row.input.setAttribute("aria-label", `${stageNames[n]}: best guess ${quoted(word)}, ${percent(share)}`);
    });
    back.disabled = stage === 0;
    next.disabled = stage === last;
    for (const part of [lookPart, sumPart, neuronPart]) part.hidden = !inLayer;
    votePart.hidden = stage !== last;
    const [title, words_] = tell();
    big.textContent = title;
    sentence.textContent = words_;
    live.say(`${title}. ${words_}`);
    showGuesses();
    if (inLayer) showLayer(layer);
    if (stage === last) showVotes();
  }

  /** A picture of the way for saving: it stands alone, with its colours written in. */
  function picture() {
    const [w, line] = [640, 46];
    const { ink, paper, muted, accent } = Object.fromEntries(["ink", "paper", "muted", "accent"].map((n) => [n, css(color(root, `--fx-${n}`))]));
    const tall = 84 + line * (layers + 2);
    return s("svg", { viewBox: `0 0 ${w} ${tall}`, width: w, height: tall, "font-family": "system-ui, sans-serif", "font-size": 14, fill: ink },
      s("rect", { width: w, height: tall, fill: paper }),
      s("text", { x: 20, y: 34, "font-size": 16 }, tokens.map((text, i) => s("tspan", i === state.token ? { "font-weight": 700, "text-decoration": "underline" } : i > state.token ? { fill: muted } : {}, text))),
      stageNames.map((title, n) => {
        const [word, share] = guess(n);
        return s("g", { transform: `translate(20 ${62 + line * n})` }, s("text", { y: 15 }, title),
          way[n].canvas && s("image", { href: way[n].canvas.toDataURL(), x: 100, width: 280, height: 20, preserveAspectRatio: "none", style: "image-rendering: pixelated" }),
          s("text", { x: 400, y: 15, "font-weight": 600 }, word), s("text", { x: 600, y: 15, "text-anchor": "end" }, percent(share)),
          s("rect", { x: 400, y: 21, width: 200 * share, height: 4, fill: accent }));
      }),
      s("text", { x: 20, y: tall - 10, fill: muted, "font-size": 12 }, "The residual stream after each step, and the next token it would give."));
  }

  const root = h("div", { class: "fx fx-walk", role: "group", "aria-label": "A token's walk through the model" },
    strip,
    h("div", { class: "fx-bar fxw-steps" }, back, next, play, h("p", { class: "fx-note" }, "Choose a token above, then walk.")),
    h("div", { class: "fxw-main" }, path, h("div", { class: "fxw-say" }, big, sentence, guessPart)),
    h("div", { class: "fxw-inside" }, lookPart, neuronPart, votePart), sumPart,
    saveButtons(() => picture(), "transformer-walk"), live.el);
  el.append(root);

  function recolour() {
    const [paper, plus, minus] = ["--fx-paper", "--fx-accent", "--fx-warm"].map((n) => toLab(color(root, n)));
    const mix = (to, t) => fromLab(paper.map((c, k) => c + t * (to[k] - c)));
    colours = { ink: [...color(root, "--fx-ink")], shades: new Uint8Array(3 * 201) };
    for (let n = -100; n <= 100; n += 1) colours.shades.set(mix(n < 0 ? minus : plus, Math.abs(n) / 100), 3 * (n + 100));
    colours.tints = Array.from({ length: 51 }, (_, n) => css(mix(plus, n / 100))); // behind words: half-way at most
    colours.soft = Array.from({ length: 101 }, (_, n) => css(mix(n < 50 ? minus : plus, Math.abs(n - 50) / 100)));
    update();
  }

  recolour();
  let largest = 0; // begin with the stream's largest number
  if (state.stage > 0 && state.stage < last) stream[state.stage].forEach((v, c) => { if (Math.abs(v) > largest) [largest, column] = [Math.abs(v), c]; });
  pick.set(column);
  spell();
  watch(model, TRAITS, perFrame(update), life.signal);
  onTheme(root, recolour, life.signal);
  return () => life.abort();
}

export default { render };
