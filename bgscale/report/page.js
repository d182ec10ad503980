"use strict";
// The page's script: which model is shown, the proteins, and saving figures.
// It asks for nothing over the network. Names are always set as text, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const ROWS_A_PAGE = 50;
const CARDS_A_TIME = 10;
const SHOWN_CLASSES = 6;
const WORTH_A_ROW = 0.04;
const NONE = 0xffff;
const SVG = "http://www.w3.org/2000/svg";
const state = { model: 0, fit: DATA.fits[0], setting: DATA.setting, sort: "rank", down: false, page: 0, cards: CARDS_A_TIME, open: -1 };
const order = { rows: [], ranked: [] };
let numbers = null;

const all = (selector) => [...document.querySelectorAll(selector)];
const at = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const digits = (value, count = 2) => (Number.isNaN(value) ? "none" : value.toFixed(count).replace("-", "−"));
const small = (value) => (Number.isNaN(value) ? "none" : value < 0.001 ? "< 0.001" : value.toFixed(3));
const spoken = (name) => name.replaceAll("_", " ");
const link = (name) => "#" + encodeURIComponent(name);

function settingClass(name) {
  const known = ["original", "same", "different", "cell_free", "masked"];
  return known.includes(name) ? "s-" + name : "s-" + (DATA.settings.indexOf(name) % 4);
}

// ---- numbers: packed in the page, unpacked when they are first asked for

const unpacked = new Map();

async function block(id, Kind) {
  const text = at(id).textContent;
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Kind(await new Response(stream).arrayBuffer());
}

function load(model, fit) {
  const key = `block-${model}-${fit}`;
  if (!unpacked.has(key)) {
    const parts = [["numbers", Float32Array], ["counts", Uint32Array], ["flags", Uint8Array], ["proportions", Uint16Array]];
    unpacked.set(key, Promise.all(parts.map(([name, Kind]) => block(`${key}-${name}`, Kind)))
      .then(([values, counts, flags, proportions]) => reader(values, counts, flags, proportions)));
  }
  return unpacked.get(key);
}

function reader(values, counts, flags, proportions) {
  const n = DATA.proteins.length, changed = DATA.settings.filter((s) => s !== "original"), classes = DATA.classes.length;
  const place = (kind, setting, i) => (kind * changed.length + changed.indexOf(setting)) * n + i;
  return {
    changed,
    of: (name, setting, i) => values[place(DATA.numbers.indexOf(name), setting, i)],
    cells: (setting, i) => counts[place(0, setting, i)],
    fields: (setting, i) => counts[place(1, setting, i)],
    isSignificant: (setting, i) => (flags[place(0, setting, i)] & 1) > 0,
    isSubstantial: (setting, i) => (flags[place(0, setting, i)] & 2) > 0,
    reason: (setting, i) => DATA.reasons[flags[place(1, setting, i)]],
    // bound 0: the proportion; 1, 2: the ends of its interval
    proportion: (bound, setting, k, i) => {
      const step = proportions[((bound * DATA.settings.length + DATA.settings.indexOf(setting)) * classes + k) * n + i];
      return step === NONE ? NaN : step / 1000;
    },
  };
}

// ---- one protein: proportions under the settings, and a few of its cells

function shownClasses(i) {
  const most = DATA.classes.map((_, k) => Math.max(...DATA.settings.map((s) => numbers.proportion(0, s, k, i) || 0)));
  const ranked = most.map((_, k) => k).sort((a, b) => most[b] - most[a] || a - b);
  return ranked.filter((k, place) => place < SHOWN_CLASSES && most[k] >= WORTH_A_ROW);
}

