/* StreamingListener: a recording, what the encoder sees of it, and the digits known so far.
   The first part computes and touches no page; tests hold it equal to effedu.applications. */

/** Sound between -1 and 1 from mu-law bytes. */
export function decode(codes) {
  return Float32Array.from(codes, (code) => {
    const y = code / 127.5 - 1;
    return (Math.sign(y) * Math.expm1(Math.abs(y) * Math.log(256))) / 255;
  });
}

/** What CTC writes: [frame, symbol] for each run of one symbol, blanks (0) left out. */
export function collapse(best) {
  const written = [];
  best.forEach((symbol, frame) => { if (symbol && symbol !== best[frame - 1]) written.push([frame, symbol]); });
  return written;
}

/** Seconds of sound after which a frame can be computed; chunk null is the whole recording. */
export function knownAt(frame, chunk, length, frameSeconds) {
  return (chunk === null ? length : Math.min((Math.floor(frame / chunk) + 1) * chunk, length)) * frameSeconds;
}

/** Frames that a frame sees, as [first, last + 1]: its `own` chunk, all in one layer, and in all `layers`. */
export function seenBy(frame, { chunk, back, length, layers = 1 }) {
  if (chunk === null) return { own: [0, length], one: [0, length], all: [0, length] };
  const number = Math.floor(frame / chunk);
  const end = Math.min((number + 1) * chunk, length);
  const first = (n) => (back === null ? 0 : Math.max(0, number - n * back) * chunk);
  return { own: [number * chunk, end], one: [first(1), end], all: [first(layers), end] };
}

/** The fewest errors, and which written digit stands for which spoken one: [i, j], null where one lacks. */
export function align(written, spoken) {
  const cost = [spoken.map((_, j) => j).concat(spoken.length)];
  written.forEach((digit, i) => {
    const row = [i + 1];
    spoken.forEach((wanted, j) => row.push(Math.min(cost[i][j] + Number(digit !== wanted), cost[i][j + 1] + 1, row[j] + 1)));
    cost.push(row);
  });
  const pairs = [];
  let [i, j] = [written.length, spoken.length];
  while (i || j) {
    if (i && j && cost[i][j] === cost[i - 1][j - 1] + Number(written[i - 1] !== spoken[j - 1])) pairs.unshift([(i -= 1), (j -= 1)]);
    else if (i && cost[i][j] === cost[i - 1][j] + 1) pairs.unshift([(i -= 1), null]);
    else pairs.unshift([null, (j -= 1)]);
  }
  return { errors: cost[written.length][spoken.length], pairs };
}

// Words ----------------------------------------------------------------------------------------

const many = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
const secs = (t) => `${t.toFixed(2)}\u00a0s`;
const KINDS = { wrong: ["≠", "wrong"], extra: ["+", "too many"], missing: ["–", "missing"] };
const EPSILON = 1e-6; // so that 0.28 s is not before 7 frames of 0.04 s
const same = (a, b) => a[0] === b[0] && a[1] === b[1];
const order = (a, b) => (a ?? Infinity) - (b ?? Infinity) || 0; // null is all there is

function backInWords(back) {
  return back === null ? "all chunks" : many(back, "chunk");
}

/** 1, 2 or 5 times a power of ten: so many seconds between ticks that are `room` pixels apart or more. */
function tickStep(duration, width, room = 44) {
  const least = (duration * room) / width;
  const ten = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((n) => n * ten).find((step) => step >= least);
}

/** Places at least `gap` apart, in order, as near to where they should be as the right edge allows. */
function spread(places, gap, right) {
  const out = [];
  places.forEach((x, i) => out.push(i ? Math.max(x, out[i - 1] + gap) : x));
  for (let i = out.length - 1; i >= 0; i -= 1) out[i] = Math.min(out[i], i === out.length - 1 ? right : out[i + 1] - gap);
  return out;
}

// The page -------------------------------------------------------------------------------------

const TRAITS = ["recording", "setting", "time"];
const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

