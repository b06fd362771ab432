// Selects among answers that were computed when the site was built. Nothing is decided here.
"use strict";
document.documentElement.classList.add("js");

// Copy buttons
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const text = button.parentElement.querySelector("pre").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // a page without a secure context has no clipboard
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1600);
});

// The matrix
const matrix = document.getElementById("matrix");
if (matrix) {
  const field = Object.fromEntries(
    ["search", "engine", "weights", "sizes", "state"].map((name) => [name, document.getElementById(name)]));
  const rows = [...matrix.tBodies[0].rows].map((row) => ({
    row,
    model: row.dataset.model,
    weights: row.dataset.weights,
    sizes: row.dataset.sizes,
    cells: [...row.cells].slice(3), // behind model, ranks and weights
  }));
  const engines = [...matrix.tHead.rows[1].cells].map((cell) => cell.dataset.engine);
  let shownEngine = "";

  const showEngine = (engine) => {
    if (engine === shownEngine) return;
    shownEngine = engine;
    const keeps = engines.map((name) => !engine || name === engine);
    [...matrix.tHead.rows[1].cells].forEach((cell, at) => (cell.hidden = !keeps[at]));
    for (const head of matrix.tHead.rows[0].querySelectorAll(".gpu")) head.colSpan = engine ? 1 : 2;
    for (const { cells } of rows) cells.forEach((cell, at) => (cell.hidden = !keeps[at]));
  };
  const select = () => {
    const value = Object.fromEntries(Object.entries(field).map(([name, input]) => [name, input.value.trim()]));
    const words = value.search.toLowerCase().split(/\s+/).filter(Boolean);
    const states = value.state.split(" ").filter(Boolean);
    showEngine(value.engine);
    let count = 0;
    for (const { row, model, weights, sizes, cells } of rows) {
      const fits = words.every((word) => model.includes(word)) && (!value.weights || weights === value.weights) &&
        (!value.sizes || sizes === value.sizes) &&
        (!states.length || cells.some((cell) => !cell.hidden && states.includes(cell.dataset.state)));
      row.hidden = !fits;
      count += fits;
    }
    document.getElementById("count").textContent = `${count} of ${rows.length} rows`;
    const asked = new URLSearchParams(Object.entries(value).filter(([, text]) => text));
    history.replaceState(null, "", `${location.pathname}${asked.size ? `?${asked}` : ""}${location.hash}`);
  };
  for (const [name, text] of new URLSearchParams(location.search)) if (field[name]) field[name].value = text;
  for (const input of Object.values(field)) input.addEventListener("input", select);
  select();
}