function chart(i) {
  const rows = shownClasses(i).map((k) => ({ name: DATA.classes[k], of: (b, s) => numbers.proportion(b, s, k, i) }));
  const rest = DATA.classes.map((_, k) => k).filter((k) => !rows.some((row) => row.name === DATA.classes[k]));
  if (rest.length) rows.push({
    name: rest.length === 1 ? DATA.classes[rest[0]] : `${rest.length} others`,
    of: (b, s) => (b ? NaN : rest.reduce((sum, k) => sum + numbers.proportion(0, s, k, i), 0)),
  });
  const pitch = 9, gap = 9, left = 118, right = 378, top = 4;
  const high = DATA.settings.length * pitch, x = (share) => left + share * (right - left);
  const bottom = top + rows.length * (high + gap);
  const svg = drawn("svg", { class: "chart", viewBox: `0 0 392 ${bottom + 30}`, role: "img" });
  const words = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(drawn("line", { class: "axis", x1: x(share), x2: x(share), y1: top, y2: bottom }));
    svg.append(drawn("text", { class: "tick", x: x(share), y: bottom + 12, "text-anchor": "middle" }, String(share)));
  }
  svg.append(drawn("text", { class: "tick", x: x(0.5), y: bottom + 26, "text-anchor": "middle" }, "share of the protein's cells"));
  rows.forEach((row, place) => {
    const middle = top + place * (high + gap) + high / 2 + gap / 2;
    const short = row.name.length > 19 ? row.name.slice(0, 18) + "…" : row.name;
    svg.append(drawn("text", { x: left - 8, y: middle + 4, "text-anchor": "end" }, short, drawn("title", {}, row.name)));
    DATA.settings.forEach((setting, s) => {
      const y = middle + (s - (DATA.settings.length - 1) / 2) * pitch, value = row.of(0, setting);
      if (Number.isNaN(value)) return;
      const group = drawn("g", { class: settingClass(setting) });
      const low = row.of(1, setting), top95 = row.of(2, setting);
      const range = Number.isNaN(low) ? "" : ` [${digits(low)}, ${digits(top95)}]`;
      if (range) group.append(drawn("line", { class: "bound", x1: x(low), x2: x(top95), y1: y, y2: y }));
      group.append(drawn("circle", { cx: x(value), cy: y, r: 3.3 }));
      group.append(drawn("title", {}, `${row.name}, ${spoken(setting)}: ${digits(value)}${range}`));
      svg.append(group);
    });
    const told = DATA.settings.map((s) => `${spoken(s)} ${digits(row.of(0, s))}`).join(", ");
    words.push(`${row.name}: ${told}`);
  });
  svg.setAttribute("aria-label", `Proportions. ${words.join(". ")}`);
  return svg;
}

function swatch(setting) {
  return element("span", { class: "swatch " + settingClass(setting), "aria-hidden": "true" });
}

function pictureOf(one, label) {
  const cells = one.outlines.length, step = one.size + one.gap;
  const wide = cells * step - one.gap, tall = one.settings.length * step - one.gap;
  const svg = drawn("svg", { viewBox: `0 0 ${wide} ${tall}`, "aria-hidden": "true" });
  one.settings.forEach((setting, s) => one.outlines.forEach((path, c) => {
    const gone = one.absent.find(([cell, row]) => cell === c && row === s);
    const group = drawn("g", { transform: `translate(${c * step} ${s * step})` });
    if (gone) group.append(drawn("text", { x: one.size / 2, y: one.size / 2 }, gone[2]));
    else group.append(drawn("path", { d: path }));
    const behind = one.donors[c][s] ? `, background of ${one.donors[c][s]}` : "";
    const name = one.names ? one.names[c] : `cell ${c + 1}`;
    group.append(drawn("rect", { width: one.size, height: one.size }, drawn("title", {}, `${name}, ${spoken(setting)}${behind}`)));
    svg.append(group);
  }));
  const image = element("img", { alt: label, width: wide, height: tall, decoding: "async" });
  image.src = "data:image/webp;base64," + one.image;
  const holder = element("div", { class: "picture" });
  holder.append(image, svg);
  const names = element("div", { class: "names", "aria-hidden": "true" });
  for (const setting of one.settings) names.append(element("span", {}, swatch(setting), spoken(setting)));
  const figure = element("figure", { class: "montage" });
  figure.append(names, holder);
  return figure;
}

function cellsOf(i) {
  const held = at(`montage-${i}`);
  if (!held) {
    const command = element("code", {}, "--protein");
    return element("p", { class: "small on-screen" }, "No pictures of this protein are in this report: ", command, " adds them.");
  }
  const one = JSON.parse(held.textContent);
  const figure = pictureOf(one, `${one.outlines.length} cells of ${DATA.proteins[i]} under ${one.settings.length} settings`);
  figure.append(element("figcaption", {}, `${one.outlines.length} of its cells, drawn by the seed; grey scale of each as imaged.`));
  return figure;
}

