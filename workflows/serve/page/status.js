// The view of the project: what is indexed, what failed and why, and when it was last written.

import { BASE, call } from "./api.js";
import { byId, make } from "./dom.js";

export async function showStatus(name) {
  const box = byId("status-body");
  byId("status-title").textContent = `Project ${name}`;
  box.replaceChildren(make("p", {}, "Looking at the project…"));
  byId("status").showModal();
  try {
    const found = await call(`projects/${encodeURIComponent(name)}/status`);
    box.replaceChildren(...parts(name, found));
  } catch (error) {
    box.replaceChildren(make("p", {}, error.message));
  }
}

function parts(name, found) {
  const rows = (list) => make("dl", {}, ...list.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, String(text))]));
  const kinds = Object.entries(found.outcomes).filter(([, count]) => count).map(([kind, count]) => `${count} ${kind}`);
  const out = [rows([
    ["Videos", `${found.discovered}: ${kinds.join(", ")}`],
    ["Rows", `${found.rows}, version ${found.version}`],
    ["Store", `${(found.store_bytes / 2 ** 20).toFixed(1)} MB`],
    ...found.features.map((one) => [one.modality, [one.backbone, ...Object.entries(one.statuses).map(([kind, count]) => `${count} ${kind}`)].join(", ")]),
    ["Due", found.due.join(", ") || "nothing: everything is up to date"],
  ])];
  out.push(make("h3", {}, "Not wholly indexed"));
  if (found.files.length) {
    const head = make("tr", {}, ...["Video", "Status", "Why"].map((one) => make("th", { scope: "col" }, one)));
    const lines = found.files.map((one) => make("tr", {}, make("td", {}, one.title), make("td", {}, one.status), make("td", {}, one.message)));
    out.push(make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)));
    if (found.more_files) out.push(make("p", {}, `and ${found.more_files} more: \`frameloom status\` names them`));
  } else out.push(make("p", {}, "Nothing failed."));
  out.push(make("h3", {}, "Last written"));
  out.push(make("ul", {}, ...found.commits.map((one) => make("li", {}, `version ${one.version}, ${new Date(one.at).toLocaleString()}`))));
  out.push(make("h3", {}, "Map"));
  out.push(make("p", {}, make("a", { href: `${BASE}/projects/${encodeURIComponent(name)}/map`, download: true }, "All clips with their vectors (Parquet)"),
    " for embedding-atlas, which draws a map of them."));
  return out;
}
