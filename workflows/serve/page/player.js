// One clip: the video at its moment, the question's score over all of it, previews, and why it answers.

import { BASE, Problem, call, query } from "./api.js";
import { byId, clock, make } from "./dom.js";

let shown = null; // { hit, project, question, video, seconds, sheet }

export const current = () => shown && shown.hit;

export function close() {
  shown = null;
  byId("player").hidden = true;
  document.querySelector("main").classList.remove("open");
  byId("screen").replaceChildren();
}

export async function open(project, hit, question, { play = true } = {}) {
  const base = `${BASE}/projects/${encodeURIComponent(project)}/clips/${hit.clip}`;
  const mine = (shown = { hit, project, question, base, seconds: hit.end_seconds, sheet: null, still: false, play });
  byId("player").hidden = false;
  document.querySelector("main").classList.add("open");
  byId("title").textContent = hit.title;
  byId("fallback").hidden = true;
  byId("reasons").hidden = true;
  byId("why").setAttribute("aria-expanded", "false");
  byId("curve").replaceChildren();
  byId("times").textContent = `${clock(hit.start_seconds)} to ${clock(hit.end_seconds)}`;
  showFacts(hit);
  const video = make("video", { controls: true, playsinline: true, preload: "metadata", "aria-label": hit.title });
  video.src = hit.media.replace(/^\//, "");
  video.muted = false;
  video.addEventListener("timeupdate", () => mine === shown && moved(video.currentTime));
  video.addEventListener("loadedmetadata", () => {
    if (mine !== shown) return;
    if (!video.videoWidth) convert(mine); // its sound plays, and its pictures are in a codec that the browser lacks
    if (Number.isFinite(video.duration)) setLength(video.duration);
    if (Math.abs(video.currentTime - hit.start_seconds) > 0.3) video.currentTime = hit.start_seconds;
  });
  video.addEventListener("error", () => mine === shown && convert(mine));
  mine.video = video;
  byId("screen").replaceChildren(video);
  setLength(hit.end_seconds);
  moved(hit.start_seconds);
  if (play) video.play().catch(() => {}); // the browser may want a click first; the controls are there
  drawTimeline(mine);
  loadSheet(mine);
}

// For files that this browser cannot play: pictures, until the server has converted the file, which it does once.
async function convert(mine) {
  const { video, hit } = mine;
  const say = (text) => {
    byId("fallback").textContent = text;
    byId("fallback").hidden = !text;
  };
  if (mine.converted) return showStill(hit.start_seconds);
  mine.converted = `${mine.base}/playable`;
  say("This browser cannot play this file: it is being converted. Until then, move through its pictures.");
  const isSound = !video.error;
  if (!isSound) showStill(hit.start_seconds);
  try {
    await call(mine.converted.slice(BASE.length + 1), { headers: { range: "bytes=0-0" } });
  } catch (error) {
    if (mine === shown) say(isSound ? "" : `This browser cannot play this file. Below the picture, move through its pictures. (${error.message})`);
    return;
  }
  if (mine !== shown) return;
  say("");
  mine.still = false;
  video.src = `${mine.converted}#t=${hit.start_seconds.toFixed(3)},${hit.end_seconds.toFixed(3)}`;
  byId("screen").replaceChildren(video);
  if (mine.play) video.play().catch(() => {});
}

// The picture of the moment, and of wherever the slider goes.
function showStill(seconds) {
  shown.still = true;
  const address = `${shown.base}/thumbnail?side=480&t=${seconds.toFixed(1)}`;
  byId("screen").replaceChildren(make("img", { src: address, alt: `${shown.hit.title} at ${clock(seconds)}` }));
  moved(seconds);
}

function setLength(seconds) {
  shown.seconds = Math.max(seconds, 0.1);
  byId("position").max = shown.seconds;
}

function moved(seconds) {
  const position = byId("position");
  position.value = seconds;
  position.setAttribute("aria-valuetext", clock(seconds));
  const line = byId("curve").querySelector(".now");
  const x = (1000 * seconds) / shown.seconds;
  if (line) line.setAttribute("x1", x), line.setAttribute("x2", x);
}

export function seek(seconds) {
  if (!shown) return;
  const to = Math.min(Math.max(seconds, 0), shown.seconds);
  if (shown.still) showStill(to);
  else shown.video.currentTime = to;
}

export const step = (seconds) => seek((shown.still ? Number(byId("position").value) : shown.video.currentTime) + seconds);

export function toggle() {
  if (!shown || shown.still) return;
  if (shown.video.paused) shown.video.play().catch(() => {});
  else shown.video.pause();
}

export function playMoment() {
  seek(shown.hit.start_seconds);
  if (!shown.still) shown.video.play().catch(() => {});
}

async function drawTimeline(mine) {
  let line = { windows: [], seconds: mine.seconds };
  try {
    const path = `projects/${encodeURIComponent(mine.project)}/clips/${mine.hit.clip}/timeline?${query(mine.question)}`;
    line = await call(path);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (mine === shown) byId("times").textContent += ` · no curve: ${error.message}`;
  }
  if (mine !== shown) return;
  setLength(Math.max(line.seconds, Number.isFinite(mine.video.duration) ? mine.video.duration : 0));
  const scale = 1000 / shown.seconds;
  const { start_seconds: start, end_seconds: end } = mine.hit;
  const parts = [make("rect", { class: "clip", x: start * scale, y: 0, width: Math.max(2, (end - start) * scale), height: 100 })];
  if (line.windows.length) {
    const scores = line.windows.map((one) => one.score);
    const least = Math.min(...scores);
    const range = Math.max(...scores) - least || 1;
    const points = line.windows.flatMap((one) => {
      const y = 92 - (80 * (one.score - least)) / range;
      return [`${one.start_seconds * scale},${y}`, `${one.end_seconds * scale},${y}`];
    });
    const last = line.windows.at(-1).end_seconds * scale;
    parts.push(make("path", { class: "area", d: `M0,101 L${points.join(" L")} L${last},101 Z` }));
    const best = line.windows.reduce((a, b) => (b.score > a.score ? b : a));
    byId("times").textContent =
      `${clock(start)} to ${clock(end)} · best second of the video: ${clock(best.start_seconds)} (cosine ${best.score.toFixed(3)})`;
  }
  parts.push(make("line", { class: "now", x1: 0, x2: 0, y1: 0, y2: 100 }));
  byId("curve").replaceChildren(...parts);
  moved(mine.still ? Number(byId("position").value) : mine.video.currentTime);
}

// The sheet's tiles by their seconds, as its WebVTT says.
async function loadSheet(mine) {
  const answer = await fetch(`${mine.base}/sprite.vtt`).catch(() => null);
  if (!answer || !answer.ok || mine !== shown) return;
  const text = await answer.text();
  const seconds = (stamp) => stamp.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
  const tile = /(\S+) --> (\S+)\n\S+#xywh=(\d+),(\d+),(\d+),(\d+)/g;
  mine.sheet = [...text.matchAll(tile)].map((one) => ({ start: seconds(one[1]), end: seconds(one[2]), box: one.slice(3, 7).map(Number) }));
}

export function preview(event) {
  const box = byId("preview");
  const area = byId("line").getBoundingClientRect();
  const seconds = ((event.clientX - area.left) / area.width) * (shown ? shown.seconds : 0);
  const tile = shown && shown.sheet && shown.sheet.find((one) => seconds >= one.start && seconds < one.end);
  box.hidden = !tile;
  if (!tile) return;
  const [x, y, width, height] = tile.box;
  box.style.width = `${width}px`;
  box.style.height = `${height}px`;
  box.style.backgroundImage = `url("${shown.base}/sprite")`;
  box.style.backgroundPosition = `-${x}px -${y}px`;
  box.style.left = `${Math.min(Math.max(0, event.clientX - area.left - width / 2), area.width - width)}px`;
}

function showFacts(hit) {
  const scores = (hit.scores || []).map((one) => `${one.name} ${one.value.toFixed(3)}`).join(", ");
  const rows = [["Score", scores && `${scores} (orders answers, is no probability)`], ["Says", (hit.captions || []).join(" / ")], ["Split", hit.split]];
  rows.push(...Object.entries(hit.metadata || {}));
  byId("facts").replaceChildren(
    ...rows.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]),
  );
}