function told(i) {
  const of = (name) => numbers.of(name, state.setting, i);
  if (Number.isNaN(of("p"))) return numbers.reason(state.setting, i) || "not tested";
  const kind = numbers.isSubstantial(state.setting, i) ? "substantially shifted" : numbers.isSignificant(state.setting, i) ? "significantly shifted" : "not told from chance";
  return `${kind} under “${spoken(state.setting)}”: KL ${digits(of("kl"))} nat [${digits(of("kl_low"))}, ${digits(of("kl_high"))}], ` +
    `total variation ${digits(of("total_variation"))}, q ${small(of("q"))}`;
}

function labelOf(i) {
  return DATA.labels[i].map((k) => DATA.classes[k]).join("; ") || "no class";
}

function portrait(i, inDialog) {
  const name = DATA.proteins[i], made = element("article", { class: "portrait" });
  const heading = element("h3", inDialog ? { id: "protein-name" } : {});
  heading.append(inDialog ? name : element("a", { href: link(name) }, name));
  const cells = DATA.settings.length > 1 ? `, ${numbers.cells(state.setting, i).toLocaleString("en")} cells in ${numbers.fields(state.setting, i)} fields` : "";
  made.append(heading, element("p", { class: "small" }, `${labelOf(i)}${cells}; ${told(i)}`));
  const views = element("div", { class: "views" });
  views.append(chart(i), cellsOf(i));
  made.append(views);
  if (inDialog) made.append(shiftTable(i));
  return made;
}

function shiftTable(i) {
  const heads = ["against original", "KL (nat)", "KL less chance", "total variation", "p", "q", "q substantial", ""];
  const table = element("table", { class: "wide" });
  table.append(element("thead", {}, element("tr", {}, ...heads.map((text, k) => element("th", k ? { class: "number", scope: "col" } : { scope: "col" }, text)))));
  const body = element("tbody");
  for (const setting of numbers.changed) {
    const of = (name) => numbers.of(name, setting, i);
    const interval = element("span", { class: "interval" }, Number.isNaN(of("kl_low")) ? "" : `[${digits(of("kl_low"))}, ${digits(of("kl_high"))}]`);
    const kind = numbers.isSubstantial(setting, i) ? "substantial" : numbers.isSignificant(setting, i) ? "significant" : numbers.reason(setting, i);
    const cells = [digits(of("kl_corrected")), digits(of("total_variation")), small(of("p")), small(of("q")), small(of("q_substantial"))];
    body.append(element("tr", {}, element("th", { scope: "row" }, swatch(setting), spoken(setting)),
      element("td", { class: "number" }, digits(of("kl")), interval),
      ...cells.map((text) => element("td", { class: "number" }, text)), element("td", {}, kind)));
  }
  table.append(body);
  return element("div", { class: "scroll" }, table);
}

// ---- the most shifted proteins, and the table of all

function ranking() {
  const sure = (i) => Number(numbers.isSignificant(state.setting, i)) + Number(numbers.isSubstantial(state.setting, i));
  const kl = (i) => numbers.of("kl", state.setting, i);
  const known = DATA.proteins.map((_, i) => i).filter((i) => !Number.isNaN(kl(i)));
  return known.sort((a, b) => sure(b) - sure(a) || kl(b) - kl(a) || a - b);
}

function showCards() {
  const list = at("most-shifted-list");
  const shown = order.ranked.slice(0, state.cards);
  list.replaceChildren(...shown.map((i) => portrait(i, false)));
  const more = at("most-shifted-more");
  more.hidden = shown.length >= order.ranked.length || state.cards >= DATA.most;
  more.textContent = `Show ${Math.min(CARDS_A_TIME, DATA.most - state.cards)} more`;
}

function moves(i) {
  let down = 0, up = 0;
  const change = DATA.classes.map((_, k) => numbers.proportion(0, state.setting, k, i) - numbers.proportion(0, "original", k, i));
  change.forEach((value, k) => { if (value < change[down]) down = k; if (value > change[up]) up = k; });
  if (Number.isNaN(change[0])) return "";
  const told = (k) => `${DATA.classes[k]} ${digits(numbers.proportion(0, "original", k, i))} → ${digits(numbers.proportion(0, state.setting, k, i))}`;
  return `${told(down)}; ${told(up)}`;
}

const COLUMNS = {
  name: (i) => DATA.proteins[i],
  label: (i) => labelOf(i),
  cells: (i) => numbers.cells(state.setting, i),
  kl: (i) => numbers.of("kl", state.setting, i),
  tv: (i) => numbers.of("total_variation", state.setting, i),
  q: (i) => numbers.of("q", state.setting, i),
};

