// Tables in .kx-table: each heading sorts, long tables get a filter. Without this script they are plain tables.
(() => {
  const LONG = 12; // rows from which on a filter is worth its room
  const CHOOSE = ["chapter", "kind", "verdict", "own evidence", "with all below"]; // columns with few values
  const order = new Intl.Collator("en", { numeric: true }); // D3.10 comes after D3.9
  const text = (row, column) => row.cells[column].textContent.trim();
  const number = (value) => (/^[\d.,]+$/.test(value) ? Number(value.replaceAll(",", "")) : NaN);

  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // what is no number comes last
    return order.compare(a, b);
  };

  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const sortable = (table, rows, body) => {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const holder = heading.querySelector("p") ?? heading;
      const button = make("button", { type: "button" }, ...holder.childNodes);
      holder.append(button);
      button.addEventListener("click", () => {
        const now = heading.getAttribute("aria-sort");
        const next = { ascending: "descending", descending: null }[now] ?? (now ? null : "ascending");
        headings.forEach(other => other.removeAttribute("aria-sort"));
        let sorted = rows; // the third click brings the first order back
        if (next) {
          heading.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          sorted = [...rows].sort((a, b) => sign * compare(text(a, column), text(b, column)));
        }
        body.prepend(...sorted); // the sums stay at the end
      });
    });
  };

  const filterable = (box, table, rows) => {
    const search = make("input", { type: "search", autocomplete: "off" });
    const status = make("span", { role: "status" });
    const tools = make("div", { class: "kx-tools" }, make("label", {}, "Filter", search));
    const choices = [];
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      if (!CHOOSE.includes(heading.textContent.trim())) return;
      const values = [...new Set(rows.map(row => text(row, column)))].sort(order.compare);
      const select = make("select", {}, make("option", { value: "" }, "all"),
        ...values.map(value => make("option", { value }, value)));
      choices.push([select, column]);
      tools.append(make("label", {}, heading.textContent, select));
    });
    tools.append(status);
    const apply = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const whole = row.textContent.toLowerCase();
        row.hidden = !(words.every(word => whole.includes(word)) &&
          choices.every(([select, column]) => !select.value || text(row, column) === select.value));
        shown += row.hidden ? 0 : 1;
      }
      status.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
    };
    for (const control of [search, ...choices.map(([select]) => select)]) control.addEventListener("input", apply);
    box.prepend(tools);
    apply();
  };

  for (const box of document.querySelectorAll(".kx-table")) {
    const table = box.querySelector("table");
    if (!table?.tHead) continue;
    const body = table.tBodies[0];
    const rows = [...body.rows].filter(row => row.cells[0].textContent.trim() !== "All");
    if (rows.length >= LONG) {
      filterable(box, table, rows);
      const names = [...table.tHead.rows[0].cells].map(heading => heading.textContent.trim());
      for (const row of rows) [...row.cells].forEach((cell, k) => {
        cell.dataset.label = names[k];
        cell.classList.toggle("kx-none", cell.textContent.trim() === "–");
      });
      box.classList.add("kx-long");
    }
    sortable(table, rows, body);
  }
})();
