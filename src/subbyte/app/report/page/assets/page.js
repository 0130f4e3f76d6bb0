"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  root.classList.add("js");

  // ---- tables
  const key = (cell) => {
    if (!cell) return null;
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    return cell.classList.contains("n") ? null : cell.textContent.trim().toLowerCase();
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const sort = (button) => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const place = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    all("th", table.tHead).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    close(table);
    const rows = [...body.rows].map((row) => [key(row.cells[place]), row]);
    const known = rows.filter(([value]) => value !== null && value !== "");
    known.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
    const unknown = rows.filter(([value]) => value === null || value === "");
    body.append(...[...known, ...unknown].map(([, row]) => row));
  };

  // ---- colours
  const names = ["auto", "light", "dark"];
  const theme = document.getElementById("theme");
  const paint = (name) => {
    root.dataset.theme = name;
    theme.textContent = `Colours: ${name}`;
    redraw();
  };
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const palette = () => ["blue", "orange", "green", "purple", "red", "ink"].map(colour);
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

  // ---- charts
  const narrow = () => window.innerWidth < 760;
  const axis = (more) => {
    const { title, ...others } = more;
    const own = { gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"), automargin: true };
    return { ...own, ...(title ? { title: { text: title, standoff: 8 } } : {}), ...others };
  };
  const layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("ink"), family: "system-ui, sans-serif", size: narrow() ? 11 : 12.5 },
    margin: { l: 48, r: 14, t: 12, b: 40 }, hovermode: "closest", dragmode: narrow() ? false : "zoom",
    legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0 },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink") } },
    ...more,
  });
  const config = { displaylogo: false, displayModeBar: false, responsive: true };
  const safe = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  const short = (text, most = 28) => (text.length > most ? `…${text.slice(1 - most)}` : text);

  const front = (points) => {
    const best = [];
    for (const point of [...points].sort((a, b) => a.x - b.x || b.y - a.y)) {
      if (!best.length || point.y > best[best.length - 1].y) best.push(point);
    }
    return best;
  };

  const tradeoff = (what) => {
    const points = data.tradeoff.filter((p) => p[what] !== null && (what !== "size" || data.size_places[p.run] === p.where)).map((p) => ({ ...p, x: p[what], y: p.metric }));
    const places = [...new Set(points.map((p) => p.where))], colours = palette().slice(0, 5), traces = [];
    const name = (p) => (data.several ? `${p.run}: ${p.variant}` : p.variant);
    const front_of = data.several && what === "size" ? (p) => p.run : (p) => (data.several ? `${p.run}, ${p.where}` : p.where);
    [...new Set(points.map(front_of))].forEach((group, i) => {
      const best = front(points.filter((p) => front_of(p) === group));
      const right = Math.max(...points.map((p) => p.x));
      traces.push({ x: [...best.map((p) => p.x), right], y: [...best.map((p) => p.y), best[best.length - 1].y], mode: "lines", name: safe(group), showlegend: false,
        line: { color: colour("dim"), dash: DASHES[i % 6], width: 1.3, shape: "hv" }, hoverinfo: "skip" });
    });
    [...new Set(points.map(name))].forEach((group, i) => {
      const own = points.filter((p) => name(p) === group), paint = colours[i % 5];
      traces.push({ x: own.map((p) => p.x), y: own.map((p) => p.y), text: own.map((p) => safe(p.where)), name: safe(short(group)), mode: "markers", cliponaxis: false,
        marker: { color: paint, size: 11, line: { color: paint, width: 1.5 }, symbol: own.map((p) => SYMBOLS[i % 8] + (places.indexOf(p.where) % 2 ? "-open" : "")) },
        error_y: { type: "data", symmetric: false, array: own.map((p) => (p.interval ? p.interval[1] - p.y : 0)), arrayminus: own.map((p) => (p.interval ? p.y - p.interval[0] : 0)), color: colour("line"), thickness: 1.2, width: 3 },
        hovertemplate: `${safe(group)} in %{text}<br>${data.metric} %{y:.2f} %<br>%{x:.4g} ${what === "size" ? "kB" : "ms"}<extra></extra>` });
    });
    const xs = points.map((p) => p.x), high = Math.max(...xs), low = Math.min(...xs), wide = high > 20 * low, room = (high - low || high || 1) * 0.08;
    const title = (what === "size" ? "size, kB" : "latency, ms") + (places.length > 1 && what !== "size" ? `; ${places.map((p, i) => `${p} ${i % 2 ? "hollow" : "filled"}`).join(", ")}` : "");
    return [traces, layout({ xaxis: axis({ title, type: wide ? "log" : "linear", range: wide ? undefined : [Math.max(0, low - room), high + room] }), yaxis: axis({ title: `${data.metric} %` }) })];
  };

  const frontier = (place) => {
    const { points, unit } = data.frontiers[place], colours = palette();
    const trace = (own, name, paint, symbol) => ({ x: own.map((p) => p.cost), y: own.map((p) => p.lost), name, mode: "markers",
      marker: { color: paint, size: 11, symbol }, error_y: { type: "data", array: own.map((p) => p.error), color: paint, thickness: 1, width: 3 },
      hovertemplate: `%{x:.5g} ${unit}<br>%{y:.2f} points lost<extra></extra>` });
    const budget = data.frontiers[place].budget;
    const shapes = budget === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: budget, y1: budget, line: { color: colour("red"), dash: "dash", width: 1.5 } }];
    const annotations = budget === null ? [] : [{ xref: "paper", x: 1, xanchor: "right", y: budget, yanchor: "bottom", text: "asked for", showarrow: false, font: { color: colour("red") } }];
    return [[trace(points.filter((p) => !p.chosen), "built", colours[0], "circle"), trace(points.filter((p) => p.chosen), "chosen", colours[1], "diamond")],
      layout({ shapes, annotations, xaxis: axis({ title: `cost, ${unit}` }), yaxis: axis({ title: "points lost", zeroline: true }) })];
  };

  const layers = (place) => {
    const own = data.layers[place].layers, [blue, orange] = palette();
    const x = own.map((_, i) => i + 1), text = own.map((layer) => safe(layer.name));
    const label = own.map((layer) => safe(short(layer.name)));
    const alone = own.some((layer) => layer.alone_share !== null);
    const traces = [{ x, y: own.map((l) => l.accumulated_db), text, name: "added up, dB", mode: "lines+markers", yaxis: "y2", connectgaps: true,
      line: { color: blue }, marker: { size: 6, symbol: "circle" }, hovertemplate: "%{text}<br>%{y:.1f} dB added up<extra></extra>" }];
    if (alone) traces.unshift({ x, y: own.map((l) => (l.alone_share === null ? null : 100 * l.alone_share)), text, name: "alone, share %", type: "bar", textposition: "none", marker: { color: orange },
      hovertemplate: "%{text}<br>%{y:.1f} % of what all lose alone<extra></extra>" });
    const step = Math.max(1, Math.ceil(own.length / (narrow() ? 8 : 30)));
    const ticks = x.filter((_, i) => i % step === 0);
    return [traces, layout({ bargap: 0.15, xaxis: axis({ tickvals: ticks, ticktext: ticks.map((i) => label[i - 1]), tickangle: narrow() ? -60 : -40, tickfont: { size: 10 }, anchor: "y2", zeroline: false, range: [0.3, own.length + 0.7] }),
      yaxis: axis({ title: "alone, %", domain: alone ? [0.55, 1] : [0.98, 1], rangemode: "tozero" }), yaxis2: axis({ title: "added up, dB", domain: [0, alone ? 0.45 : 1], anchor: "x" }), showlegend: false })];
  };

  const histogram = (its) => {
    const [blue, orange] = palette(), h = its.histogram, width = (h.high - h.low) / h.counts.length;
    const x = h.counts.map((_, i) => h.low + (i + 0.5) * width), shapes = [];
    const line = (at, paint, dash, size) => shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: at, x1: at, line: { color: paint, dash, width: size } });
    if (its.grid_low !== null && its.grid_high !== null) {
      if (its.steps && its.steps <= 64 && its.scale) for (let i = 1; i < its.steps - 1; i++) line(its.grid_low + i * its.scale, colour("line"), "solid", 1);
      shapes.push({ type: "rect", yref: "paper", y0: 0, y1: 1, x0: its.grid_low, x1: its.grid_high, line: { width: 0 }, fillcolor: orange, opacity: 0.08, layer: "below" });
      line(its.grid_low, orange, "dash", 2); line(its.grid_high, orange, "dash", 2);
    }
    return [[{ x, y: h.counts, width: x.map(() => width), type: "bar", marker: { color: blue }, hovertemplate: "about %{x:.4g}: %{y} values<extra></extra>" }],
      layout({ shapes, bargap: 0, xaxis: axis({ title: "value" }), yaxis: axis({ title: "values", type: "log", dtick: Math.max(...h.counts) > 300 ? 1 : undefined }), showlegend: false })];
  };

  const band = (weight) => {
    const [blue, orange] = palette(), c = weight.channels, n = c.low.length;
    const x = c.low.map((_, i) => (n > 1 ? Math.round((i / (n - 1)) * (weight.count - 1)) : 0));
    const edge = (y, name, more) => ({ x, y, name, mode: n > 1 ? "lines" : "markers", hovertemplate: `channel %{x}: %{y:.4g}<extra>${name}</extra>`, ...more });
    return [[edge(c.low, "weight, lowest", { line: { color: blue, width: 1 }, marker: { color: blue } }),
      edge(c.high, "weight, highest", { line: { color: blue, width: 1 }, marker: { color: blue }, fill: "tonexty", fillcolor: blue.startsWith("#") ? `${blue}44` : blue }),
      edge(c.grid_low, "grid, lowest", { line: { color: orange, width: 1.5, dash: "dash" }, marker: { color: orange, symbol: "square" } }),
      edge(c.grid_high, "grid, highest", { line: { color: orange, width: 1.5, dash: "dash" }, marker: { color: orange, symbol: "square" } })],
      layout({ xaxis: axis({ title: "output channel" }), yaxis: axis({ title: "weight" }), showlegend: false })];
  };

  const curves = (place) => {
    const colours = palette(), traces = [];
    const x = Array.from({ length: 101 }, (_, i) => i / 100);
    Object.entries(data.curves[place]).forEach(([iou, pair], i) => pair.forEach((y, k) => traces.push({ x, y, mode: "lines",
      name: `${["float", "quantized"][k]}, IoU ${iou}`, line: { color: colours[k], dash: ["solid", "dash"][i], width: 2 },
      hovertemplate: "recall %{x:.2f}, precision %{y:.2f}<extra>%{fullData.name}</extra>" })));
    return [traces, layout({ xaxis: axis({ title: "recall", range: [0, 1] }), yaxis: axis({ title: "precision", range: [0, 1.02] }) })];
  };

  const shifts = (place) => {
    const { low, high, counts } = data.shifts[place], width = (high - low) / counts.length;
    const x = counts.map((_, i) => low + (i + 0.5) * width);
    const used = x.filter((_, i) => counts[i]), reach = Math.max(0.1, ...used.map((v) => Math.abs(v) + width));
    return [[{ x, y: counts, width: x.map(() => width), type: "bar", marker: { color: palette()[0] }, hovertemplate: "about %{x:.2f}: %{y} objects<extra></extra>" }],
      layout({ bargap: 0, xaxis: axis({ title: "change of the score", range: [-reach, reach], zeroline: true, zerolinecolor: colour("ink") }), yaxis: axis({ title: "objects" }), showlegend: false })];
  };

  const learning = (place) => {
    const picked = document.querySelector(`select[data-curve="${place}"]`);
    const curve = data.learning[place][picked ? Number(picked.value) : 0], [blue, orange] = palette();
    const traces = [{ x: curve.steps, y: curve.losses, name: "loss", mode: "lines+markers", line: { color: blue }, marker: { size: 4 } }];
    if (curve.held_out.length) traces.push({ x: curve.held_out.map((p) => p[0]), y: curve.held_out.map((p) => p[1]), name: "images held out", mode: "lines+markers", line: { color: orange, dash: "dash" }, marker: { symbol: "square" } });
    const values = [...curve.losses, ...curve.held_out.map((p) => p[1])].filter((v) => v !== null);
    const log = values.length && Math.min(...values) > 0 && Math.max(...values) > 30 * Math.min(...values);
    return [traces, layout({ title: { text: safe(short(curve.title, 60)), font: { size: 13 } }, margin: { l: 48, r: 14, t: 34, b: 40 },
      xaxis: axis({ title: "step" }), yaxis: axis({ title: "loss", type: log ? "log" : "linear" }), showlegend: traces.length > 1 })];
  };

  const kinds = { tradeoff, frontier, layers, histogram, band, curves, shifts, learning };
  const given = new WeakMap();
  const draw = (element) => {
    if (!element.offsetParent) return;
    const what = given.has(element) ? given.get(element) : element.dataset.key;
    const [traces, its] = kinds[element.dataset.chart](what);
    const first = !element.classList.contains("js-plotly-plot");
    Plotly.react(element, traces, its, config);
    if (first && element.dataset.chart === "layers") {
      element.on("plotly_click", (event) => {
        const table = document.querySelector(`table.layers[data-key="${what}"]`);
        open(table.querySelector(`tr[data-layer="${event.points[0].x - 1}"]`), true);
      });
    }
  };
  const redraw = () => all(".chart").forEach(draw);

  // ---- a layer's own charts, in a row below its own
  const close = (table) => {
    all("tr.detail", table).forEach((row) => { all(".chart", row).forEach((chart) => Plotly.purge(chart)); row.remove(); });
    all("button.open", table).forEach((button) => button.setAttribute("aria-expanded", "false"));
  };
  const say = (parent, text) => { const p = document.createElement("p"); p.textContent = text; parent.append(p); return p; };
  const chart = (parent, kind, what, title) => {
    const box = document.createElement("div"), name = document.createElement("b"), drawn = document.createElement("div");
    name.textContent = title; drawn.className = "chart"; drawn.dataset.chart = kind;
    given.set(drawn, what); box.style.minWidth = 0; box.append(name, drawn); parent.append(box);
    return drawn;
  };
  const digits = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());
  const open = (row, scroll) => {
    const table = row.closest("table"), was = row.nextElementSibling?.classList.contains("detail");
    close(table);
    if (was && !scroll) return;
    const layer = data.layers[table.dataset.key].layers[row.dataset.layer];
    const detail = document.createElement("tr"), cell = document.createElement("td"), inside = document.createElement("div");
    detail.className = "detail"; cell.colSpan = row.cells.length; inside.className = "inside";
    cell.append(inside); detail.append(cell); row.after(detail);
    inside.style.maxWidth = `${table.closest(".scroll").clientWidth - 24}px`;
    const db = (value) => (value === null ? "no error" : `${value.toFixed(1)} dB`);
    say(inside, `${layer.name}: alone ${db(layer.alone_db)} at the outputs; at its own output ${db(layer.own_db)} alone, and ${db(layer.accumulated_db)} with everything quantized.`);
    const charts = [];
    for (const its of layer.activations) {
      if (its.histogram) charts.push(chart(inside, "histogram", its, `Input ${its.tensor}: ${its.bits} bits, scale ${digits(its.scale)}, zero point ${digits(its.zero_point)}`));
      else say(inside, `Input ${its.tensor}: ${its.bits} bits; its values were not recorded.`);
    }
    if (layer.weight && layer.weight.channels.low) charts.push(chart(inside, "band", layer.weight, `Weight: ${layer.weight.bits} bits, ${layer.weight.count} channels`));
    if (charts.length) say(inside, "Dashed lines: the range of the grid, beyond which values are clipped; thin lines its steps, where they are few. The band is the weight's range in each channel: a channel that fills little of its grid wastes bits.");
    charts.forEach(draw);
    row.querySelector("button.open")?.setAttribute("aria-expanded", "true");
    if (scroll) row.scrollIntoView({ block: "start", behavior: "instant" });
  };

  // ---- pictures, choices and copies
  all("img[data-picture]").forEach((image) => { image.src = data.pictures[image.dataset.picture]; });
  const pick = (value) => {
    all("select[data-picks]").forEach((select) => { select.value = value; });
    all(".panel").forEach((panel) => panel.classList.toggle("on", panel.dataset.variant === value));
    redraw();
  };
  document.addEventListener("change", (event) => {
    const target = event.target;
    if (target.dataset.picks) pick(target.value);
    if (target.dataset.shows) target.closest(".gallery").classList.toggle(`hide-${target.dataset.shows}`, !target.checked);
    if (target.dataset.curve !== undefined) draw(target.closest(".panel").querySelector('[data-chart="learning"]'));
  });
  const copy = async (button) => {
    const code = button.parentNode.querySelector("code");
    const range = document.createRange();
    range.selectNodeContents(code);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    let done = document.execCommand("copy");
    if (!done && navigator.clipboard) done = await navigator.clipboard.writeText(code.textContent).then(() => true, () => false);
    button.textContent = done ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  document.addEventListener("click", (event) => {
    const target = event.target;
    if (target.closest(".sort")) sort(target.closest(".sort"));
    else if (target.closest(".copier")) copy(target.closest(".copier"));
    else if (target === theme) paint(names[(names.indexOf(root.dataset.theme) + 1) % 3]);
    else if (target.closest("tr.opens")) open(target.closest("tr.opens"), false);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let before = "auto";
  addEventListener("beforeprint", () => { before = root.dataset.theme; paint("light"); all(".chart.js-plotly-plot").forEach((c) => c.offsetParent && Plotly.Plots.resize(c)); });
  addEventListener("afterprint", () => paint(before));
  redraw();
})();
