"use strict";

const colours = new Map();
let limits = null;
let running = null;

// The model

function modelRows(facts, trainedOn) {
  const data = facts.training || {};
  const rows = [["Network", facts.network], ["Weights", `${facts.weights}${facts.frozen ? ", frozen" : ""}`]];
  const folds = (facts.folds || []).filter((fold) => fold !== null);
  rows.push(["Models", folds.length ? `${facts.folds.length} (test fold ${folds.join(", ")})` : `${facts.folds.length}`]);
  rows.push(["Trained on", trainedOn ? `${trainedOn}${data.images ? `, ${imagesOf(data.images)}` : ""}` : "not available"]);
  rows.push(["Input", `${facts.image_size} × ${facts.image_size} pixels`]);
  return rows;
}

function imagesOf(images) {
  if (typeof images === "number") return `${images} ${images === 1 ? "image" : "images"}`;
  return Object.entries(images).map(([name, number]) => `${number} ${name}`).join(", ");
}

async function showModel() {
  const answer = await ask("v1/model");
  if (!answer.ok) throw new Error(answer.status === 401 ? "the server requires a login" : String(answer.status));
  const model = await answer.json();
  for (const one of model.classes) colours.set(one.name, one.colour);
  limits = model.limits;
  at("title").textContent = model.title;
  at("allowed").textContent =
    `One frontal image: JPEG, PNG, TIFF, BMP or DICOM, up to ${limits.max_megabytes} MB and ${limits.max_megapixels} megapixels.`;
  at("model").replaceChildren(...modelRows(model.facts, model.trained_on).flatMap(([name, text]) => [make("dt", name), make("dd", text)]));
  at("notes").replaceChildren(...model.notes.map((text) => make("li", text)));
  at("card-text").replaceChildren(...cardParts(model.card || model.notes.join("\n\n") || "not available"));
}

// The model card: enough of Markdown for headings, lists, tables, code and paragraphs