function render({ model, el }) {
  const life = new AbortController();
  const put = keep(model);
  const live = announcer();
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const [settings, frameSeconds, layers, rate] = ["settings", "frame_seconds", "layers", "rate"].map((name) => model.get(name));
  const recordings = model.get("recordings").map((one) => ({
    ...one, spoken: one.text.split(" ").filter(Boolean).map(Number), duration: one.frames * frameSeconds,
    best: bytesOf(one.best), pixels: bytesOf(one.spectrogram),
  }));
  const here = () => recordings[model.get("recording")];

  /** All that follows from a recording and a setting: what is written, when, and what is wrong with it. */
  function read(recording, setting) {
    const [chunk] = setting;
    const at = settings.findIndex((one) => same(one, setting)) * recording.frames;
    const written = collapse(recording.best.subarray(at, at + recording.frames)).map(([frame, symbol]) => {
      const [heard, known] = [frame * frameSeconds, knownAt(frame, chunk, recording.frames, frameSeconds)];
      return { digit: symbol - 1, frame, heard, known, delay: known - heard };
    });
    const { errors, pairs } = align(written.map((one) => one.digit), recording.spoken);
    let later = recording.duration; // a missing digit is missed when the next one is known
    const columns = pairs.reverse().map(([i, j]) => {
      const one = written[i] ?? null;
      later = one?.known ?? later;
      const kind = one === null ? "missing" : j === null ? "extra" : one.digit === recording.spoken[j] ? "" : "wrong";
      if (one) one.kind = kind;
      return { one, said: recording.spoken[j] ?? null, kind, known: later };
    }).reverse();
    const delays = written.map((one) => one.delay);
    const mean = delays.reduce((a, b) => a + b, 0) / delays.length;
    return { written, columns, errors, mean, longest: Math.max(...delays) };
  }

  // Controls ------------------------------------------------------------------------------------
  const chunks = [...new Set(settings.map(([chunk]) => chunk))].sort(order);
  const backsOf = (chunk) => settings.filter(([one]) => one === chunk).map(([, back]) => back).sort(order);
  const which = select({
    label: "Recording", value: 0, onchange: (i) => { stop(); put("recording", i); put("time", here().duration / 2); },
    options: recordings.map((one, i) => [i, `${i + 1}: ${one.spoken.length > 10 ? `${one.spoken.length} digits` : one.text}${one.name && `, ${one.name}`} (${secs(one.duration)})`]),
  });
  const chunk = range({
    label: "Chunk", min: 0, max: chunks.length - 1, value: 0,
    text: (i) => (chunks[i] === null ? "whole recording" : `${many(chunks[i], "frame")}, ${secs(chunks[i] * frameSeconds)}`),
    oninput: (i) => {
      const [, back] = model.get("setting");
      const far = (one) => Math.abs(Math.min(one ?? 1e9, 1e9) - (back ?? 1e9));
      put("setting", [chunks[i], backsOf(chunks[i]).reduce((best, one) => (far(one) < far(best) ? one : best))]);
    },
  });
  const back = range({
    label: "Seen before it", min: 0, max: 1, value: 0,
    text: (i) => (model.get("setting")[0] === null ? "–" : backInWords(backsOf(model.get("setting")[0])[i] ?? null)),
    oninput: (i) => { const [one] = model.get("setting"); put("setting", [one, backsOf(one)[i]]); },
  });
  const scrub = range({
    label: "Time", min: 0, max: 1, step: frameSeconds / 2, value: 0,
    text: (t) => `${t.toFixed(2)} of ${secs(here().duration)}`, oninput: (t) => { stop(); put("time", t); },
  });
  const play = button("", () => (playing ? stop() : start()), { class: "fx-button fxa-play" });
  const sound = toggle({ label: "Sound", checked: true, onchange: (on) => { if (gain) gain.gain.value = Number(on); } });

  // Sound ---------------------------------------------------------------------------------------
  let context = null;
  let gain = null;
  let playing = null;

  /** The browser's sound, from the first click on; null where there is none. */
  async function audio() {
    try {
      if (!context) {
        context = new AudioContext();
        gain = context.createGain();
        gain.connect(context.destination);
      }
      await Promise.race([context.resume(), new Promise((done) => { setTimeout(done, 2000); })]);
      gain.gain.value = Number(sound.input.checked);
      return context.state === "running" ? context : null;
    } catch { return null; }
  }

  async function start() {
    const recording = here();
    const mine = { source: null };
    playing = mine;
    label();
    const from = model.get("time") > recording.duration - EPSILON ? 0 : model.get("time");
    const speaker = await audio();
    if (playing !== mine || life.signal.aborted) return;
    silent.hidden = Boolean(speaker);
    if (speaker) {
      const samples = decode(bytesOf(recording.wave));
      const buffer = speaker.createBuffer(1, samples.length, rate);
      buffer.copyToChannel(samples, 0);
      mine.source = new AudioBufferSourceNode(speaker, { buffer });
      mine.source.connect(gain);
      mine.source.start(0, from);
    }
    const clock = speaker ? () => speaker.currentTime : () => performance.now() / 1000;
    const began = clock();
    const late = speaker?.outputLatency || 0; // what is heard now left the clock so long ago
    mine.now = () => Math.min(recording.duration, from + Math.max(0, clock() - began - late));
    const knownBy = (t) => c.written.filter((one) => one.known <= t + EPSILON).length;
    const frame = () => {
      if (playing !== mine || life.signal.aborted) return;
      const t = mine.now();
      // Where motion is unwelcome the cursor goes from digit to digit.
      if (!still.matches || knownBy(t) !== knownBy(model.get("time"))) put("time", t);
      if (t >= recording.duration - EPSILON) stop();
      else requestAnimationFrame(frame);
    };
    put("time", from);
    frame();
  }

  function stop() {
    if (!playing) return;
    const { source, now } = playing;
    playing = null;
    source?.stop();
    if (now) put("time", now());
    label();
    tell(look());
  }
  const label = () => { play.textContent = playing ? "Pause" : "Play"; };
  life.signal.addEventListener("abort", () => { playing?.source?.stop(); context?.close(); });

  // Picture -------------------------------------------------------------------------------------
  const [top, bottom, strip, low, row, axis] = [28, 138, 146, 160, 208, 238]; // heights: spectrogram, frames, digits
  const [left, margin] = [6, 6];
  let width = 0;
  const part = (name, tag = "path") => s(tag, { class: `fxa-${name}` });
  const picture = s("image", { x: left, y: top, height: bottom - top, preserveAspectRatio: "none" });
  const [past, reach, future, all, before, own] = ["unseen", "half", "unseen", "all", "before", "own"].map((name) => part(name));
  const [seams, rim, links, done, ticks, cursor, handle] = ["seams", "rim", "links", "done", "ticks", "cursor", "handle"].map((name) => part(name));
  const [digits, words] = [part("digits", "g"), part("words", "g")];
  const svg = s("svg", { role: "img", class: "fxa-svg" }, picture, past, reach, future, all, before, own, seams, rim, links, done, ticks, words, digits, cursor, handle);
  const figure = h("div", { class: "fxa-figure" }, svg);
  const set = (node, attributes) => { for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value); };
  const round = (v) => Math.round(100 * v) / 100;
  const scale = () => { const { duration } = here(); return (t) => round(left + ((width - left - margin) * t) / duration); };
  const box = (a, b, y0, y1) => (b > a ? `M${a} ${y0}H${b}V${y1}H${a}z` : "");

  let painted = null; // the recording whose picture is shown
  function paint() {
    const { shape: [steps, bands], pixels, frames } = here();
    const shades = ramp(figure);
    const image = new ImageData(steps, bands);
    const sorted = pixels.slice().sort();
    const [low, high] = [sorted[Math.floor(sorted.length / 10)], sorted[sorted.length - 1]]; // what noise there is stays pale
    for (let x = 0; x < steps; x += 1) {
      for (let y = 0; y < bands; y += 1) {
        const at = 4 * ((bands - 1 - y) * steps + x);
        const shade = 3 * Math.round((255 * Math.max(0, pixels[x * bands + y] - low)) / (high - low || 1));
        image.data.set([shades[shade], shades[shade + 1], shades[shade + 2], 255], at);
      }
    }
    const canvas = h("canvas", { width: steps, height: bands });
    canvas.getContext("2d").putImageData(image, 0, 0);
    set(picture, { href: canvas.toDataURL() });
    picture.dataset.share = steps / (model.get("steps_per_frame") * frames);
    painted = here();
  }

  /** What changes with recording, setting and width alone. */
  let drawn = "";
  function draw(c) {
    const key = JSON.stringify([width, model.get("recording"), model.get("setting")]);
    if (key === drawn) return;
    drawn = key;
    const { recording, setting: [size], written } = c;
    const x = scale();
    set(svg, { width, height: axis + 18, viewBox: `0 0 ${width} ${axis + 18}` });
    if (painted !== recording) paint();
    set(picture, { width: Math.max(1, (width - left - margin) * picture.dataset.share) });
    const ends = size === null ? [] : Array.from({ length: Math.ceil(recording.frames / size) }, (_, i) => x(i * size * frameSeconds));
    const seam = ends.length > 1 && ends[1] - ends[0] < 2.5 ? [] : ends.slice(1);
    set(seams, { d: `${box(left, width - margin, strip, low)}${seam.map((at) => `M${at} ${strip}V${low}`).join("")}` });
    const step = tickStep(recording.duration, width - left - margin);
    const times = Array.from({ length: Math.floor(recording.duration / step + EPSILON) + 1 }, (_, i) => i * step);
    set(ticks, { d: `M${left} ${axis}H${width - margin}${times.map((t) => `M${x(t)} ${axis}v4`).join("")}` });
    const fits = width > 420;
    words.replaceChildren(
      s("text", { x: left, y: 12 }, fits ? "The sound: pitch upwards, the stronger the louder" : "The sound, pitch upwards"),
      ...times.map((t, i) => s("text", { x: x(t), y: axis + 16, "text-anchor": i ? (x(t) > width - 24 ? "end" : "middle") : "start" },
        i ? number(t, step < 0.1 ? 2 : step < 1 ? 1 : 0) : "0\u00a0s")));
    const gap = Math.min(20, (width - left - margin - 16) / Math.max(1, written.length));
    const places = spread(written.map((one) => x(one.known)), gap, width - margin - 8);
    const crowd = gap < 14; // no room for digits: dots, and crosses where they are wrong
    digits.classList.toggle("fxa-crowd", crowd);
    written.forEach((one, i) => {
      one.d = `M${x(one.heard + frameSeconds / 2)} ${low}L${x(one.known)} ${row - 20}L${round(places[i])} ${row - 10}`;
      one.x = round(places[i]);
    });
    digits.replaceChildren(...written.map((one) => s("g", { class: `fxa-digit${one.kind ? " fxa-bad" : ""}`, transform: `translate(${one.x} ${row})` },
      crowd ? null : s("rect", { x: -8, y: -10, width: 16, height: 20, rx: 4, "stroke-dasharray": one.kind ? "3 2" : null }),
      s("circle", { r: 3 }),
      crowd ? one.kind && s("path", { class: "fxa-cross", d: "M-3-3L3 3M-3 3L3-3" })
        : [s("text", { y: 5, "text-anchor": "middle" }, String(one.digit)), one.kind && s("text", { y: 23, "text-anchor": "middle" }, KINDS[one.kind][0])])));
  }

  /** What changes with the time. */
  function move(c) {
    const x = scale();
    const { recording, time, seen, written } = c;
    const at = (frame) => x(frame * frameSeconds);
    const [far, near, start, end] = [seen.all[0], seen.one[0], seen.own[0], seen.own[1]].map(at);
    const right = x(recording.duration);
    set(past, { d: box(left, far, top, bottom) });
    set(reach, { d: box(far, near, top, bottom) });
    set(future, { d: box(end, right, top, bottom) });
    set(all, { d: box(far, near, strip, low) });
    set(before, { d: box(near, start, strip, low) });
    set(own, { d: box(start, end, strip, low) });
    set(rim, { d: box(near, end, top, bottom) });
    set(cursor, { d: `M${x(time)} ${top - 2}V${axis}` });
    set(handle, { d: `M${x(time) - 5} ${top - 9}h10l-5 8z` });
    const known = written.map((one) => one.known <= time + EPSILON);
    set(links, { d: written.map((one, i) => (known[i] ? "" : one.d)).join("") });
    set(done, { d: written.map((one, i) => (known[i] ? one.d : "")).join("") });
    [...digits.children].forEach((node, i) => node.classList.toggle("fxa-known", known[i]));
  }

  let down = false;
  const point = (event) => {
    const frame = svg.getBoundingClientRect();
    const share = (event.clientX - frame.left - left) / (frame.width - left - margin || 1);
    stop();
    put("time", Math.min(1, Math.max(0, share)) * here().duration);
  };
  figure.addEventListener("pointerdown", (event) => { down = event.button === 0; if (down) point(event); }, { signal: life.signal });
  figure.addEventListener("pointermove", (event) => { if (down) point(event); }, { signal: life.signal });
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => { down = false; }, { signal: life.signal });

  // Words ---------------------------------------------------------------------------------------
  const big = h("p", { class: "fx-big" });
  const sentence = h("p", { class: "fx-readout" });
  const summary = h("p", { class: "fx-readout" });
  const pairs = h("ol", { class: "fxa-pairs" });
  const key = (name, words) => h("span", {}, h("i", { class: `fxa-key fxa-${name}-key` }), words);
  const beforeKey = key("before", "chunks before it that one layer sees");
  const allKey = key("all", "what comes in through the other layers");
  const keys = h("p", { class: "fx-note fxa-keys" }, key("own", "chunk of the frame under the cursor"), beforeKey, allKey);
  const silent = h("p", { class: "fx-note", hidden: true }, "This browser plays no sound here; the cursor moves without it.");

  function columnOf({ one, said, kind, known }, time) {
    const shown = known <= time + EPSILON;
    const [mark, word] = (shown && KINDS[kind]) || ["", ""];
    const hidden = (text, name) => h("span", { class: name, "aria-hidden": true }, text);
    const aloud = `${said === null ? "nothing spoken" : `${said} spoken`}, ${!shown ? "not yet known" : one ? `${one.digit} written after ${secs(one.delay)}` : "nothing written"}${word && `, ${word}`}`;
    return h("li", { class: mark && "fxa-bad" }, h("span", { class: "fx-sr" }, aloud), hidden(said ?? "\u00a0"),
      hidden(!shown ? "·" : one ? one.digit : "\u00a0", "fxa-written"), hidden(shown && one ? one.delay.toFixed(2) : "\u00a0", "fxa-delay"), hidden(mark || "\u00a0"));
  }

  function sentenceOf({ recording, setting: [size], frame, seen }) {
    const end = knownAt(frame, size, recording.frames, frameSeconds);
    const wait = secs(end - frame * frameSeconds);
    if (size === null) return `Frame ${frame} sees the whole recording, so it is computed when that ends, at ${secs(end)}: ${wait} after the frame began.`;
    const last = (b) => (b[1] - b[0] === 1 ? `frame ${b[0]} alone` : `frames ${b[0]} to ${b[1] - 1}`);
    const together = layers > 1 && seen.all[0] < seen.one[0] ? `; all ${layers} layers together reach back to frame ${seen.all[0]}` : "";
    return `Frame ${frame} is computed at ${secs(end)}, when its chunk ends: ${wait} after the frame began. One layer sees ${last(seen.one)}${together}.`;
  }

  let columnsKey = "";
  function tell(c) {
    const { recording, time, written, columns, errors, mean, longest } = c;
    const known = written.filter((one) => one.known <= time + EPSILON).map((one) => one.digit);
    big.textContent = `Known after ${secs(time)}: ${known.length ? known.join(" ") : "nothing yet"}`;
    sentence.textContent = sentenceOf(c);
    const kinds = Object.entries(KINDS).map(([name, [, word]]) => [columns.filter(({ kind }) => kind === name).length, word])
      .filter(([n]) => n).map(([n, word]) => `${n}\u00a0${word}`);
    summary.textContent = (written.length ? `In the end ${many(written.length, "digit")}, each known ${secs(mean)} after its frame began on average, ${secs(longest)} at most. ` : "In the end no digit is written. ")
      + `${many(errors, "error")} in ${many(recording.spoken.length, "spoken digit")}${errors ? ` (${kinds.join(", ")})` : ""}.`;
    const now = JSON.stringify([model.get("recording"), model.get("setting"), columns.filter((one) => one.known <= time + EPSILON).length]);
    if (now !== columnsKey) {
      columnsKey = now;
      pairs.replaceChildren(h("li", { class: "fxa-heads", "aria-hidden": true }, ["spoken", "written", "delay, s", "error"].map((t) => h("span", {}, t))),
        ...columns.map((column) => columnOf(column, time)));
    }
    const [size, chunksBack] = model.get("setting");
    beforeKey.hidden = size === null || chunksBack === 0;
    allKey.hidden = beforeKey.hidden || layers < 2 || chunksBack === null;
    if (playing) return;
    live.say([big, sentence, summary].map((one) => one.textContent).join(" "));
    set(svg, { "aria-label": `Spectrogram of ${secs(recording.duration)} with a cursor at ${secs(time)}, the frames below it, and ${many(written.length, "written digit")}, each at the time at which it is known. Text and tables say the same.` });
  }

  const caption = h("caption", {});
  const body = h("tbody", {});
  const list = h("details", { ontoggle: () => fillList() }, h("summary", {}, "All settings of this recording as a table"),
    h("div", { class: "fx-scroll", tabindex: 0, role: "region", "aria-label": "All settings of this recording as a table" },
      h("table", { class: "fx-table fxa-list" }, caption, h("thead", {}, h("tr", {},
        ["Chunk", "Before it", "Written", "Mean delay", "Longest", "Errors"].map((t, i) => h("th", { scope: "col", class: i < 3 ? "fx-text" : "" }, t)))), body)));
  function fillList() {
    if (!list.open) return;
    const recording = here();
    caption.textContent = `Spoken in ${secs(recording.duration)}: ${recording.text}. Delays count from the beginning of a digit's frame`;
    body.replaceChildren(...[...settings].sort((a, b) => order(a[0], b[0]) || order(a[1], b[1])).map((setting) => {
      const { written, errors, mean, longest } = read(recording, setting);
      const or = (t) => (written.length ? secs(t) : "–");
      return h("tr", { "aria-current": same(setting, model.get("setting")) ? "true" : null },
        h("th", { scope: "row", class: "fx-text" }, setting[0] === null ? "whole" : many(setting[0], "frame")),
        h("td", { class: "fx-text" }, setting[0] === null ? "–" : backInWords(setting[1])),
        h("td", { class: "fx-text" }, written.map((one) => one.digit).join(" ") || "nothing"),
        [or(mean), or(longest), String(errors)].map((t) => h("td", {}, t)));
    }));
  }

  // All together --------------------------------------------------------------------------------
  const about = h("p", { class: "fx-note" }, model.get("about"));
  about.hidden = !model.get("about");
  el.append(h("div", { class: "fx fx-listener", role: "group", "aria-label": "Streaming listener" },
    h("div", { class: "fx-bar" }, which.el, chunk.el, back.el),
    h("div", { class: "fx-bar" }, play, scrub.el, sound.el),
    figure, keys, silent, big, pairs,
    h("div", { class: "fx-cols" }, sentence, summary),
    h("p", { class: "fx-note" }, "A line leads from the first frame that writes a digit to the time at which it is known. Open dots are digits still to come. Times are those of the sound; computing adds to them."), about,
    list, saveButtons(() => svg, "streaming-listener"), live.el));

  let c = null; // what is shown
  function look() {
    const [recording, setting] = [here(), model.get("setting")];
    const time = Math.min(model.get("time"), recording.duration);
    const frame = Math.min(recording.frames - 1, Math.floor(time / frameSeconds + EPSILON));
    const old = c?.recording === recording && same(c.setting, setting) ? c : read(recording, setting);
    const seen = seenBy(frame, { chunk: setting[0], back: setting[1], length: recording.frames, layers: layers || 1 });
    return { ...old, recording, setting, time, frame, seen };
  }
  function update() {
    const old = c;
    c = look();
    if (old?.recording !== c.recording || !same(old.setting, c.setting)) {
      const backs = backsOf(c.setting[0]);
      which.set(model.get("recording"));
      chunk.set(chunks.indexOf(c.setting[0]));
      back.limits(0, backs.length - 1);
      back.set(backs.indexOf(c.setting[1]));
      back.input.disabled = backs.length < 2;
      scrub.limits(0, c.recording.duration);
      fillList();
    }
    scrub.set(c.time);
    if (width) { draw(c); move(c); }
    tell(c);
  }
  label();
  watch(model, TRAITS, perFrame(update), life.signal);
  onResize(figure, (w) => { width = w; update(); }, life.signal);
  onTheme(figure, () => { if (painted) paint(); }, life.signal);
  update();
  return () => life.abort();
}

export default { render };
