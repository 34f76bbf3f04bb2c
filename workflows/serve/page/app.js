// The page: what is asked lives in the address, and everything shown follows from it.

import { BASE, Problem, call, openSession, query } from "./api.js";
import { byId, clock, make } from "./dom.js";
import * as player from "./player.js";
import { showStatus } from "./status.js";

const TOP = 24;
let project = null; // what the server says of it
let state = {};
let hits = [];
let running = null;
let recorder = null;

const NAMES = { all: "everything", sight: "sight", sound: "sound", "sight+sound": "sight and sound", speech: "speech" };
const asked = () => ({ q: state.like || state.question ? null : state.q, like: state.like, question: state.question, sense: state.sense === "all" ? null : state.sense });

function read() {
  const given = new URLSearchParams(location.search);
  const text = (name) => given.get(name) || "";
  state = {
    p: text("p"), q: text("q"), sense: text("sense") || "all", like: text("like"), question: text("question"), file: text("file"),
    within: text("within"), where: given.getAll("where"), merge: given.has("merge"), offset: Number(text("offset")) || 0, clip: text("clip"),
  };
}

function address(changes = {}) {
  const next = { ...state, ...changes };
  if (next.sense === "all") next.sense = "";
  return `?${query({ ...next, merge: next.merge ? 1 : "", offset: next.offset || "" })}`;
}

async function go(changes, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address(changes));
  await show();
}

function say(text, bad = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("bad", bad);
}

async function show() {
  const before = JSON.stringify({ ...state, clip: "" });
  read();
  if (!project || (state.p && state.p !== project.name)) await choose(state.p);
  byId("q").value = state.q;
  byId("sense").value = state.sense;
  byId("merge").checked = state.merge;
  drawFilters();
  drawChips();
  document.title = state.q ? `${state.q} · frameloom` : "frameloom";
  if (JSON.stringify({ ...state, clip: "" }) !== before || !hits.length) await search();
  const hit = hits.find((one) => one.clip === state.clip);
  if (!state.clip) player.close();
  else if (!player.current() || player.current().clip !== state.clip) {
    const found = hit || (await call(`projects/${encodeURIComponent(project.name)}/clips/${state.clip}`).catch(() => null));
    if (found) await player.open(project.name, found, asked());
    else say("This clip is not in the project any more.", true);
  }
  mark();
}

async function search() {
  if (running) running.abort();
  const mine = (running = new AbortController());
  if (!state.q && !state.like && !state.question) {
    hits = [];
    drawHits({ offset: 0, next: null });
    say(project.clips ? welcome() : "Nothing is indexed yet: run `frameloom sync` in the project's folder.");
    return;
  }
  say("Searching…");
  // Everything is compared: what is said as well, where the project knows it.
  const isHybrid = state.sense === "all" && state.q && !state.like && !state.question && !state.merge && project.senses.includes("speech");
  const values = { ...asked(), hybrid: isHybrid ? "true" : null, where: state.where, within: state.within, merge: state.merge ? "true" : null, top: TOP, offset: state.offset || null };
  try {
    const found = await call(`projects/${encodeURIComponent(project.name)}/search?${query(values)}`, { signal: mine.signal });
    hits = found.results;
    drawHits(found);
    const last = found.offset + hits.length;
    if (hits.length) say(`${found.offset + 1} to ${last} of ${found.pool} clips, ${found.seconds.toFixed(2)} s`);
    else say(state.where.length || state.within ? "No clip passes the filters. Take one away." : "No clip answers this question. Try other words.");
  } catch (error) {
    if (error.name === "AbortError") return;
    hits = [];
    drawHits({ offset: 0, next: null });
    say(error.message, true);
    if (error.status === 404 && state.question) say("This file is not known any more: drop it again.", true);
  } finally {
    if (running === mine) running = null;
  }
}

function welcome() {
  const ways = [project.words ? "Write what you look for" : null, project.files.length ? "drop a file" : null].filter(Boolean);
  return `${ways.join(", or ")}. ${project.clips} clips can be found. Press ? for keys.`;
}

