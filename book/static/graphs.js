// Graphs: pointing at a node, or moving the focus to it, shows all that it rests on and all that rests on it.
(() => {
  const reach = (start, arrows, from, to) => {
    const seen = new Set([start]);
    for (const name of seen) // a Set is walked on while it grows
      for (const arrow of arrows) if (arrow.dataset[from] === name) seen.add(arrow.dataset[to]);
    return seen;
  };

  for (const graph of document.querySelectorAll("svg.kx-graph")) {
    const nodes = [...graph.querySelectorAll("[data-node]")];
    const arrows = [...graph.querySelectorAll(".kx-arrow")];

    const trace = (name) => {
      const above = reach(name, arrows, "from", "to"), below = reach(name, arrows, "to", "from");
      for (const node of nodes) node.classList.toggle("kx-on", above.has(node.dataset.node) || below.has(node.dataset.node));
      for (const arrow of arrows)
        arrow.classList.toggle("kx-on",
          [above, below].some(set => set.has(arrow.dataset.from) && set.has(arrow.dataset.to)));
      graph.classList.add("kx-traced");
    };
    const clear = () => graph.classList.remove("kx-traced");

    for (const node of nodes) {
      node.addEventListener("pointerenter", event => { if (event.pointerType === "mouse") trace(node.dataset.node); });
      node.addEventListener("pointerleave", clear);
      node.addEventListener("focus", () => { if (node.matches(":focus-visible")) trace(node.dataset.node); });
      node.addEventListener("blur", clear);
    }
  }
})();
