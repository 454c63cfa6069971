/* Executable Kexue: typesets the maths in small pieces, so that the page answers meanwhile, what is in sight first;
   and lets the keyboard reach whatever scrolls. Runs before MathJax, which reads window.MathJax when it starts. */
(() => {
  "use strict";
  const PIECE = 40; // formulas in one go: some 100 ms
  const root = document.documentElement;

  const pause = () => new Promise((resolve) => setTimeout(resolve));

  const inSight = (element) => {
    const box = element.getBoundingClientRect();
    return box.bottom > -200 && box.top < innerHeight + 200;
  };

  const typeset = async () => {
    const all = [...document.querySelectorAll(".math")];
    const seen = new Map(all.map((element) => [element, inSight(element)]));
    await MathJax.typesetPromise(all.filter((e) => seen.get(e)));
    performance.mark("kexue:readable");
    const rest = all.filter((e) => !seen.get(e));
    for (let at = 0; at < rest.length; at += PIECE) {
      await pause();
      await MathJax.typesetPromise(rest.slice(at, at + PIECE));
    }
    reachable();
    root.dataset.maths = "done";
  };

  window.MathJax = {
    ...window.MathJax,
    loader: { load: ["core", "input/tex", "output/chtml", "a11y/assistive-mml"] },
    chtml: { displayAlign: "left", matchFontHeight: false, scale: 1.06 },
    startup: {
      typeset: false,
      ready() {
        MathJax.startup.defaultReady();
        MathJax.startup.promise = MathJax.startup.promise.then(typeset);
      },
    },
  };

  /* A box that scrolls is a stop of the tab key; one that does not is none. A formula in a line of text becomes such a
     box when it is wider than its column. */
  const BOXES = ".bd-article div.math, .bd-article .pst-scrollable-table-container, .bd-article pre";
  const INLINE = ".bd-article span.math > mjx-container";
  const stop = (box, yes, name) => {
    if (yes === box.hasAttribute("tabindex")) return;
    if (yes) {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", `${name}, scrolls sideways`);
    } else ["tabindex", "role", "aria-label"].forEach((key) => box.removeAttribute(key));
  };
  const reachable = () => {
    const boxes = [...document.querySelectorAll(BOXES)];
    const formulas = [...document.querySelectorAll(INLINE)];
    // read all, then write
    const scrolls = boxes.map((box) => box.scrollWidth > box.clientWidth + 1);
    const wide = formulas.map((box) => box.scrollWidth > box.closest("p, li, td, th, dd, div, h2, h3").clientWidth + 1);
    boxes.forEach((box, k) =>
      stop(box, scrolls[k], box.matches("pre") ? "Code" : box.matches("div.math") ? "Equation" : "Table"));
    formulas.forEach((box, k) => {
      box.classList.toggle("kx-wide", wide[k]);
      stop(box, wide[k], "Formula");
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    let waiting;
    const soon = () => {
      clearTimeout(waiting);
      waiting = setTimeout(reachable, 150);
    };
    soon();
    addEventListener("resize", soon);
    document.addEventListener("toggle", soon, true);
    if (!document.querySelector(".math")) root.dataset.maths = "done";
  });
})();
