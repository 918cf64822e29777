// The page at work. Everything it shows it makes of DATA; texts enter the page as text, never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const COMBOS = DATA.tables.flatMap((table) => table.sections.map((section) => ({ table, section,
  data: table.dataset, sigma: String(section.sigma), protocol: table.protocol, rule: table.rule })));
const SWITCHES = { data: "data set", sigma: "sigma", protocol: "protocol", rule: "certificate rule" };
const VIEWS = { curve: "Curve", cost: "Cost", envelope: "Envelope", pa: "pA" };
const STYLES = 8, COLUMNS = 256;
const state = { combo: COMBOS[0], view: "curve", alpha: null, a: null, b: null, open: new Set() };
const byId = (id) => document.getElementById(id);

// ---- making elements

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "g", "text", "use", "title", "line"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const styleOf = (row) => row.style < 0 ? "sg dashed" : `s${row.style % STYLES}${["", " dashed", " dotted"][Math.floor(row.style / STYLES) % 3]}`;
const markOf = (row) => `#mark${(row.style + Math.floor(row.style / STYLES) * 3) % STYLES}`;  // a colour that comes again has another shape
const fixed = (value, digits) => value.toFixed(digits);
const signed = (value, digits) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(digits);
const choice = (key, label, options, chosen, change) => make("label", {}, label, make("select", { "data-key": key, change: (e) => change(e.target.value) },
  ...options.map((value) => make("option", { value, selected: value === chosen }, value))));
const finished = (row) => !row.state;

// ---- numbers

const alphaOf = (table) => table.recomputed && state.alpha !== null ? state.alpha : table.alpha;
const moved = (table) => alphaOf(table) !== table.alpha;
const kept = new Map(), ofAlpha = new Map();
const once = (key, work, cache = kept) => { if (!cache.has(key)) cache.set(key, work()); return cache.get(key); };

const column = (name, key, Type) => once(`${name} ${key}`, async () => {
  const value = DATA.images[name][key];
  return typeof value === "string" ? unpack(value, Type) : value;
});

/** Of one training, by image: radius where the class is right, else 0; and the bound pA, likewise; null where there is none. */
function imagesOf(training, table, sigma) {
  const alpha = alphaOf(table), name = training.images;
  if (moved(table) && !ofAlpha.has(alpha)) { ofAlpha.clear(); BOUNDS.clear(); ofAlpha.set(alpha, new Map()); }  // the visitor moves on: only one is kept
  return once(`${name} ${table.rule} ${sigma} ${alpha}`, async () => {
    if (DATA.images[name].values) return { radius: await column(name, "values", Float64Array), pa: null };
    const [count, n, other] = await Promise.all([column(name, "count", Int32Array), column(name, "n", Int32Array), DATA.images[name].runner_up ? column(name, "runner_up", Int32Array) : null]);
    const radius = new Float64Array(count.length), pa = new Float64Array(count.length), read = RULES[table.rule];
    count.forEach((value, k) => {
      if (value < 0) return;  // another class was chosen
      const [r, p] = read(value, typeof n === "number" ? n : n[k], other ? other[k] : 0, alpha, sigma);
      if (r !== null) { radius[k] = r; pa[k] = p; }
    });
    return { radius, pa };
  }, moved(table) ? ofAlpha.get(alpha) : kept);
}

async function evidenceOf(row, table, section) {
  return Promise.all(row.trainings.map((training) => imagesOf(training, table, section.sigma)));
}
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
function deviation(values) {
  if (values.length < 2) return null;
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, v) => sum + (v - middle) ** 2, 0) / (values.length - 1));
}
const sum = (array) => array.reduce((total, value) => total + value, 0);
const share = (array, limit) => 100 * array.reduce((total, value) => total + (value > limit), 0) / array.length;

/** Mean and deviation of a metric at the visitor's alpha: the page's own at its alpha. */
async function statOf(row, metric, table, section) {
  if (!moved(table) || !row.stats[metric] || (metric !== "ACR" && !table.radii.includes(metric))) return row.stats[metric];
  const found = await evidenceOf(row, table, section);
  const values = found.map(({ radius }) => metric === "ACR" ? sum(radius) / radius.length : share(radius, Number(metric)));
  return { mean: mean(values), std: deviation(values), n: values.length };
}

