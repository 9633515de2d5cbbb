/* What the pages do beyond being read: the colour theme, the contents on small windows, copying
   code, and making everything that scrolls sideways reachable with the keyboard. */
(() => {
  "use strict";
  const root = document.documentElement;

  /* Colour theme: as the system has it, light, dark, and around again. */
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.querySelector(".theme-button");
  const names = { auto: "Auto", light: "Light", dark: "Dark" };
  function setTheme(mode) {
    root.dataset.mode = mode;
    root.dataset.theme = mode === "dark" || (mode === "auto" && system.matches) ? "dark" : "light";
    button.querySelector(".theme-name").textContent = names[mode];
    button.setAttribute("aria-label", `Colours: ${names[mode]}. Change`);
  }
  button.hidden = false;
  setTheme(names[root.dataset.mode] ? root.dataset.mode : "auto");
  system.addEventListener("change", () => setTheme(root.dataset.mode));
  button.addEventListener("click", () => {
    const modes = Object.keys(names);
    const next = modes[(modes.indexOf(root.dataset.mode) + 1) % modes.length];
    try { localStorage.setItem("book-theme", next); } catch { /* storage switched off */ }
    setTheme(next);
  });

  /* The contents on a small window. */
  const menu = document.querySelector(".menu-button");
  const nav = document.getElementById("contents");
  function openMenu(open) {
    menu.setAttribute("aria-expanded", String(open));
    nav.classList.toggle("is-open", open);
  }
  menu.addEventListener("click", () => {
    const open = menu.getAttribute("aria-expanded") !== "true";
    openMenu(open);
    if (open) nav.querySelector("a").focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") {
      openMenu(false);
      menu.focus();
    }
    const typing = event.target.closest?.("input, textarea, select, [contenteditable], [role=application], .fx");
    const search = document.querySelector(".search-form input");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && search.offsetParent) {
      event.preventDefault();
      search.focus();
    }
  });

  /* Whatever is wider than its box scrolls inside it, also with the arrow keys. */
  const scrollers = {
    ".equation-body": "Equation", ".text pre": "Code", ".table-scroll": "Table",
    ".effedu-figure": "Figure",
  };
  function reach(el, name) {
    const wide = el.scrollWidth > el.clientWidth + 1;
    if (wide && !el.hasAttribute("tabindex")) {
      el.tabIndex = 0;
      el.setAttribute("role", "group");
      el.setAttribute("aria-label", `${name}, scrolls sideways`);
    } else if (!wide && el.getAttribute("role") === "group") {
      for (const attribute of ["tabindex", "role", "aria-label"]) el.removeAttribute(attribute);
    }
  }
  const watch = new ResizeObserver((entries) => {
    for (const { target } of entries) reach(target, target.dataset.scroller);
  });
  const boxes = [];
  for (const [selector, name] of Object.entries(scrollers)) {
    for (const el of document.querySelectorAll(selector)) {
      el.dataset.scroller = name;
      boxes.push(el);
      watch.observe(el);
    }
  }
  // A font that arrives makes what is inside wider, and leaves the box as it was.
  const again = () => { for (const el of boxes) reach(el, el.dataset.scroller); };
  document.fonts.ready.then(again);
  document.fonts.addEventListener("loadingdone", again);

  /* A button to copy a cell's code, without prompts. */
  if (navigator.clipboard) {
    for (const block of document.querySelectorAll(".cell_input div[class*=highlight-], .text > section div[class*=highlight-]")) {
      if (block.closest(".cell_output")) continue;
      const copy = document.createElement("button");
      copy.type = "button";
      copy.className = "copy-button";
      copy.textContent = "Copy";
      copy.addEventListener("click", async () => {
        const code = block.querySelector("pre").cloneNode(true);
        for (const prompt of code.querySelectorAll(".gp, .go")) prompt.remove();
        await navigator.clipboard.writeText(code.textContent.trimEnd());
        copy.textContent = "Copied";
        setTimeout(() => { copy.textContent = "Copy"; }, 1500);
      });
      block.append(copy);
    }
  }

  /* "On this page" shows where the reader is. */
  const links = new Map([...document.querySelectorAll(".page-toc a")].map((a) => [a.hash.slice(1), a]));
  if (links.size) {
    const headings = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
    const mark = () => {
      const here = headings.findLast((el) => el.getBoundingClientRect().top < 160) ?? headings[0];
      for (const [id, a] of links) {
        if (id === here?.id) a.setAttribute("aria-current", "true");
        else a.removeAttribute("aria-current");
      }
    };
    let waiting = false;
    addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; mark(); });
    }, { passive: true });
    mark();
  }
})();
