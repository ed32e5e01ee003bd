"use strict";

const UNSURE = "unsure";
const items = new Map();
let classes = [];
let shownRows = [];
let since = 0;
let chosen = null;
let choosing = 0;

// The list

// A file's name may give its class away.
const nameOf = (item) => (blind() && !item.file ? `image ${item.number}` : item.name);
const keyOf = (item) => item.key;
const reader = () => at("reader").value.trim();
const blind = () => at("blind").checked;
const revealed = (item) => !blind() || Boolean(item && item.verdict);

function put(item, asked = 0) {
  const known = items.get(item.key) || {};
  // A list that was asked for before a verdict was saved does not know it.
  const kept = known.savedAt > asked ? { verdict: known.verdict, remark: known.remark } : {};
  items.set(item.key, { ...known, ...item, ...kept });
}

async function fetchItems() {
  const asked = performance.now();
  const answer = await ask(`v1/worklist?since=${since}&reader=${encodeURIComponent(reader())}`);
  if (!answer.ok) throw new Error((await answer.json()).error.cause);
  const found = await answer.json();
  if (found.reader) Object.assign(at("reader"), { value: found.reader, disabled: true });
  for (const item of found.items) {
    since = Math.max(since, item.number);
    // An image that changed on disk comes again, under a new number.
    put(item, asked);
  }
  if (found.total) at("progress").textContent = found.done < found.total
    ? `${found.done} of ${found.total} images predicted…` : `${found.total} images`;
  if (found.items.length) showList();
  return found.done < found.total;
}

async function poll() {
  let busy = true;
  try {
    busy = await fetchItems();
  } catch (error) {
    at("progress").textContent = sentence(error.message || "the server does not respond");
  }
  window.setTimeout(poll, busy ? 1500 : 10000);
}

function sortValue(item) {
  const by = at("sort").value;
  if (blind()) return item.number || 0;
  if (by === "name") return item.name;
  return item.probabilities ? -item.probabilities[by] : 2;
}

function wanted(item) {
  const text = at("search").value.trim().toLowerCase();
  if (text && !nameOf(item).toLowerCase().includes(text)) return false;
  switch (at("filter").value) {
    case "flagged": return Boolean(item.quality && item.quality.length);
    case "refused": return Boolean(item.refused);
    case "open": return !item.verdict && !item.refused;
    case "apart": return Boolean(item.verdict && item.verdict !== UNSURE && item.verdict !== item.prediction);
    default: return true;
  }
}

function rowOf(item) {
  const row = make("tr");
  row.dataset.key = item.key;
  const picture = make("td");
  if (item.thumbnail) {
    const image = make("img");
    image.alt = "";
    image.src = item.thumbnail;
    picture.append(image);
  }
  const name = make("td", nameOf(item));
  if (item.quality && item.quality.length) name.append(make("span", " ⚠", "flag"));
  if (item.refused) name.append(make("span", " refused", "no"));
  const sees = revealed(item);
  const by = at("sort").value;
  const share = item.probabilities ? item.probabilities[classes.includes(by) ? by : item.prediction] : undefined;
  const model = make("td", sees && item.prediction ? item.prediction : "", "model-only");
  const number = make("td", sees && share !== undefined ? percent(share) : "", "number model-only");
  row.append(picture, name, model, number, make("td", item.verdict || ""));
  if (item.key === chosen) row.className = "chosen";
  return row;
}

function showList() {
  const found = [...items.values()].filter(wanted);
  const values = new Map(found.map((item) => [item.key, sortValue(item)]));
  found.sort((a, b) => {
    const [first, second] = [values.get(a.key), values.get(b.key)];
    if (first === second) return a.name.localeCompare(b.name);
    return first < second ? -1 : 1;
  });
  shownRows = found.map(keyOf);
  at("rows").replaceChildren(...found.map(rowOf));
  at("empty").hidden = found.length > 0;
  at("share-head").textContent = classes.includes(at("sort").value) ? at("sort").value : "";
  document.body.classList.toggle("blind", blind());
}

function showRow(item) {
  const row = at("rows").querySelector(`[data-key="${CSS.escape(item.key)}"]`);
  if (row) row.replaceWith(rowOf(item));
}

function step(by) {
  if (!shownRows.length) return;
  const place = shownRows.indexOf(chosen);
  choose(shownRows[Math.min(shownRows.length - 1, Math.max(0, place + by))]);
}

// Uploads: predicted one after the other, and kept in this page alone