/** Share in % of a row's images above each place: mean over its trainings, and their deviation. */
function sharesOf(arrays, places) {
  const each = arrays.map((array) => {
    const sorted = Float64Array.from(array).sort();
    let at = 0;
    return places.map((place) => { while (at < sorted.length && !(sorted[at] > place)) at++; return 100 * (sorted.length - at) / sorted.length; });
  });
  return places.map((_, k) => ({ mean: mean(each.map((one) => one[k])), std: deviation(each.map((one) => one[k])) }));
}
const spread = (low, high) => Array.from({ length: COLUMNS }, (_, k) => low + (high - low) * k / (COLUMNS - 1));

// ---- charts

function ticks(low, high, about = 5) {
  const raw = (high - low) / about || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= high / step + 1e-9; k++) found.push(Number((k * step).toPrecision(10)));
  return found;
}

/** lines: {row, points [[x, y]], steps, band [[x, low, high]], marks [[x, y]]}; dots: {row, x, y, error}; front: [[x, y]]. */
function chart(name, { lines = [], dots = [], front = [], x: [xLow, xHigh], y: [yLow, yHigh], xLabel, yLabel, doubling = false }) {
  const width = 380, height = 300, left = 42, right = 10, top = 18, bottom = 38, scale = doubling ? Math.log2 : (v) => v;
  const across = (x) => (left + (scale(x) - scale(xLow)) / (scale(xHigh) - scale(xLow)) * (width - left - right)).toFixed(1);
  const down = (y) => (height - bottom - (y - yLow) / (yHigh - yLow) * (height - bottom - top)).toFixed(1);
  const path = (points, steps) => points.map(([x, y], k) => k === 0 ? `M${across(x)} ${down(y)}` : steps ? `H${across(x)}V${down(y)}` : `L${across(x)} ${down(y)}`).join("");
  const svg = make("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  const places = doubling ? spread(0, 12).map(Math.round).filter((k, n, all) => k !== all[n - 1]).map((k) => 2 ** k).filter((v) => v >= xLow && v <= xHigh) : ticks(xLow, xHigh);
  const levels = ticks(yLow, yHigh, 4);
  svg.append(make("g", { class: "grid" }, ...levels.map((y) => make("path", { class: y === 0 && yLow < 0 ? "zero" : null, d: `M${left} ${down(y)}H${width - right}` }))));
  svg.append(make("g", {}, ...levels.map((y) => make("text", { x: left - 6, y: Number(down(y)) + 4, "text-anchor": "end" }, String(y))),
    ...places.map((x) => make("text", { x: across(x), y: height - bottom + 16, "text-anchor": "middle" }, String(x))),
    make("text", { x: (width + left - right) / 2, y: height - 5, "text-anchor": "middle" }, xLabel), make("text", { x: left, y: top - 5 }, yLabel)));
  if (front.length) svg.append(make("path", { class: "line front dotted", d: path(front, true) }));
  const hover = (row, on) => ({ pointerenter: () => light(row, true), pointerleave: () => light(row, false) });
  for (const { row, points, steps, band, marks = [] } of lines) {
    const group = make("g", { class: `curve ${styleOf(row)}`, "data-row": row.id, ...hover(row) });
    if (band) group.append(make("path", { class: "band", d: `${path(band.map(([x, , high]) => [x, high]))}${path(band.map(([x, low]) => [x, low]).reverse()).replace("M", "L")}Z` }));
    group.append(make("path", { class: "hit", d: path(points, steps) }), make("path", { class: `line ${styleOf(row)}`, d: path(points, steps) }, make("title", {}, row.label)));
    if (row.style >= 0) for (const [x, y] of marks) group.append(make("use", { class: "mark", href: markOf(row), x: across(x), y: down(y) }));
    svg.append(group);
  }
  for (const { row, x, y, error } of dots) {
    const group = make("g", { class: `curve ${styleOf(row)}`, "data-row": row.id, ...hover(row) });
    if (error) group.append(make("path", { class: "error", d: `M${across(x)} ${down(y - error)}V${down(y + error)}` }));
    group.append(make("use", { class: "mark", href: markOf(row), x: across(x), y: down(y) }, make("title", {}, `${row.label}: ${fixed(y, 4)}, ${x} pairs`)));
    svg.append(group);
  }
  return svg;
}

/** Highlights a row and its curve. */
function light(row, on) {
  const view = document.querySelector(".view.current");
  for (const element of view.querySelectorAll("[data-row]")) element.classList.toggle("lit", on && element.dataset.row === row.id);
  for (const svg of view.querySelectorAll(".panel .chart")) svg.classList.toggle("focus", on && svg.querySelector(".curve.lit") !== null);
}

const DRAW = {
  async curve(table, section) {
    const rows = section.rows.filter(finished);
    const found = await Promise.all(rows.map((row) => evidenceOf(row, table, section)));
    const end = Math.max(0.01, ...found.flat().map(({ radius }) => radius.reduce((a, b) => Math.max(a, b), 0))) * 1.02;
    const lines = rows.map((row, k) => {
      const places = spread(0, end), arrays = found[k].map(({ radius }) => radius), shares = sharesOf(arrays, places);
      const radii = table.radii.map(Number).filter((r) => r <= end), at = sharesOf(arrays, radii);
      return { row, steps: true, points: places.map((x, n) => [x, shares[n].mean]), marks: radii.map((x, n) => [x, at[n].mean]),
        band: shares[0].std === null ? null : places.map((x, n) => [x, Math.max(0, shares[n].mean - shares[n].std), Math.min(100, shares[n].mean + shares[n].std)]) };
    });
    const many = rows.some((row) => row.trainings.length > 1);
    return [chart("Certified accuracy against radius", { lines, x: [0, end], y: [0, 100], xLabel: "radius r (L2, pixels of [0, 1])", yLabel: "certified accuracy, %" }),
      `Share of all images that are right with a radius above r.${many ? ` Line: mean over the ${table.unit}s; band: ± standard deviation.` : ""}`];
  },
  async cost(table, section) {
    const rows = section.rows.filter((row) => finished(row) && row.stats.pairs && row.stats.ACR);
    if (!rows.length) return [null, "Nothing is recorded of what these rows cost."];
    const stats = await Promise.all(rows.map((row) => statOf(row, "ACR", table, section)));
    const dots = rows.map((row, k) => ({ row, x: row.stats.pairs.mean, y: stats[k].mean, error: stats[k].std })).sort((a, b) => a.x - b.x || b.y - a.y);
    const best = [];
    for (const dot of dots) if (!best.length || dot.y > best[best.length - 1].y) best.push(dot);
    const ys = dots.flatMap((dot) => [dot.y - (dot.error || 0), dot.y + (dot.error || 0)]), [low, high] = [Math.min(...ys), Math.max(...ys)], pad = (high - low) * 0.15 || 0.05;
    const end = Math.max(...dots.map((dot) => dot.x)) * 1.5, start = Math.min(1, ...dots.map((dot) => dot.x)) / 1.3;
    return [chart("ACR against cost of training", { dots, front: [...best.map((dot) => [dot.x, dot.y]), [end, best[best.length - 1].y]], x: [start, end], y: [low - pad, high + pad], doubling: true,
      xLabel: "forward and backward passes per training image", yLabel: "ACR" }), `Pareto front (dotted), cheapest first: ${best.map((dot) => dot.row.label).join(", ")}. No test stands behind it.`];
  },
  async envelope(table) {
    const whole = table.sections[0].rows.filter((row) => !row.constant && table.sections.every((s) => s.rows.some((r) => r.label === row.label && finished(r))));
    if (!whole.length) return [null, "No row is finished at every sigma."];
    const found = await Promise.all(whole.map((row) => Promise.all(table.sections.map((s) => evidenceOf(s.rows.find((r) => r.label === row.label), table, s)))));
    const end = Math.max(...found.flat(2).map(({ radius }) => radius.reduce((a, b) => Math.max(a, b), 0))) * 1.02, places = spread(0, end);
    const here = state.combo.section.rows;
    const lines = whole.map((row, k) => {
      const each = found[k].map((trainings) => sharesOf(trainings.map(({ radius }) => radius), places));
      return { row: here.find((r) => r.label === row.label), steps: true, points: places.map((x, n) => [x, Math.max(...each.map((one) => one[n].mean))]) };
    });
    return [chart("Best certified accuracy of all sigmas against radius", { lines, x: [0, end], y: [0, 100], xLabel: "radius r (L2, pixels of [0, 1])", yLabel: "certified accuracy at the best sigma, %" }),
      `At each radius the best of sigma ${table.sections.map((s) => s.sigma).join(", ")}; no classifier has all of it. Only rows that are finished at every sigma.`];
  },
  async pa(table, section) {
    const rows = section.rows.filter(finished), places = spread(0.5, 1);
    const found = await Promise.all(rows.map((row) => evidenceOf(row, table, section)));
    if (found.flat().some(({ pa }) => pa === null)) return [null, "This evidence has no bound on pA that the page can read."];
    const lines = rows.map((row, k) => { const shares = sharesOf(found[k].map(({ pa }) => pa), places); return { row, steps: true, points: places.map((x, n) => [x, shares[n].mean]) }; });
    return [chart("Share of images against a threshold of pA", { lines, x: [0.5, 1], y: [0, 100], xLabel: "threshold of the lower bound pA", yLabel: "right with pA above it, %" }),
      "Share of all images that are certified right with a lower bound on pA, the probability of the class, above the threshold: one scale for every sigma."];
  },
};

// ---- parts of a section

function panelOf(view) {
  const panel = view.querySelector(".panel"), name = view.id;
  if (panel.querySelector(".tabs")) return panel;
  const { table } = state.combo;
  const tabs = make("fieldset", { class: "tabs" }, make("legend", {}, "Chart"), ...Object.entries(VIEWS).map(([key, word]) =>
    make("label", {}, make("input", { type: "radio", name: `view-${name}`, value: key, change: () => set({ view: key }) }), word)));
  const slider = make("input", { type: "range", min: -6, max: -0.35, step: 0.05, 
    input: (e) => set({ alpha: Number((10 ** Number(e.target.value)).toPrecision(2)) }) });
  const alpha = table.recomputed
    ? make("div", { class: "alpha" }, make("label", {}, make("span", {}, "alpha, the chance that a certificate is wrong: ", make("output")), slider), make("button", { type: "button", click: () => set({ alpha: null }) }, "Reset"))
    : make("p", { class: "note" }, `These radii stand at alpha = ${table.alpha}; the page cannot read them at another.`);
  panel.prepend(tabs);
  panel.append(make("figcaption"), alpha);
  for (const row of state.combo.section.rows) {
    const line = view.querySelector(`tr.row[data-row="${row.id}"]`), name = line.querySelector(".name");
    name.replaceWith(make("button", { type: "button", class: "name", "aria-expanded": "false", "aria-controls": row.id, click: () => toggle(row) }, row.label));
    for (const [on, events] of [[true, ["pointerenter", "focusin"]], [false, ["pointerleave", "focusout"]]]) for (const event of events) line.addEventListener(event, () => light(row, on));
  }
  view.querySelector(".pair").after(make("section", { class: "compare" }));
  return panel;
}

function toggle(row) {
  state.open.has(row.label) ? state.open.delete(row.label) : state.open.add(row.label);
  set({});
}

async function showTable(view) {
  const { table, section } = state.combo;
  for (const row of section.rows) {
    const line = view.querySelector(`tr.row[data-row="${row.id}"]`), open = state.open.has(row.label), more = byId(row.id);
    line.querySelector(".name").setAttribute("aria-expanded", open);
    more.classList.toggle("open", open);
    more.querySelector("details").open = open;
    line.querySelector(".rank").classList.toggle("state", moved(table));
    for (const metric of table.metrics.filter((m) => m.name === "ACR" || table.radii.includes(m.name))) {
      const cell = line.querySelector(`[data-metric="${metric.name}"]`);
      if (!cell || !row.stats[metric.name]) continue;
      cell.before_ ??= [...cell.childNodes];
      cell.classList.toggle("moved", moved(table));
      if (!moved(table)) { cell.replaceChildren(...cell.before_); continue; }
      const stat = await statOf(row, metric.name, table, section);
      if (stat.mean === 0 && row.beyond.includes(metric.name)) { cell.replaceChildren(...cell.before_); continue; }
      cell.replaceChildren(fixed(stat.mean, metric.decimals), ...(stat.std === null || metric.name !== "ACR" ? [] : [make("span", { class: "std" }, ` ± ${fixed(stat.std, metric.decimals)} (${stat.n})`)]));
    }
  }
}

async function showPanel(view) {
  const { table, section } = state.combo, panel = panelOf(view), alpha = alphaOf(table);
  panel.querySelector(`input[value="${state.view}"]`).checked = true;
  const slider = panel.querySelector("input[type=range]");
  if (slider) {
    slider.value = Math.log10(alpha);
    slider.setAttribute("aria-valuetext", `alpha = ${alpha}`);
    panel.querySelector(".alpha button").hidden = !moved(table);
    panel.querySelector("output").replaceChildren(String(alpha), ...(moved(table) ? [make("span", { class: "moved" }, ` (recomputed here; ranks and bands stay those of ${table.alpha})`)] : []));
  }
  const [svg, words] = await DRAW[state.view](table, section);
  panel.querySelector(".static").replaceChildren(...(svg ? [svg] : []));
  panel.querySelector("figcaption").textContent = words;
}

async function showComparison(view) {
  const { table, section } = state.combo, rows = section.rows.filter((row) => finished(row) && !row.constant), place = view.querySelector(".compare");
  if (rows.length < 2) return place.replaceChildren(make("p", { class: "note" }, "Two finished rows are needed to compare."));
  if (!table.ranked) return place.replaceChildren(make("p", { class: "note" }, "Under this certificate rule radii are not compared; the notes say why."));
  const labels = rows.map((row) => row.label);
  const a = labels.includes(state.a) ? state.a : labels[1], b = labels.includes(state.b) && state.b !== a ? state.b : labels.find((label) => label !== a);
  const [first, second] = [a, b].map((label) => rows.find((row) => row.label === label));
  const [x, y] = await Promise.all([first, second].map(async (row) => (await evidenceOf(row, table, section)).map(({ radius }) => radius)));
  const images = x[0].length, average = (arrays, k) => mean(arrays.map((array) => array[k]));
  const differences = Array.from({ length: images }, (_, k) => average(y, k) - average(x, k));
  const wins = differences.filter((d) => d > 1e-12).length, losses = differences.filter((d) => d < -1e-12).length;
  const end = Math.max(0.01, ...[...x, ...y].map((array) => array.reduce((p, q) => Math.max(p, q), 0))) * 1.02;
  const points = [], band = [];
  for (const r of spread(0, end)) {
    let total = 0, square = 0;
    for (let k = 0; k < images; k++) {
      let d = 0;
      for (const array of y) d += (array[k] > r) / y.length;
      for (const array of x) d -= (array[k] > r) / x.length;
      total += d; square += d * d;
    }
    const middle = total / images, half = images > 1 ? 1.96 * Math.sqrt(Math.max(0, square - total * middle) / (images - 1) / images) : 0;
    points.push([r, 100 * middle]); band.push([r, 100 * (middle - half), 100 * (middle + half)]);
  }
  const reach = Math.max(1, ...band.flatMap(([, low, high]) => [Math.abs(low), Math.abs(high)]));
  const pair = section.pairs.find((one) => [one.a, one.b].includes(a) && [one.a, one.b].includes(b)), turned = pair && pair.a !== a;
  const said = [`ACR of ${b} minus that of ${a}: ${signed(mean(differences), 4)}`];
  if (pair && pair.low !== null && !moved(table)) said[0] += `, 95 % interval ${signed(turned ? -pair.high : pair.low, 4)} to ${signed(turned ? -pair.low : pair.high, 4)} over other test images, for these trainings`;
  said.push(`Of ${images} image${images === 1 ? "" : "s"}, ${b} certifies ${wins} farther, ${a} ${losses}, and ${images - wins - losses} tie`);
  if (moved(table)) said.push(`The interval and the test stand at alpha = ${table.alpha} only`);
  else if (!pair || pair.p === null) said.push("No test tells them apart: too few images, or images that differ");
  else said.push(pair.p <= 0.05 ? `The test over all pairs of rows tells them apart (p = ${pair.p.toPrecision(2)})` : `The test over all pairs of rows does not tell them apart (p = ${pair.p.toPrecision(2)})`);
  place.replaceChildren(make("h3", {}, "Compare two rows, image by image"),
    make("div", { class: "fields" }, choice("a", "row A", labels, a, (value) => set({ a: value, b: value === b ? a : b })), choice("b", "row B", labels, b, (value) => set({ b: value, a: value === a ? b : a }))),
    make("div", { class: "pair" }, make("div", {}, ...said.map((text) => make("p", {}, `${text}.`))),
      make("figure", {}, chart(`Difference of certified accuracy, ${b} minus ${a}`, { lines: [{ row: second, points, band, steps: true }], x: [0, end], y: [-reach, reach], xLabel: "radius r (L2, pixels of [0, 1])", yLabel: "difference in points of %" }),
        make("figcaption", {}, `Certified accuracy of ${b} minus that of ${a}. Band: ± 1.96 standard errors over images, at each radius alone.`))));
}

// ---- the state and its address

function read() {
  const told = new URLSearchParams(location.hash.slice(1)), number = Number(told.get("alpha"));
  const wanted = Object.keys(SWITCHES).filter((key) => told.has(key));
  state.combo = nearest(Object.fromEntries(wanted.map((key) => [key, told.get(key)])), wanted[0]);
  state.view = Object.hasOwn(VIEWS, told.get("view")) ? told.get("view") : "curve";
  state.alpha = number > 0 && number < 0.5 ? number : null;
  [state.a, state.b] = [told.get("a"), told.get("b")];
  state.open = new Set(told.getAll("open"));
}

function write() {
  const { combo } = state, told = new URLSearchParams(Object.keys(SWITCHES).map((key) => [key, combo[key]]));
  if (state.view !== "curve") told.set("view", state.view);
  if (moved(combo.table)) told.set("alpha", state.alpha);
  for (const key of ["a", "b"]) if (state[key]) told.set(key, state[key]);
  for (const label of state.open) told.append("open", label);
  history.replaceState(null, "", `#${told}`);
}

/** The table that agrees most with what is wanted, and in any case in `first` if any does. */
function nearest(wanted, first) {
  const score = (combo) => Object.keys(wanted).reduce((total, key) => total + (combo[key] === wanted[key]) * (key === first ? 10 : 1), 0) + (combo.section.id === DATA.first) / 2;
  return COMBOS.reduce((best, combo) => score(combo) > score(best) ? combo : best);
}

function set(change) {
  Object.assign(state, change);
  write();
  return show();
}

let turn = 0, queue = Promise.resolve();
/** Draws the state; of several calls in a row the last one counts. */
function show() {
  const mine = ++turn;
  queue = queue.then(async () => {
    if (mine !== turn) return;
    const { section } = state.combo, view = byId(section.id);
    for (const other of document.querySelectorAll(".view")) other.classList.toggle("current", other === view);
    const focused = document.activeElement.dataset.key;
    byId("switches").replaceChildren(...Object.entries(SWITCHES).map(([key, word]) => choice(key, word, [...new Set(COMBOS.map((combo) => combo[key]))], state.combo[key], (value) => {
      const wanted = Object.fromEntries(Object.keys(SWITCHES).map((name) => [name, state.combo[name]]));
      set({ combo: nearest({ ...wanted, [key]: value }, key) });
    })));
    panelOf(view);
    for (const part of [showTable, showPanel, showComparison]) await part(view);
    if (focused) document.querySelector(`#switches [data-key="${focused}"], .view.current [data-key="${focused}"]`)?.focus();
    document.documentElement.dataset.shown = String(mine);
  });
  return queue;
}

// ---- downloads

function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type })), link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** One line per row and metric, numbers in full; a text that a spreadsheet would run as a formula gets a quote before it. */
function csv() {
  const quote = (value) => value === null || value === undefined ? "" : typeof value === "number" ? String(value)
    : /["\n,]/.test(value) || /^[=+\-@]/.test(value) ? `"${(/^[=+\-@]/.test(value) ? "'" : "") + value.replaceAll('"', '""')}"` : value;
  const head = ["dataset", "protocol", "rule", "alpha", "sigma", "row", "metric", "mean", "std", "n", "rank_low", "rank_high", "status", "state"];
  const lines = COMBOS.flatMap(({ table, section }) => section.rows.flatMap((row) => table.metrics.map((metric) => {
    const stat = row.stats[metric.name] ?? { mean: null, std: null, n: 0 };
    return [table.dataset, table.protocol, table.rule, table.alpha, section.sigma, row.label, metric.name, stat.mean, stat.std, stat.n, ...(row.rank ?? [null, null]), row.status, row.state || "done"];
  })));
  return [head, ...lines].map((line) => line.map(quote).join(",")).join("\n") + "\n";
}

byId("downloads").querySelector("p").replaceChildren(
  make("button", { type: "button", click: () => save(`certbench-${DATA.version}.csv`, "text/csv", csv()) }, "CSV"),
  make("button", { type: "button", click: () => save(`certbench-${DATA.version}.json`, "application/json", JSON.stringify(DATA)) }, "JSON"),
  "Every number of this page in full, with the counts of every image in the JSON.");
const bibtex = byId("bibtex");
bibtex.after(make("button", { type: "button", click: async (e) => {
  getSelection().selectAllChildren(bibtex);
  try { await navigator.clipboard.writeText(bibtex.textContent); e.target.textContent = "Copied"; } catch { e.target.textContent = "Selected: copy with the keyboard"; }
} }, "Copy"));

addEventListener("hashchange", () => { if (/[=]/.test(location.hash) || !location.hash) { read(); show(); } });
read();
show();