function arrange() {
  const asked = at("search").value.trim().toLowerCase(), kind = at("kind").value;
  let rows = state.sort === "rank" ? order.ranked.concat(order.unranked) : DATA.proteins.map((_, i) => i);
  if (asked) rows = rows.filter((i) => DATA.proteins[i].toLowerCase().includes(asked) || labelOf(i).toLowerCase().includes(asked));
  if (kind === "significant") rows = rows.filter((i) => numbers.isSignificant(state.setting, i));
  if (kind === "substantial") rows = rows.filter((i) => numbers.isSubstantial(state.setting, i));
  if (kind === "untested") rows = rows.filter((i) => Number.isNaN(numbers.of("p", state.setting, i)));
  if (state.sort !== "rank") {
    const value = COLUMNS[state.sort], sign = state.down ? -1 : 1, collator = new Intl.Collator("en", { numeric: true });
    const key = rows.map((i) => [value(i), i]);
    // what is missing comes last, whichever way
    key.sort(([a, i], [b, j]) => typeof a === "string" ? sign * collator.compare(a, b) || i - j
      : Number.isNaN(a) - Number.isNaN(b) || (Number.isNaN(a) ? i - j : sign * (a - b) || i - j));
    rows = key.map(([, i]) => i);
  }
  order.rows = rows;
}

