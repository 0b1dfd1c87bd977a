"use strict";
(() => {
  const root = document.documentElement;
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const parsed = (id) => JSON.parse(document.getElementById(id).textContent);

  // Colours are variables of the style sheet, so that charts follow light, dark and print without being drawn again.
  const series = [0, 1, 2, 3, 4, 5, 6, 7].map((k) => `var(--s${k})`);
  const config = {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: {
      gridColor: "var(--grid)", domainColor: "var(--line)", tickColor: "var(--line)", labelColor: "var(--ink2)",
      titleColor: "var(--ink2)", titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12, titlePadding: 8,
    },
    legend: { orient: "top", direction: "horizontal", labelFontSize: 11, labelColor: "var(--ink2)", titleColor: "var(--ink2)", labelLimit: 220 },
    range: { category: series },
    mark: { color: "var(--s0)" },
    style: { halo: { color: "var(--card)", strokeWidth: 4, opacity: 0.7 }, reach: { color: "var(--ink)", strokeWidth: 1.6 } },
  };

  const tip = document.createElement("div");
  tip.id = "tooltip";
  tip.hidden = true;
  document.body.append(tip);
  const tooltip = (handler, event, item, value) => {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    tip.replaceChildren(...Object.entries(value).map(([name, text]) => {
      const line = document.createElement("div");
      const head = document.createElement("b");
      head.textContent = name;
      line.append(head, String(text));
      return line;
    }));
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
  };

  const refuse = () => Promise.reject(new Error("this page loads nothing"));
  const loader = { load: refuse, sanitize: refuse, http: refuse, file: refuse };
  const draw = async () => {
    const specs = parsed("charts");
    let drawn = 0;
    for (const place of all("[data-chart]")) {
      // A grammar that is interpreted: the policy of the page forbids making code of text.
      const options = { mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, config, tooltip, loader };
      await window.vegaEmbed(place, specs[Number(place.dataset.chart)], options);
      drawn += 1;
      // Readers scroll and click in between.
      await new Promise((go) => setTimeout(go));
    }
    root.dataset.drawn = String(drawn);
  };

  // Types of stored arrays that scripts can read from their bytes.
  const kinds = {
    "<f8": Float64Array, "<f4": Float32Array, "<i8": BigInt64Array, "<i4": Int32Array, "<i2": Int16Array, "|i1": Int8Array,
    "|b1": Uint8Array, "|u1": Uint8Array, "<u2": Uint16Array, "<u4": Uint32Array, "<u8": BigUint64Array,
  };
  const list = (array) => {
    if (array.list) return array.list;
    const bytes = Uint8Array.from(atob(array.base64), (c) => c.charCodeAt(0));
    return Array.from(new kinds[array.dtype](bytes.buffer), (v) => String(v));
  };
  const cell = (value) => {
    // Text that spreadsheets would take for a formula is marked as text.
    const text = typeof value === "string" && /^[=+@\t\r]|^-(?![\d.I])/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const place = (k, shape) => shape.map((_, d) => Math.floor(k / shape.slice(d + 1).reduce((a, b) => a * b, 1)) % shape[d]).join(" ");
  const table = (record) => {
    const rows = ["name,place,value,low,high,evidence"];
    for (const [name, m] of Object.entries(record.values)) {
      const [values, low, high] = [m.value, m.low, m.high].map((a) => (a ? list(a) : []));
      values.forEach((v, k) => rows.push([name, place(k, m.value.shape), v, low[k] ?? "", high[k] ?? "", m.evidence].map(cell).join(",")));
    }
    return rows.join("\r\n");
  };
  const download = (button) => {
    const record = parsed(`record-${button.dataset.record}`);
    const csv = button.dataset.form === "csv";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv ? table(record) : JSON.stringify(record)], { type: csv ? "text/csv" : "application/json" }));
    link.download = `${button.dataset.name}.${button.dataset.form}`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  for (const button of all("[data-record]")) button.addEventListener("click", () => download(button));
  for (const line of all(".fetch")) line.hidden = false;

  const films = () => {
    for (const slider of all(".slider")) {
      const film = slider.nextElementSibling;
      const frames = all(".frame", film);
      const [input, output] = slider.children;
      const show = () => {
        frames.forEach((f, k) => f.classList.toggle("shown", k === Number(input.value)));
        output.textContent = frames[Number(input.value)].dataset.model;
      };
      film.classList.add("moving");
      slider.hidden = false;
      input.addEventListener("input", show);
      show();
    }
  };

  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const contents = document.querySelector("nav details");
  const narrow = matchMedia("(max-width: 860px)");
  const fold = () => { contents.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();
  const links = new Map(all("nav a").map((a) => [a.hash.slice(1), a]));
  const watch = new IntersectionObserver((seen) => {
    for (const one of seen) links.get(one.target.id)?.classList.toggle("here", one.isIntersecting);
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const id of links.keys()) watch.observe(document.getElementById(id));

  films();
  if (window.vegaEmbed) draw();
})();