function inline(text, into) {
  const pattern = /\*\*(.+?)\*\*|`([^`]+)`|\[([^\]]+)\]\(([^)\s]+)\)|\*([^*\s][^*]*)\*/g;
  let from = 0;
  for (const found of text.matchAll(pattern)) {
    into.append(text.slice(from, found.index));
    if (found[1] !== undefined) into.append(make("strong", found[1]));
    else if (found[2] !== undefined) into.append(make("code", found[2]));
    else if (found[5] !== undefined) into.append(make("em", found[5]));
    else into.append(found[3] === found[4] ? found[3] : `${found[3]} (${found[4]})`);
    from = found.index + found[0].length;
  }
  into.append(text.slice(from));
  return into;
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function tableOf(lines) {
  const table = make("table");
  const body = [];
  lines.forEach((line, number) => {
    if (/^[\s|:-]+$/.test(line) && line.includes("-")) return;
    const row = make("tr");
    for (const cell of cells(line)) row.append(inline(cell, make(number === 0 && lines.length > 1 ? "th" : "td")));
    body.push(row);
  });
  table.append(...body);
  const wide = make("div", undefined, "wide");
  wide.append(table);
  return wide;
}

function cardParts(markdown) {
  const lines = markdown.split(/\r?\n/);
  const parts = [];
  const take = (test) => {
    const found = [];
    while (lines.length && test(lines[0])) found.push(lines.shift());
    return found;
  };
  const bullet = /^\s*(?:[-*]|\d+\.)\s+/;
  const special = (line) => !line.trim() || /^(#|\||>|```)/.test(line) || bullet.test(line);
  while (lines.length) {
    const line = lines[0];
    if (!line.trim()) {
      lines.shift();
    } else if (line.startsWith("```")) {
      lines.shift();
      parts.push(make("pre", take((one) => !one.startsWith("```")).join("\n")));
      lines.shift();
    } else if (/^#+\s/.test(line)) {
      const [, marks, text] = lines.shift().match(/^(#+)\s+(.*)$/);
      // The dialog already has the card's title.
      if (marks.length > 1 || !/^model card/i.test(text)) parts.push(inline(text, make(marks.length < 3 ? "h3" : "h4")));
    } else if (line.startsWith(">")) {
      const quote = make("blockquote");
      const inner = take((one) => one.startsWith(">")).map((one) => one.replace(/^>\s?/, ""));
      quote.append(...cardParts(inner.join("\n")));
      parts.push(quote);
    } else if (line.startsWith("|")) {
      parts.push(tableOf(take((one) => one.startsWith("|"))));
    } else if (bullet.test(line)) {
      const list = make(/^\s*\d/.test(line) ? "ol" : "ul");
      let last = null;
      for (const one of take((two) => bullet.test(two) || /^\s{2,}\S/.test(two))) {
        if (bullet.test(one)) {
          last = inline(one.replace(bullet, ""), make("li"));
          list.append(last);
        } else {
          last.append(" ");
          inline(one.trim(), last);
        }
      }
      parts.push(list);
    } else {
      parts.push(inline([lines.shift(), ...take((one) => !special(one))].join(" "), make("p")));
    }
  }
  return parts;
}

// One image

function clear() {
  for (const id of ["image", "heat", "tools", "refused", "answer", "busy"]) at(id).hidden = true;
  for (const id of ["preview", "heat"]) at(id).removeAttribute("src");
  for (const id of ["shown", "opacity"]) at(id).disabled = true;
  at("caption").textContent = "";
  at("map-notes").replaceChildren();
}

function showBars(answer) {
  const spread = answer.members.standard_deviation;
  const rows = Object.entries(answer.probabilities).map(([name, share]) => {
    const row = make("li", undefined, name === answer.prediction ? "first" : "");
    row.style.setProperty("--class", colours.get(name) || "#888");
    const track = make("span", undefined, "track");
    const fill = make("span", undefined, "fill");
    fill.style.width = `${100 * share}%`;
    track.append(fill);
    if (spread) {
      const line = make("span", undefined, "spread");
      const low = Math.max(0, share - spread[name]);
      line.style.left = `${100 * low}%`;
      line.style.width = `${100 * (Math.min(1, share + spread[name]) - low)}%`;
      track.append(line);
    }
    const number = make("span", percent(share), "number");
    if (spread) number.append(make("span", ` ± ${(100 * spread[name]).toFixed(1)}`, "small"));
    track.setAttribute("aria-hidden", "true");
    row.append(make("span", name, "name"), track, number);
    return row;
  });
  at("bars").replaceChildren(...rows);
}

function showAnswer(answer) {
  at("preview").src = answer.preview;
  for (const id of ["image", "tools"]) at(id).hidden = false;
  at("prediction").textContent = answer.prediction;
  showBars(answer);
  at("calibration").textContent = answer.calibrated
    ? "Calibrated probabilities (temperature scaling)."
    : "Not calibrated: such probabilities are usually overconfident.";
  const { count, agreement } = answer.members;
  at("members").textContent =
    count > 1 ? `${Math.round(agreement * count)} of ${count} models predict ${answer.prediction}.` : "";
  at("members-how").textContent =
    count > 1 ? "±: standard deviation over the models, in percentage points." : "A single model: no measure of disagreement.";
  at("quality").replaceChildren(...answer.quality.map((flag) => make("li", sentence(flag.text))));
  at("no-warning").hidden = answer.quality.length > 0;
  // Warnings are visible before the numbers are read.
  at("answer").classList.toggle("doubtful", answer.quality.length > 0);
  const image = answer.image;
  at("facts").textContent = `${image.width} × ${image.height} pixels, stored as ${image.mode}; answered in ${answer.seconds.toFixed(2)} s.`;
  showHeat(answer);
  at("answer").hidden = false;
}

function showHeat(answer) {
  const heat = answer.heat;
  at("tools").classList.toggle("bare", !heat || heat.empty);
  if (!heat) {
    at("caption").textContent = "This exported model draws no heat map; its checkpoint does.";
    return;
  }
  if (heat.empty) {
    at("caption").textContent = `Heat map: no part of the image is evidence for ${heat.class}.`;
    return;
  }
  at("heat").src = heat.image;
  at("heat").alt = `Heat map of the evidence for ${heat.class}`;
  for (const id of ["shown", "opacity"]) at(id).disabled = false;
  at("caption").textContent =
    `Grad-CAM for ${heat.class}: where the model looked. Each image has its own scale.`;
  // The results of the tests of this model's maps are displayed beside the map, not on another page.
  at("map-notes").replaceChildren(...heat.notes.map((text) => make("li", sentence(text))));
  applyOpacity();
}

function applyOpacity() {
  const value = at("opacity").value;
  at("percent").textContent = `${value} %`;
  at("heat").style.opacity = String(value / 100);
  at("heat").hidden = !at("shown").checked || !at("heat").hasAttribute("src");
}

function showRefusal(error, title) {
  at("refused-title").textContent = title;
  at("refused-cause").textContent = sentence(error.cause);
  at("refused-remedy").textContent = sentence(error.remedy);
  at("refused").hidden = false;
  at("drop").hidden = false;
}

const REFUSED = "This file was refused";
const TITLES = {
  408: "The upload took too long",
  429: "Too many images at once",
  500: "The server failed",
  503: "The server is busy",
  unsuitable_image: "This image was refused",
};

async function send(file) {
  if (running) running.abort();
  const mine = new AbortController();
  running = mine;
  clear();
  at("waiting").hidden = true;
  at("drop").hidden = true;
  at("busy").hidden = false;
  try {
    if (limits && file.size > 1e6 * limits.max_megabytes) {
      const cause = `the file has ${(file.size / 1e6).toFixed(0)} MB; the limit is ${limits.max_megabytes} MB`;
      showRefusal({ cause, remedy: "send one image, not an archive or a series, or export it smaller" }, REFUSED);
      return;
    }
    // Only the bytes: a form would also send the file's name.
    const headers = { "Content-Type": "application/octet-stream" };
    const answer = await ask("v1/predict", { method: "POST", body: file, headers, signal: mine.signal });
    const found = await answer.json();
    if (mine !== running) return;
    if (answer.ok) showAnswer(found);
    else showRefusal(found.error, TITLES[answer.status] || TITLES[found.error.code] || REFUSED);
  } catch (error) {
    if (mine !== running || error.name === "AbortError") return;
    showRefusal({ cause: "the server does not respond", remedy: "check that it is still running, and try again" }, "No response");
  } finally {
    if (mine === running) at("busy").hidden = true;
  }
}

function sendOne(files) {
  if (files.length === 1) {
    send(files[0]);
  } else if (files.length > 1) {
    if (running) running.abort();
    running = null;
    clear();
    at("waiting").hidden = true;
    showRefusal({ cause: `${files.length} files at once`, remedy: "give one image at a time" }, "One image at a time");
  }
}

function listen() {
  const file = at("file");
  for (const id of ["choose", "another"]) at(id).addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    sendOne([...file.files]);
    // The same file can be chosen again.
    file.value = "";
  });
  let depth = 0;
  const over = (change) => {
    depth = Math.max(0, depth + change);
    at("stage").classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    sendOne([...event.dataTransfer.files]);
  });
  at("opacity").addEventListener("input", applyOpacity);
  at("shown").addEventListener("change", applyOpacity);
  at("open-card").addEventListener("click", () => at("card").showModal());
  at("close-card").addEventListener("click", () => at("card").close());
}

listen();
showModel().catch((error) => {
  at("title").textContent = /login/.test(error.message) ? error.message : "the server does not respond";
});
