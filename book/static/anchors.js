// An address such as …#D3.6 stays in sight while the formulas above it are typeset and grow, until the reader moves.
(() => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const article = document.querySelector(".bd-article");
  if (!target || !article) return;
  const observer = new ResizeObserver(() => target.scrollIntoView({ behavior: "instant" }));
  const stop = () => observer.disconnect();
  observer.observe(article);
  for (const moved of ["wheel", "touchmove", "keydown", "pointerdown"])
    addEventListener(moved, stop, { once: true, passive: true });
  new MutationObserver((_, mutations) => {
    if (document.documentElement.dataset.maths !== "done") return;
    mutations.disconnect();
    setTimeout(stop, 300); // after the last change of size
  }).observe(document.documentElement, { attributeFilter: ["data-maths"] });
})();
