/* Shows anywidgets on a page without a kernel.

   A stored notebook leaves two kinds of JSON: the state of every widget, in the page or in a file
   beside it, and a <script> where each of them is to be shown. This reads both, imports each
   widget's own module from the state (a Blob URL: nothing is fetched), and calls its
   render({ model, el }) when the place comes near the window. Views of one widget share one model,
   so they stay in step. A classic script on purpose: it works from any folder and any static
   server, and does nothing on other pages. */
(() => {
  "use strict";
  const MIME = "application/vnd.jupyter.widget-";
  let reading; // promise of the stored states by model id
  const models = {}; // model id -> promise of { model, widget }
  const modules = new Map(); // module text -> promise of the module

  /** What anywidget calls a model: get, set, save_changes, on, off, send. */
  class Model {
    #state;
    #listeners = [];
    constructor(state) { this.#state = state; }
    get(name) { return this.#state[name]; }
    set(name, value) {
      const changes = typeof name === "object" ? name : { [name]: value };
      const changed = Object.keys(changes).filter((key) => !Object.is(changes[key], this.#state[key]));
      for (const key of changed) this.#state[key] = changes[key];
      for (const key of changed) this.#emit(`change:${key}`, changes[key]);
      if (changed.length) this.#emit("change");
    }
    on(names, fn) { for (const name of names.split(" ")) this.#listeners.push([name, fn]); }
    off(names, fn) {
      const gone = names?.split(" ");
      this.#listeners = this.#listeners.filter(([name, other]) =>
        (gone && !gone.includes(name)) || (fn && fn !== other));
    }
    save_changes() {} // there is no kernel to tell
    send() {}
    #emit(name, value) {
      for (const [key, fn] of [...this.#listeners]) {
        try { if (key === name) fn(this, value); } catch (error) { console.error(error); }
      }
    }
  }

  /** Put the binary values, stored beside the state in base64, back in their places as DataViews. */
  function decode({ state, buffers = [] }) {
    const whole = structuredClone(state);
    for (const { path, data } of buffers) {
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      const place = path.slice(0, -1).reduce((value, key) => value[key], whole);
      place[path.at(-1)] = new DataView(bytes.buffer);
    }
    return whole;
  }

  async function importText(text) {
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    try {
      return await import(url);
    } catch (error) {
      if (error instanceof SyntaxError) throw error; // the module's own mistake: say it as it is
      return import(`data:text/javascript;charset=utf-8,${encodeURIComponent(text)}`);
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  /** The states in a file beside the page. A script leaves them on its element: fetch() would not
      read a file where the page was opened from a folder. */
  function fromFile(src) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const missing = () => reject(
        new Error("what belongs to it did not arrive, reload the page to try again"));
      script.addEventListener("load", () => script.widgetState ? resolve(script.widgetState) : missing());
      script.addEventListener("error", missing);
      script.src = src;
      document.head.append(script);
    });
  }

  async function readStates() {
    const states = {};
    for (const script of document.querySelectorAll(`script[type="${MIME}state+json"]`)) {
      const { src } = script.dataset;
      Object.assign(states, (src ? await fromFile(src) : JSON.parse(script.textContent)).state);
    }
    return states;
  }

  /** Every stored state of the page by model id, read once. */
  const allStates = () => (reading ??= readStates());

  async function load(id) {
    const stored = (await allStates())[id];
    if (!stored) throw new Error("its state isn't stored in this page");
    const { _esm: esm, _css: css } = stored.state;
    if (!esm) throw new Error(`a ${stored.model_name ?? "widget"} needs a running kernel`);
    if (css && ![...document.querySelectorAll("style[data-widget]")].some((el) => el.textContent === css)) {
      const style = document.createElement("style");
      style.dataset.widget = "";
      style.textContent = css;
      document.head.append(style);
    }
    if (!modules.has(esm)) modules.set(esm, importText(esm));
    const exported = (await modules.get(esm)).default;
    const widget = typeof exported === "function" ? await exported() : exported;
    const model = new Model(decode(stored));
    await widget.initialize?.({ model });
    return { model, widget };
  }

  async function show(el, id) {
    try {
      const { model, widget } = await (models[id] ??= load(id));
      await widget.render({ model, el });
    } catch (error) {
      const message = document.createElement("p");
      message.className = "fx fx-error";
      message.setAttribute("role", "note");
      message.textContent = `This widget could not be shown: ${error.message}. `
        + "Everything else on the page works; the notebook shows it with a kernel.";
      el.replaceChildren(message);
      console.error(error);
    }
    el.dataset.widget = "shown"; // book.css kept room for it until now
  }

  function start() {
    const views = document.querySelectorAll(`script[type="${MIME}view+json"]`);
    if (!views.length) return;
    const near = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        show(target, target.dataset.model);
      }
    }, { rootMargin: "600px" });
    for (const script of views) {
      const el = document.createElement("div");
      el.className = "widget-view";
      el.dataset.model = JSON.parse(script.textContent).model_id;
      script.after(el);
      near.observe(el);
    }
    // The text of the page goes first; then the widgets' state comes before anybody scrolls to them.
    const early = () => setTimeout(() => allStates().catch(() => {}));
    if (document.readyState === "complete") early();
    else addEventListener("load", early);
    // Paper has no scrolling: everything has to be there before it is printed.
    addEventListener("beforeprint", () => document.querySelectorAll(".widget-view:not([data-widget])")
      .forEach((el) => { near.unobserve(el); show(el, el.dataset.model); }));
  }

  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