function drawHits(found) {
  const best = Math.max(...hits.map((one) => one.score), 0.0001);
  byId("results").replaceChildren(...hits.map((hit, place) => {
    const span = `${clock(hit.start_seconds)}–${clock(hit.end_seconds)}`;
    const picture = make("img", { src: hit.thumbnail.replace(/^\//, ""), alt: "", loading: place < 12 ? null : "lazy" });
    picture.addEventListener("error", () => retry(picture), { once: false });
    const bar = make("i");
    bar.style.width = `${Math.max(2, (100 * hit.score) / best)}%`;
    const scores = hit.scores.map((one) => `${one.name} ${one.value.toFixed(3)}`).join(", ");
    const says = hit.captions[0] || "";
    const button = make("button", { type: "button", class: "hit", "data-clip": hit.clip, "aria-label": `${hit.rank}. ${hit.title}, ${span}. ${says} ${scores}`, onclick: () => go({ clip: hit.clip }) },
      make("span", { class: "frame" }, picture, make("span", { class: "rank" }, String(hit.rank)), make("span", { class: "span" }, span)),
      make("span", { class: "text" }, make("span", { class: "name" }, hit.title), says ? make("span", { class: "small says" }, says) : null, make("span", { class: "small" }, scores), make("span", { class: "bar" }, bar)));
    return make("li", {}, button);
  }));
  byId("pages").hidden = !found.offset && found.next === null;
  byId("previous").disabled = !found.offset;
  byId("next").disabled = found.next === null;
}

function retry(picture) { // a busy server draws it a little later
  const tries = Number(picture.dataset.tries || 0);
  if (tries >= 3) return;
  picture.dataset.tries = tries + 1;
  setTimeout(() => { picture.src = picture.src.replace(/&again=\d+$/, ""); }, 1500 * (tries + 1));
}

function mark() {
  for (const button of document.querySelectorAll(".hit")) {
    const is = button.dataset.clip === state.clip;
    if (is) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    if (is) button.scrollIntoView({ block: "nearest" });
  }
}

async function choose(name) {
  const known = await call("projects");
  if (!known.length) throw new Problem(0, "This server has no project.");
  const chosen = known.some((one) => one.name === name) ? name : known[0].name;
  byId("project").replaceChildren(...known.map((one) => make("option", { value: one.name }, one.name)));
  byId("project").value = chosen;
  byId("project").parentElement.hidden = known.length < 2;
  project = await call(`projects/${encodeURIComponent(chosen)}`);
  const senses = ["all", ...project.senses];
  byId("sense").replaceChildren(...senses.map((one) => make("option", { value: one }, NAMES[one])));
  byId("q").disabled = !project.words;
  if (!project.words) byId("q").placeholder = "This project knows no words: drop a file";
  const hears = project.files.includes("audio");
  byId("microphone").hidden = !hears || !navigator.mediaDevices;
  byId("file").parentElement.hidden = !project.files.length;
  byId("file").accept = project.files.map((one) => `${one}/*`).join(",");
}

// --- filters -------------------------------------------------------------------------------------------------------------

function drawFilters() {
  const set = new Map(state.where.map((one) => [one.split(":").slice(0, 2).join(":"), one.split(":").slice(2).join(":")]));
  byId("num-filters").textContent = state.where.length ? `(${state.where.length})` : "";
  const field = (column, operator, more, name) => {
    const input = make("input", { "data-filter": `${column.name}:${operator}`, "aria-label": name, ...more });
    input.value = set.get(`${column.name}:${operator}`) || "";
    input.addEventListener("change", filter);
    return input;
  };
  byId("columns").replaceChildren(...project.columns.filter((one) => one.least !== null || one.type === "string" || one.values).filter((one) => !one.values || one.values.length).map((column) => {
    if (column.values && column.values.length) {
      const select = make("select", { "data-filter": `${column.name}:eq` }, make("option", { value: "" }, "any"), ...column.values.map((one) => make("option", { value: String(one) }, String(one))));
      select.value = set.get(`${column.name}:eq`) || "";
      select.addEventListener("change", filter);
      return make("label", {}, column.name, select);
    }
    if (column.type === "string") return make("label", {}, `${column.name} contains`, field(column, "has", { maxlength: 200 }, `${column.name} contains`));
    const more = { type: "number", step: column.type === "int64" ? 1 : "any" };
    return make("fieldset", {}, make("legend", {}, column.name), make("div", { class: "pair" },
      field(column, "ge", { ...more, placeholder: column.least }, `${column.name} at least`), "to", field(column, "le", { ...more, placeholder: column.largest }, `${column.name} at most`)));
  }));
}

function filter() {
  const where = [...document.querySelectorAll("[data-filter]")].filter((one) => one.value !== "").map((one) => `${one.dataset.filter}:${one.value}`);
  go({ where, offset: 0, clip: "" });
}

function drawChips() {
  const chip = (text, changes) => make("li", {}, make("button", { type: "button", "aria-label": `Leave out: ${text}`, onclick: () => go({ offset: 0, clip: "", ...changes }) }, `${text} ✕`));
  byId("chips").replaceChildren(...[
    state.question ? chip(state.file || "an uploaded file", { question: "", file: "" }) : null,
    state.like ? chip("like a clip", { like: "" }) : null,
    state.within ? chip("only one video", { within: "" }) : null,
    ...state.where.map((one) => chip(one.replace(/:(\w+):/, " $1 "), { where: state.where.filter((other) => other !== one) })),
  ].filter(Boolean));
}

// --- files and sound -----------------------------------------------------------------------------------------------------

async function upload(file) {
  const kind = file.type.split("/")[0];
  if (!project.files.includes(kind)) return say(`${file.name}: this project is asked with ${project.files.join(", ") || "words"}.`, true);
  if (file.size > project.upload_bytes) return say(`${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MB; ${(project.upload_bytes / 2 ** 20).toFixed(0)} are allowed.`, true);
  say(`Reading ${file.name}…`);
  try {
    const words = byId("q").value.trim();
    const path = `projects/${encodeURIComponent(project.name)}/questions?${query({ kind, q: words })}`;
    const { question } = await call(path, { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
    await go({ question, file: words ? `${file.name} with “${words}”` : file.name, q: words, like: "", offset: 0, clip: "" });
  } catch (error) {
    say(`${file.name}: ${error.message}`, true);
  }
}

async function record() {
  const button = byId("microphone");
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const pieces = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
    recorder.addEventListener("stop", () => {
      stream.getTracks().forEach((one) => one.stop());
      button.setAttribute("aria-pressed", "false");
      button.textContent = "Microphone";
      recorder = null;
      upload(new File(pieces, "a sound from the microphone", { type: "audio/webm" }));
    });
    recorder.start();
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Stop and search";
    setTimeout(() => recorder && recorder.state === "recording" && recorder.stop(), 15000);
  } catch (error) {
    recorder = null;
    say(`The microphone cannot be used: ${error.message}`, true);
  }
}

// --- keys ----------------------------------------------------------------------------------------------------------------

function play(place) {
  if (hits[place]) go({ clip: hits[place].clip }, { replace: Boolean(state.clip) });
}

function key(event) {
  const typing = event.target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (byId("filters").open) byId("filters").open = false;
    else if (state.clip) closePlayer();
    return;
  }
  if (typing) return;
  const place = hits.findIndex((one) => one.clip === state.clip);
  const isButton = event.target.matches("button, summary, input");
  const actions = {
    "/": () => byId("q").focus(),
    "?": () => byId("help").showModal(),
    ArrowDown: () => play(place + 1),
    ArrowUp: () => place > 0 && play(place - 1),
    ArrowLeft: state.clip ? () => player.step(-1) : null,
    ArrowRight: state.clip ? () => player.step(1) : null,
    " ": state.clip && !isButton ? () => player.toggle() : null,
  };
  const action = /^[1-9]$/.test(event.key) ? () => play(Number(event.key) - 1) : actions[event.key];
  if (!action || (event.target.matches("video") && event.key === " ")) return;
  event.preventDefault();
  action();
}

function closePlayer() {
  const clip = state.clip;
  go({ clip: "" }).then(() => {
    const button = document.querySelector(`[data-clip="${CSS.escape(clip)}"]`);
    if (button) button.focus();
  });
}

// --- everything together -------------------------------------------------------------------------------------------------

function listen() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    go({ q: byId("q").value.trim(), like: "", question: "", file: "", offset: 0, clip: "" });
  });
  byId("sense").addEventListener("change", () => go({ sense: byId("sense").value, offset: 0, clip: "" }));
  byId("merge").addEventListener("change", () => go({ merge: byId("merge").checked, offset: 0, clip: "" }));
  byId("project").addEventListener("change", () => go({ p: byId("project").value, like: "", question: "", within: "", where: [], offset: 0, clip: "" }));
  byId("previous").addEventListener("click", () => go({ offset: Math.max(0, state.offset - TOP), clip: "" }));
  byId("next").addEventListener("click", () => go({ offset: state.offset + TOP, clip: "" }));
  byId("close").addEventListener("click", closePlayer);
  byId("moment").addEventListener("click", () => player.playMoment());
  byId("similar").addEventListener("click", () => go({ like: state.clip, q: "", question: "", file: "", offset: 0, clip: "" }));
  byId("within").addEventListener("click", () => go({ within: state.clip, offset: 0 }));
  byId("why").addEventListener("click", () => player.explain());
  byId("link").addEventListener("click", async () => {
    const text = location.origin + location.pathname + address();
    await navigator.clipboard.writeText(text).then(() => say("The link is copied."), () => say(text));
  });
  byId("position").addEventListener("input", (event) => player.seek(Number(event.target.value)));
  byId("line").addEventListener("pointermove", player.preview);
  byId("line").addEventListener("pointerleave", () => { byId("preview").hidden = true; });
  byId("file").addEventListener("change", (event) => { if (event.target.files[0]) upload(event.target.files[0]); event.target.value = ""; });
  byId("microphone").addEventListener("click", record);
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  byId("show-status").addEventListener("click", () => showStatus(project.name));
  byId("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
  });
  addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").hidden = false; });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
  addEventListener("drop", (event) => { event.preventDefault(); byId("drop").hidden = true; if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]); });
  addEventListener("keydown", key);
  addEventListener("popstate", () => show().catch(fail));
}

const fail = (error) => say(error.status === 401 ? "This server wants its token: open the address that `frameloom serve` printed." : error.message, true);
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
listen();
openSession().then(show).catch(fail);