// Which file does my server read?
const form = document.getElementById("server");
if (form) {
  const [model, release, parallel, gpu] = ["model", "release", "parallel", "gpu"].map((name) => document.getElementById(name));
  const answer = document.getElementById("answer");
  const slot = (name) => answer.querySelector(`[data-slot="${name}"]`);
  const documents = new Map();
  const words = {
    verified: "A file is here; the main branch measured its figures again.",
    claimed: "A file is here, with its author’s figures.",
    "other-shape": "A file is here, measured for another hidden size, top_k or placement; what it gains here is not known.",
    published: "A file is here, taken over from another project; nothing was measured.",
    unrecorded: "A file is here, without evidence.",
    broken: "A file is here that can’t be used.",
    shipped: "No file is here; the engine ships one of its own.",
    none: "No file is here.",
    unnamed: "No tuned file can have a name for it.",
    "not-read": "The default backend reads no tuned files.",
  };
  const empty = { title: "", state: "", words: "", verdict: "", shape: "—", reason: "", source: "", engine_file: "", walk: "", command: "", note: "", page: "", gain: "", behind: "", notes: "" };
  let loaded = null; // the answers for the model that is chosen; null while they are on their way or didn't come
  let asked = new URLSearchParams(location.search);

  const load = async (slug) => {
    if (!documents.has(slug)) documents.set(slug, fetch(`data/models/${slug}.json`).then((reply) => {
      if (!reply.ok) throw new Error(`${reply.status}`);
      return reply.json();
    }).then((found) => {
      if (!Array.isArray(found.rows) || !Array.isArray(found.fields) || !Array.isArray(found.texts)) throw new Error("no answers");
      return found;
    }));
    return documents.get(slug);
  };
  const sizesOf = (row) => `TP${row.tp}${row.ep > 1 ? ` EP${row.ep}` : ""}`;
  const rowsOfRelease = () => loaded.rows.filter((row) => `${row.engine} ${row.version}` === release.value);
  // What a link asks for and this page doesn't have; until something is chosen by hand.
  const strange = document.getElementById("strange");
  const sayStrange = (names) => {
    strange.hidden = !names.length;
    strange.textContent = names.length ? `The link asks for ${names.join(", ")}, which isn’t here. This is the answer for what is chosen instead.` : "";
  };
  const write = () => {
    const sizes = parallel.value || asked.get("parallel") || "";
    const query = new URLSearchParams({ model: model.value, release: release.value, parallel: sizes, gpu: gpu.value });
    history.replaceState(null, "", `?${query}`);
  };
  const fillSizes = () => {
    const before = (asked.get("parallel") || parallel.value).toUpperCase();
    const rows = rowsOfRelease();
    if (asked.get("parallel") && !rows.some((row) => sizesOf(row) === before)) unknown.push(`parallel ${before}`);
    parallel.replaceChildren(...rows.map((row) => new Option(`${sizesOf(row)}${row.placed ? " · usual" : ""}`, sizesOf(row))));
    const usual = rows.find((row) => row.placed) || rows.find((row) => !row.refusal) || rows[0];
    parallel.value = rows.some((row) => sizesOf(row) === before) ? before : usual ? sizesOf(usual) : "";
  };
  const put = (values) => {
    for (const [name, text] of Object.entries({ ...empty, ...values })) {
      const place = slot(name);
      if (place && name !== "page") place.textContent = text;
      const block = answer.querySelector(`[data-if="${name}"]`);
      if (block) block.hidden = !text;
    }
    const badge = slot("badge");
    badge.className = `badge ${values.state || ""}`;
    badge.textContent = values.badge;
    const page = slot("page");
    page.hidden = !values.page;
    page.href = values.page ? `files/${values.page}.html` : "";
  };
  const show = () => {
    const row = rowsOfRelease().find((each) => sizesOf(each) === parallel.value);
    answer.hidden = !row;
    if (!row) return;
    const gpuName = gpu.selectedOptions[0].textContent;
    const found = (row.answers || []).map((places) => Object.fromEntries(
      loaded.fields.map((field, at) => [field, loaded.texts[places[at]] || ""]))).find((each) => each.device === gpu.value);
    const values = found || { ...empty, verdict: "Not run", reason: row.refusal };
    put({
      ...values,
      title: `${model.value} ${sizesOf(row)}, ${row.name} ${row.version} on ${gpuName}`,
      shape: row.shape || "—",
      badge: values.state.replace("-", " ") || "refused",
      words: `${words[values.state] || "The engine doesn’t split the model so."}${values.page && values.gain ? ` ${values.gain} time over no file.` : ""}${values.behind ? ` ${values.behind}` : ""}`,
    });
    write();
  };
  const choose = async () => {
    const slug = model.selectedOptions[0].dataset.slug;
    loaded = null;
    answer.setAttribute("aria-busy", "true");
    try {
      const found = await load(slug);
      if (slug !== model.selectedOptions[0].dataset.slug) return;
      loaded = found;
    } catch {
      documents.delete(slug);
      if (slug !== model.selectedOptions[0].dataset.slug) return;
      answer.hidden = false;
      answer.removeAttribute("aria-busy");
      parallel.replaceChildren();
      write();
      put({ title: `The answers for ${model.value} couldn’t be loaded`, badge: "not loaded", verdict: "Not known", words: "Load this page again, or see the model’s own page below." });
      return;
    }
    answer.removeAttribute("aria-busy");
    fillSizes();
    asked = new URLSearchParams();
    sayStrange(unknown);
    show();
  };
  const unknown = [];
  for (const [input, name] of [[model, "model"], [release, "release"], [gpu, "gpu"]]) {
    const value = asked.get(name);
    const option = [...input.options].find((each) => each.value.toLowerCase() === value?.toLowerCase());
    if (option) input.value = option.value;
    else if (value) unknown.push(`${name} ${value}`);
  }
  form.addEventListener("input", () => { unknown.length = 0; asked = new URLSearchParams(); sayStrange(unknown); });
  model.addEventListener("input", choose);
  release.addEventListener("input", () => { if (loaded) { fillSizes(); show(); } });
  for (const input of [parallel, gpu]) input.addEventListener("input", () => loaded && show());
  form.addEventListener("submit", (event) => event.preventDefault());
  choose();
}
