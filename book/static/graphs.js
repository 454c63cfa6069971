// Graphs: pointing at a node, or moving the focus to it, shows all that it rests on and all that rests on it, and what
// it says. Without this script they are pictures with links.
(() => {
  const reach = (start, arrows, from, to) => {
    const seen = new Set([start]);
    for (const name of seen) // a Set is walked on while it grows
      for (const arrow of arrows) if (arrow.dataset[from] === name) seen.add(arrow.dataset[to]);
    return seen;
  };

  // The card repeats what the node's label and the list below say, so screen readers need not hear it.
  const card = document.createElement("div");
  card.className = "kx-card";
  card.hidden = true;
  card.setAttribute("aria-hidden", "true");
  const line = (text) => {
    const paragraph = document.createElement("p");
    text.split(/\$([^$]+)\$/).forEach((piece, k) => {
      const part = document.createElement("span");
      part.textContent = k % 2 ? `\\(${piece}\\)` : piece;
      if (k % 2) part.className = "math notranslate nohighlight";
      paragraph.append(part);
    });
    return paragraph;
  };
  const show = (node) => {
    if (!node.dataset.says) return;
    const label = document.createElement("strong");
    label.textContent = node.getAttribute("aria-label");
    card.replaceChildren(label, line(node.dataset.says), ...(node.dataset.why ? [line(node.dataset.why)] : []));
    const ready = window.MathJax?.typesetPromise?.([card]) ?? Promise.resolve();
    ready.then(() => { card.hidden = !card.hasChildNodes(); });
  };

  for (const graph of document.querySelectorAll("svg.kx-graph")) {
    const nodes = [...graph.querySelectorAll("[data-node]")];
    const arrows = [...graph.querySelectorAll(".kx-arrow")];

    const trace = (node) => {
      const name = node.dataset.node;
      const above = reach(name, arrows, "from", "to"), below = reach(name, arrows, "to", "from");
      for (const other of nodes)
        other.classList.toggle("kx-on", above.has(other.dataset.node) || below.has(other.dataset.node));
      for (const arrow of arrows)
        arrow.classList.toggle("kx-on",
          [above, below].some(set => set.has(arrow.dataset.from) && set.has(arrow.dataset.to)));
      graph.classList.add("kx-traced");
      show(node);
    };
    const clear = () => {
      graph.classList.remove("kx-traced");
      card.replaceChildren();
      card.hidden = true;
    };

    for (const node of nodes) {
      node.addEventListener("pointerenter", event => { if (event.pointerType === "mouse") trace(node); });
      node.addEventListener("pointerleave", clear);
      node.addEventListener("focus", () => { if (node.matches(":focus-visible")) trace(node); });
      node.addEventListener("blur", clear);
    }
    if (!card.isConnected) document.body.append(card);
  }
})();