async function add(files) {
  const started = items.size;
  let number = 0;
  for (const file of files) {
    number += 1;
    at("progress").textContent = `upload ${number} of ${files.length}…`;
    const key = `u${started + number}-${file.name}`;
    const item = { key, name: file.name, file, verdict: null, remark: "" };
    try {
      const answer = await upload(file);
      if (answer.error) item.refused = answer.error;
      else Object.assign(item, { answer, ...answer, thumbnail: answer.preview });
    } catch {
      item.refused = { cause: "the server does not respond", remedy: "check that it is still running, and add it again" };
    }
    put(item);
    showList();
  }
  at("progress").textContent = `${files.length} added`;
}

async function upload(file) {
  for (;;) {
    const headers = { "Content-Type": "application/octet-stream" };
    const answer = await ask("v1/predict", { method: "POST", body: file, headers });
    if (answer.status !== 429 && answer.status !== 503) return answer.json();
    await new Promise((done) => window.setTimeout(done, 1000 * Number(answer.headers.get("Retry-After") || 1)));
  }
}

// One image

const view = { window: 255, level: 127.5, zoom: 1, x: 0, y: 0, preview: null, heat: null };

function resetView() {
  Object.assign(view, { window: 255, level: 127.5, zoom: 1, x: 0, y: 0 });
  at("invert").checked = false;
}

function loaded(url) {
  return new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = fail;
    image.src = url;
  });
}