function showTable() {
  const pages = Math.max(1, Math.ceil(order.rows.length / ROWS_A_PAGE));
  state.page = Math.min(state.page, pages - 1);
  const first = state.page * ROWS_A_PAGE, shown = order.rows.slice(first, first + ROWS_A_PAGE);
  at("proteins").tBodies[0].replaceChildren(...shown.map((i) => {
    const of = (name) => numbers.of(name, state.setting, i);
    const interval = Number.isNaN(of("kl_low")) ? numbers.reason(state.setting, i) : `[${digits(of("kl_low"))}, ${digits(of("kl_high"))}]`;
    const mark = numbers.isSubstantial(state.setting, i) ? "substantial" : numbers.isSignificant(state.setting, i) ? "significant" : "";
    return element("tr", {},
      element("th", { scope: "row", class: "text" }, element("a", { href: link(DATA.proteins[i]) }, DATA.proteins[i])),
      element("td", { class: "text" }, labelOf(i)),
      element("td", { class: "number on-wide" }, numbers.cells(state.setting, i).toLocaleString("en")),
      element("td", { class: "number" }, digits(of("kl")), element("span", { class: "interval" }, interval)),
      element("td", { class: "number" }, digits(of("total_variation"))),
      element("td", { class: "number on-wide" }, small(of("q"))),
      element("td", {}, mark),
      element("td", { class: "on-wide small" }, moves(i)));
  }));
  const last = first + shown.length, n = order.rows.length.toLocaleString("en");
  at("count").textContent = n === "0" ? "no protein fits" : `${first + 1} to ${last} of ${n} proteins`;
  at("page-before").disabled = state.page === 0;
  at("page-after").disabled = state.page >= pages - 1;
  for (const head of all("#proteins th[data-sort]")) {
    const own = head.dataset.sort === state.sort;
    if (own) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function rearrange() {
  state.page = 0;
  arrange();
  showTable();
}

async function show() {
  for (const part of all("[data-model]")) part.hidden = Number(part.dataset.model) !== state.model;
  for (const one of all("[data-choose]")) one.value = String(state[one.dataset.choose]);
  const has = DATA.models[state.model].shifts;
  for (const part of all(".needs-shifts")) part.hidden = !has;
  if (!has) return;
  numbers = await load(state.model, state.fit);
  order.ranked = ranking();
  const ranked = new Set(order.ranked);
  order.unranked = DATA.proteins.map((_, i) => i).filter((i) => !ranked.has(i));
  showCards();
  arrange();
  showTable();
  if (state.open >= 0) fill(state.open);
}

// ---- the protein that the address names

function fill(i) {
  state.open = i;
  at("protein-content").replaceChildren(portrait(i, true));
  at("protein").scrollTop = 0;
}

function asked() {
  const raw = location.hash.slice(1);
  let name = raw;
  try { name = decodeURIComponent(raw); } catch { /* a lone % stays as it is */ }
  const exact = DATA.proteins.indexOf(name);
  return exact >= 0 || !name ? exact : DATA.proteins.findIndex((one) => one.toLowerCase() === name.toLowerCase());
}

function openAsked() {
  const i = asked(), dialog = at("protein");
  const raw = location.hash.slice(1);
  const unknown = i < 0 && raw && !document.getElementById(raw);
  at("not-found").hidden = !unknown;
  if (unknown) at("not-found").textContent = `There is no protein ${decodeName(raw)} in this report: search for it below.`;
  if (i < 0 || !numbers) { if (dialog.open) dialog.close(); return; }
  fill(i);
  if (!dialog.open) dialog.showModal();
  document.title = `${DATA.proteins[i]} – ${DATA.title}`;
}

function decodeName(raw) {
  try { return decodeURIComponent(raw); } catch { return raw; }
}

function neighbour(step) {
  const place = order.rows.indexOf(state.open);
  const next = order.rows[(place + step + order.rows.length) % order.rows.length];
  if (next !== undefined) location.hash = link(DATA.proteins[next]);
}

// ---- saving: the table as CSV, a figure as SVG

function save(name, text, type) {
  const anchor = element("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 1000);
}

function csvField(value) {
  // a spreadsheet would take such a text for a formula
  const text = typeof value === "string" && /^[=+\-@\t\r\n]/.test(value) ? "'" + value : String(Number.isNaN(value) ? "NA" : value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csv() {
  const heads = ["protein", "localization", "model", "setting", "fit", "cells", "fields", ...DATA.numbers, "significant", "substantial"];
  const lines = order.rows.map((i) => [DATA.proteins[i], labelOf(i), DATA.models[state.model].name, state.setting, state.fit,
    numbers.cells(state.setting, i), numbers.fields(state.setting, i), ...DATA.numbers.map((name) => numbers.of(name, state.setting, i)),
    numbers.isSignificant(state.setting, i), numbers.isSubstantial(state.setting, i)]);
  return [heads, ...lines].map((line) => line.map(csvField).join(",")).join("\n") + "\n";
}

function saveFigure(key) {
  const svg = document.querySelector(`#fig-${CSS.escape(key)} svg.plot`).cloneNode(true);
  svg.setAttribute("font-family", "Arial, Helvetica, sans-serif");
  save(`${key}.svg`, new XMLSerializer().serializeToString(svg), "image/svg+xml");
}

// ---- start

function listen() {
  for (const one of all("[data-choose]")) one.addEventListener("change", () => {
    state[one.dataset.choose] = one.dataset.choose === "model" ? Number(one.value) : one.value;
    state.cards = CARDS_A_TIME;
    show();
  });
  for (const one of all("[data-save]")) {
    one.hidden = false;
    one.addEventListener("click", () => saveFigure(one.dataset.save));
  }
  window.addEventListener("beforeprint", () => all("details").forEach((one) => { one.open = true; }));
  if (!at("proteins")) return;
  at("search").addEventListener("input", rearrange);
  at("kind").addEventListener("change", rearrange);
  at("save-table").addEventListener("click", () => save("proteins.csv", csv(), "text/csv"));
  at("page-before").addEventListener("click", () => { state.page -= 1; showTable(); });
  at("page-after").addEventListener("click", () => { state.page += 1; showTable(); });
  at("most-shifted-more").addEventListener("click", () => { state.cards += CARDS_A_TIME; showCards(); });
  for (const head of all("#proteins th[data-sort]")) head.querySelector("button").addEventListener("click", () => {
    const own = state.sort === head.dataset.sort;
    // names upward first, numbers downward first; of q the smallest first
    state.down = own ? !state.down : !["name", "label", "q"].includes(head.dataset.sort);
    state.sort = head.dataset.sort;
    rearrange();
  });
  const dialog = at("protein");
  at("protein-close").addEventListener("click", () => dialog.close());
  at("protein-before").addEventListener("click", () => neighbour(-1));
  at("protein-after").addEventListener("click", () => neighbour(1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    state.open = -1;
    document.title = DATA.title;
    if (asked() >= 0) history.replaceState(null, "", "#sec-proteins");
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") neighbour(-1);
    if (event.key === "ArrowRight") neighbour(1);
  });
  window.addEventListener("hashchange", openAsked);
}

for (const holder of all("[data-picture]")) {
  const one = JSON.parse(at(holder.dataset.picture).textContent);
  holder.replaceChildren(pictureOf(one, holder.dataset.label));
}
listen();
show().then(() => { if (at("proteins")) openAsked(); document.documentElement.dataset.ready = "yes"; });
