// The door to the box: the token, requests to /api/v1, and elements made of
// text only. Nothing that came from the box is ever read as HTML.

const key = "token";

// takeToken keeps a token given as #token=… and removes it from the address.
export function takeToken() {
  const m = /^#token=([^&]*)/.exec(location.hash);
  if (!m) return;
  history.replaceState(null, "", location.pathname);
  try {
    setToken(decodeURIComponent(m[1]));
  } catch {
    setToken(m[1]);
  }
}

export const token = () => sessionStorage.getItem(key) || "";
export const setToken = (t) => sessionStorage.setItem(key, t.trim());
export const forgetToken = () => sessionStorage.removeItem(key);

// The site whose answers are wanted: "" is the box's own. Only who logged in by
// name can ask another; what is of the box itself is never asked elsewhere.
let elsewhere = "";
export const site = () => elsewhere;
export const setSite = (code) => { elsewhere = code; };
const ofTheBox = /^\/(status|login|events)/;
const asked = (path) => (elsewhere && !ofTheBox.test(path) ? path + (path.includes("?") ? "&" : "?") + "site=" + encodeURIComponent(elsewhere) : path);

// Refused is the box's own word on why it did not do something (RFC 9457).
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function request(method, path, body, etag) {
  const headers = { Authorization: "Bearer " + token() };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (etag) headers["If-Match"] = etag;
  let res;
  try {
    res = await fetch("/api/v1" + asked(path), {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store", credentials: "omit",
    });
  } catch (err) {
    if (err instanceof TypeError && /header|ByteString|ISO-8859/i.test(err.message)) {
      throw new Refused(401, "that is no token: it holds characters that no token has");
    }
    throw new Refused(0, "the box does not answer; is it on, and are you on its network?");
  }
  if (res.ok) return res;
  let said = res.status + " " + res.statusText;
  try {
    const p = await res.json();
    said = p.detail || p.title || said;
    for (const e of p.errors || []) said += " · " + [e.location, e.message].filter(Boolean).join(": ");
  } catch { /* not a problem document: the status says it */ }
  throw new Refused(res.status, said);
}

// ask sends and returns the decoded answer, or null if there is none.
export async function ask(method, path, body, etag) {
  const res = await request(method, path, body, etag);
  const text = await res.text();
  return text ? JSON.parse(text) : null;
}

export const get = (path) => ask("GET", path);

// audio fetches a recording; the caller gives the address back when done.
export async function audio(path) {
  const res = await request("GET", path);
  return URL.createObjectURL(new Blob([await res.arrayBuffer()], { type: "audio/wav" }));
}

export const at = (...parts) => "/" + parts.map(encodeURIComponent).join("/");

// el makes an element: el("p", {class: "quiet"}, "text", child …). Functions
// under a name are listeners, true is an empty attribute, false is none.
export function el(name, attrs, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attrs || {})) {
    if (typeof v === "function") e.addEventListener(k, v);
    else if (v === true) e.setAttribute(k, "");
    else if (v !== false && v !== undefined && v !== null) e.setAttribute(k, String(v));
  }
  for (const c of children.flat()) {
    if (c === null || c === undefined || c === false) continue;
    if (c instanceof Node) {
      e.append(c);
      continue;
    }
    const text = document.createTextNode("");
    text.textContent = String(c);
    e.append(text);
  }
  return e;
}

export const card = (...children) => el("div", { class: "card" }, ...children);
export const p = (...children) => el("p", null, ...children);
export const quiet = (...children) => el("p", { class: "quiet" }, ...children);
export const heading = (text) => el("h2", null, text);

// when writes a moment in the reader's own way.
export function when(text) {
  if (!text) return "never";
  const d = new Date(text);
  if (isNaN(d)) return text;
  const today = d.toDateString() === new Date().toDateString();
  return today ? d.toLocaleTimeString() : d.toLocaleString();
}

export function many(n, one, more) {
  return n + " " + (n === 1 ? one : more || one + "s");
}

export function size(n) {
  if (n < 1 << 20) return Math.ceil(n / 1024) + " KiB";
  if (n < 2 ** 30) return Math.round(n / (1 << 20)) + " MiB";
  return (n / 2 ** 30).toFixed(1) + " GiB";
}

export function freshness(f) {
  if (!f || f.here) return "";
  let s = f.heard ? "as of " + when(f.heard) : "its home was never heard";
  if (f.trouble) s += ", its home not reached since " + when(f.trouble);
  return s;
}