function greyOf(image) {
  const canvas = make("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const grey = new Uint8Array(canvas.width * canvas.height);
  for (let n = 0; n < grey.length; n += 1) grey[n] = pixels.data[4 * n];
  return { canvas, context, pixels, grey };
}

function draw() {
  const canvas = at("canvas");
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const context = canvas.getContext("2d");
  at("window").textContent = "";
  if (!view.preview) return;
  const { pixels, grey } = view.preview;
  const invert = at("invert").checked;
  const low = view.level - view.window / 2;
  const table = new Uint8ClampedArray(256);
  for (let value = 0; value < 256; value += 1) {
    const scaled = (255 * (value - low)) / view.window;
    table[value] = invert ? 255 - scaled : scaled;
  }
  for (let n = 0; n < grey.length; n += 1) {
    const value = table[grey[n]];
    pixels.data[4 * n] = value;
    pixels.data[4 * n + 1] = value;
    pixels.data[4 * n + 2] = value;
  }
  view.preview.context.putImageData(pixels, 0, 0);
  const { width, height } = view.preview.canvas;
  const scale = Math.min(canvas.width / width, canvas.height / height) * view.zoom;
  const left = (canvas.width - width * scale) / 2 + view.x * ratio;
  const top = (canvas.height - height * scale) / 2 + view.y * ratio;
  context.drawImage(view.preview.canvas, left, top, width * scale, height * scale);
  if (view.heat && at("shown").checked && revealed(items.get(chosen))) {
    context.globalAlpha = at("opacity").value / 100;
    context.drawImage(view.heat, left, top, width * scale, height * scale);
    context.globalAlpha = 1;
  }
  at("window").textContent = `Window ${Math.round(view.window)}, level ${Math.round(view.level)}, zoom ${view.zoom.toFixed(1)}`;
}

async function choose(key) {
  const item = items.get(key);
  if (!item) return;
  const before = items.get(chosen);
  chosen = key;
  choosing += 1;
  const mine = choosing;
  if (before) showRow(before);
  showRow(item);
  const row = at("rows").querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (row) row.scrollIntoView({ block: "nearest" });
  Object.assign(view, { preview: null, heat: null });
  resetView();
  at("hint").hidden = true;
  showVerdict(item);
  showResult(item);
  draw();
  if (item.refused) return;
  at("busy").hidden = false;
  try {
    const answer = item.answer || (await fetchAnswer(item));
    if (mine !== choosing) return;
    // Only uploads are kept whole; an image of the folder is read again.
    const [preview, heat] = await Promise.all([
      loaded(answer.preview), answer.heat && !answer.heat.empty ? loaded(answer.heat.image) : null,
    ]);
    if (mine !== choosing) return;
    view.preview = greyOf(preview);
    view.heat = heat;
    if (answer.sha256 !== item.sha256) throw new Error("the file has changed since it was listed");
    draw();
  } catch (error) {
    if (mine === choosing) {
      at("hint").hidden = false;
      at("hint").textContent = sentence(error.message || "the image cannot be shown");
    }
  } finally {
    if (mine === choosing) at("busy").hidden = true;
  }
}

async function fetchAnswer(item) {
  const answer = await ask(`v1/worklist/${item.number}`);
  const found = await answer.json();
  if (found.error) throw new Error(found.error.cause);
  return found;
}

function showResult(item) {
  at("result").hidden = !item || !revealed(item);
  if (!item) return;
  at("prediction").textContent = item.prediction || "";
  at("bars").replaceChildren(...Object.entries(item.probabilities || {}).map(([name, share]) => {
    const row = make("li", undefined, name === item.prediction ? "first" : "");
    const track = make("span", undefined, "track");
    const fill = make("span", undefined, "fill");
    fill.style.width = `${100 * share}%`;
    row.style.setProperty("--class", colours.get(name) || "#888");
    track.append(fill);
    track.setAttribute("aria-hidden", "true");
    row.append(make("span", name, "name"), track, make("span", percent(share), "number"));
    return row;
  }));
  at("quality").replaceChildren(...(item.quality || []).map((flag) => make("li", sentence(flag.text))));
  at("refusal").textContent = item.refused ? `${sentence(item.refused.cause)} ${sentence(item.refused.remedy)}` : "";
}

// Verdicts

const colours = new Map();

function verdictButtons() {
  at("verdicts").replaceChildren(...[...classes, UNSURE].map((name, place) => {
    const label = make("label", undefined, "switch");
    const button = make("input");
    Object.assign(button, { type: "radio", name: "verdict", value: name });
    button.addEventListener("change", allowSave);
    label.append(button, ` ${name} (${place < classes.length ? place + 1 : 0})`);
    return label;
  }));
}

const verdictNow = () => (document.querySelector('input[name="verdict"]:checked') || {}).value;

function allowSave() {
  const item = items.get(chosen);
  at("save").disabled = !item || Boolean(item.refused) || !reader() || !verdictNow();
}

function showVerdict(item) {
  for (const button of document.querySelectorAll('input[name="verdict"]')) {
    button.checked = button.value === item.verdict;
    button.disabled = Boolean(item.refused);
  }
  at("remark").value = item.remark || "";
  at("saved").textContent = item.verdict ? "Saved." : "";
  allowSave();
}

async function save() {
  allowSave();
  if (at("save").disabled) return;
  const item = items.get(chosen);
  const said = { verdict: verdictNow(), remark: at("remark").value.trim() };
  if (said.verdict === item.verdict && said.remark === item.remark) {
    step(1);
    return;
  }
  const body = JSON.stringify({
    ...said, sha256: item.sha256, reader: reader(), saw_model: revealed(item), name: item.file ? item.name : "",
  });
  const headers = { "Content-Type": "application/json" };
  let cause = "the server does not respond";
  try {
    const answer = await ask("v1/verdicts", { method: "POST", body, headers });
    cause = answer.ok ? "" : (await answer.json()).error.cause;
  } catch { /* The cause above is shown. */ }
  if (cause) {
    at("saved").textContent = `Not saved: ${sentence(cause)}`;
    return;
  }
  const wasBlind = blind() && !item.verdict;
  // The list may have been asked for anew meanwhile.
  const current = items.get(item.key);
  Object.assign(current, said, { savedAt: performance.now() });
  showRow(current);
  at("saved").textContent = "Saved.";
  // Who reads blind sees the model's result now, and goes on with a second Enter, which saves nothing.
  if (wasBlind) {
    showResult(current);
    draw();
  } else {
    step(1);
  }
}

const range = (value, low, high) => (value === null ? "–" : `${percent(value)} [${(100 * low).toFixed(0)}, ${(100 * high).toFixed(0)}]`);

function tableOf(head, rows) {
  const table = make("table");
  const top = make("tr");
  top.append(...head.map((text) => make("th", text)));
  table.append(top, ...rows.map((cells) => {
    const row = make("tr");
    row.append(...cells.map((text) => make("td", text)));
    return row;
  }));
  return table;
}

async function compare() {
  const answer = await ask("v1/agreement");
  const found = await answer.json();
  if (found.error) {
    at("agreement").replaceChildren(make("p", sentence(found.error.cause)));
    return;
  }
  const kappa = (row) => (row.kappa === null ? "–" : `${row.kappa.toFixed(2)} [${row.low.toFixed(2)}, ${row.high.toFixed(2)}]`);
  const parts = [
    make("p", `${found.verdicts} verdicts, ${found.unsure} of them unsure, ${found.saw_model} after the model's result was seen. `
      + "Intervals of 95% take images as independent.", "small"),
    tableOf(["Raters", "Images", "Agree", "Kappa"], found.pairs.map((row) => [
      `${row.first}, ${row.second}`, String(row.images), row.agreement === null ? "–" : percent(row.agreement), kappa(row),
    ])),
  ];
  const known = found.rates.filter((row) => row.positives);
  if (known.length) {
    parts.push(tableOf(["Reader", "Class", "Rater", "Images", "Sensitivity", "Specificity"], known.map((row) => [
      row.reader, row.class, row.rater, `${row.positives} of ${row.positives + row.negatives}`,
      range(row.sensitivity, row.sensitivity_low, row.sensitivity_high),
      range(row.specificity, row.specificity_low, row.specificity_high),
    ])));
  } else {
    parts.push(make("p", "Sensitivity needs labels: folders that are named like the classes.", "small"));
  }
  at("agreement").replaceChildren(...parts);
}

async function exportVerdicts() {
  const answer = await ask("v1/verdicts");
  if (!answer.ok) return;
  const link = make("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = "verdicts.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

// Mouse and keys

function listenOnCanvas() {
  const canvas = at("canvas");
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons || !view.preview) return;
    if (event.shiftKey || event.buttons === 4) {
      view.x += event.movementX;
      view.y += event.movementY;
    } else {
      view.window = Math.min(510, Math.max(2, view.window + event.movementX));
      view.level = Math.min(255, Math.max(0, view.level + event.movementY));
    }
    draw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const zoom = Math.min(20, Math.max(0.2, view.zoom * Math.exp(-event.deltaY / 500)));
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    // What lies under the pointer stays there.
    view.x = x - ((x - view.x) * zoom) / view.zoom;
    view.y = y - ((y - view.y) * zoom) / view.zoom;
    view.zoom = zoom;
    draw();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { resetView(); draw(); });
  window.addEventListener("resize", draw);
}

function toggle(id) {
  at(id).checked = !at(id).checked;
  draw();
}

const KEYS = {
  ArrowDown: () => step(1), j: () => step(1), ArrowUp: () => step(-1), k: () => step(-1),
  i: () => toggle("invert"), h: () => toggle("shown"), r: () => { resetView(); draw(); }, Enter: () => save(),
};

function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    const typing = ["TEXTAREA", "SELECT"].includes(target.tagName) || (target.tagName === "INPUT" && !["radio", "checkbox"].includes(target.type));
    if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
    // A focused button or link keeps Enter.
    if (event.key === "Enter" && ["BUTTON", "A"].includes(target.tagName)) return;
    const place = /^[0-9]$/.test(event.key) ? (Number(event.key) || classes.length + 1) - 1 : -1;
    if (place >= 0) {
      const button = document.querySelectorAll('input[name="verdict"]')[place];
      if (button && !button.disabled) {
        button.checked = true;
        allowSave();
      }
    } else if (KEYS[event.key]) {
      KEYS[event.key]();
    } else {
      return;
    }
    event.preventDefault();
  });
}

