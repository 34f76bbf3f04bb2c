// Requests to this server, and nothing else.

export const BASE = "api/v1";
const TRIES = 4;

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// A token in the address (#token=...) becomes a cookie, since pictures and videos cannot send one.
export async function openSession() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  await call("session", { method: "POST", headers: { authorization: `Bearer ${token}` } });
}

export async function call(path, options = {}) {
  for (let tries = 1; ; tries += 1) {
    let answer;
    try {
      answer = await fetch(`${BASE}/${path}`, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "The server does not answer. Is `frameloom serve` still running?");
    }
    if (answer.status === 503 && tries < TRIES) {
      const seconds = Number(answer.headers.get("retry-after")) || 1;
      await new Promise((done) => setTimeout(done, 1000 * seconds * tries));
      continue;
    }
    if (answer.ok) return answer.status === 204 || answer.status === 206 ? null : answer.json();
    const problem = await answer.json().catch(() => ({}));
    throw new Problem(answer.status, problem.detail || `The server answered ${answer.status}.`);
  }
}

export function query(values) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "" && one !== false) found.append(name, one);
    }
  }
  return found.toString();
}