export async function explain() {
  const mine = shown;
  const box = byId("reasons");
  box.hidden = !box.hidden;
  byId("why").setAttribute("aria-expanded", String(!box.hidden));
  if (box.hidden) return;
  box.replaceChildren(make("p", {}, "Looking for the reasons…"));
  try {
    const path = `projects/${encodeURIComponent(mine.project)}/clips/${mine.hit.clip}/why?${query(mine.question)}`;
    const found = await call(path);
    if (mine === shown) box.replaceChildren(...reasons(found));
  } catch (error) {
    if (mine === shown) box.replaceChildren(make("p", {}, error.message));
  }
}

function reasons(found) {
  const parts = [];
  const senses = Object.entries(found.senses);
  if (senses.length) parts.push(make("h3", {}, "Senses"), make("p", {}, senses.map(([name, value]) => `${name} ${value.toFixed(3)}`).join(", ")));
  if (found.words.length) {
    const items = found.words.map((one) => make("li", { class: one.value < 0 ? "less" : null }, `${one.word} ${one.value >= 0 ? "+" : ""}${one.value.toFixed(3)}`));
    parts.push(make("h3", {}, "What each word adds"), make("ul", { class: "words" }, ...items));
  }
  if (found.seconds.length) {
    const best = [...found.seconds].sort((a, b) => b.score - a.score).slice(0, 5);
    const items = best.map((one) => make("li", {}, make("button", { type: "button", onclick: () => seek(one.start_seconds) }, `${clock(one.start_seconds)} (${one.score.toFixed(3)})`)));
    parts.push(make("h3", {}, "Best seconds"), make("ul", { class: "words" }, ...items));
  }
  if (found.speech.length) {
    const items = found.speech.map((one) => make("li", {}, `${clock(one.start_seconds)} “${one.text}”`));
    parts.push(make("h3", {}, "Said"), make("ul", {}, ...items));
  }
  return parts;
}