function listen() {
  // Not click: the list may be drawn anew between the press and the release of the button.
  at("rows").addEventListener("mousedown", (event) => {
    const row = event.target.closest("tr");
    if (row && event.button === 0) choose(row.dataset.key);
  });
  for (const id of ["sort", "filter"]) at(id).addEventListener("change", showList);
  at("search").addEventListener("input", showList);
  at("blind").addEventListener("change", () => { showList(); showResult(items.get(chosen)); draw(); });
  at("reader").addEventListener("input", allowSave);
  at("reader").addEventListener("change", () => {
    since = 0;
    for (const item of items.values()) Object.assign(item, { verdict: null, remark: "" });
    const showChosen = () => { if (items.has(chosen)) showVerdict(items.get(chosen)); };
    showChosen();
    showList();
    // The answer must not undo what was entered meanwhile.
    fetchItems().then(() => { if (!verdictNow() && !at("remark").value) showChosen(); }).catch(() => {});
  });
  at("save").addEventListener("click", save);
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("reset").addEventListener("click", () => { resetView(); draw(); });
  for (const id of ["invert", "shown", "opacity"]) at(id).addEventListener("input", draw);
  at("compare").addEventListener("click", compare);
  at("export").addEventListener("click", exportVerdicts);
  at("choose").addEventListener("click", () => at("files").click());
  at("files").addEventListener("change", () => { add([...at("files").files]); at("files").value = ""; });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => { event.preventDefault(); add([...event.dataTransfer.files]); });
  listenOnCanvas();
  listenToKeys();
}

async function start() {
  const answer = await ask("v1/model");
  if (!answer.ok) throw new Error(answer.status === 401 ? "the server requires a login" : "the server does not respond");
  const model = await answer.json();
  at("title").textContent = model.title;
  classes = model.classes.map((one) => one.name);
  for (const one of model.classes) colours.set(one.name, one.colour);
  at("sort").replaceChildren(...classes.map((name) => {
    const option = make("option", `probability of ${name}`);
    option.value = name;
    return option;
  }), Object.assign(make("option", "name"), { value: "name" }));
  verdictButtons();
  showList();
  await poll();
}

listen();
start().catch((error) => { at("title").textContent = error.message; });
