// The page: log-in, its parts, and a look at the box every five seconds while
// somebody is looking; merges as they happen. It asks this box only; no other
// is woken by it.

import { ask, el, forgetToken, get, setSite, setToken, site, takeToken, token, when } from "./door.js";
import { deaf, listen } from "./events.js";
import { showStatus } from "./status.js";
import { drawPhones } from "./phones.js";
import { drawUsers } from "./users.js";
import { drawCalls, drawMerges, drawVoicemail } from "./calls.js";
import { drawChanges } from "./changes.js";

const id = (name) => document.getElementById(name);
const parts = { status: null, phones: drawPhones, users: drawUsers, calls: drawCalls, voicemail: drawVoicemail, merges: drawMerges, changes: drawChanges };
let timer = 0;
let drawn = 0; // the latest drawing: an older one that comes late is dropped

// page is what the parts may do with the rest.
const page = {
  // act does what a button is for: disabled meanwhile, errors said as they are.
  async act(button, what, done) {
    if (button) button.disabled = true;
    say("error", "");
    say("said", "");
    try {
      const answer = await what();
      if (done) say("said", done);
      return answer;
    } catch (err) {
      fail(err);
    } finally {
      if (button) button.disabled = false;
    }
  },
  button(label, what, attrs) {
    const b = el("button", { type: "button", click: () => page.act(b, what), ...attrs }, label);
    return b;
  },
  said: (text) => say("said", text),
  redraw: () => draw(),
};

function say(where, text) {
  id(where).textContent = text;
  id(where).hidden = !text;
}

function fail(err) {
  say("error", err.message);
  if (err.status === 401) logout();
}

function part() {
  const name = location.hash.slice(1);
  return name in parts ? name : "status";
}

// draw fills the part that is shown, from the box's answers of now.
async function draw() {
  const name = part(), mine = ++drawn;
  for (const n of Object.keys(parts)) id("part-" + n).hidden = n !== name;
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash === "#" + name) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  id("skip").setAttribute("href", "#" + name);
  if (!parts[name]) return;
  try {
    const fresh = await parts[name](page);
    if (mine === drawn) id("part-" + name).replaceChildren(...fresh);
  } catch (err) {
    fail(err);
  }
}

// told hears of what happened at the box: how many merges are open is said at
// once, and shown if they are being looked at.
function told(e) {
  if (e.merges !== undefined) countMerges(e.merges);
  if (part() === "merges" && /^(merge-|missed|many)/.test(e.kind)) draw();
}

function countMerges(n) {
  const text = n ? "Merges (" + n + ")" : "Merges";
  if (id("to-merges").textContent !== text) id("to-merges").textContent = text;
}

async function look() {
  clearTimeout(timer);
  if (!token() || document.hidden) {
    deaf();
    return;
  }
  try {
    const s = await get("/status");
    if (!token()) return;
    open();
    listen(told);
    countMerges(s.merges);
    if (page.lost) say("error", "");
    page.lost = false;
    id("title").textContent = s.node.siteName || s.node.name;
    document.title = (s.warnings && s.warnings.length ? "(" + s.warnings.length + ") " : "") + id("title").textContent;
    id("asof").textContent = s.node.name + " · as of " + when(new Date().toISOString());
    id("part-status").replaceChildren(...showStatus(s));
    if (part() === "calls" && !site()) draw(); // another site is asked only when somebody asks
  } catch (err) {
    fail(err);
    page.lost = true;
    if (err.status === 401) return;
  }
  clearTimeout(timer);
  timer = setTimeout(look, 5000);
}

function open() {
  if (!id("shop").hidden) return;
  id("login").hidden = true;
  id("shop").hidden = id("leave").hidden = false;
  id("elsewhere").hidden = !token().startsWith("ccs_");
  draw();
}

function logout() {
  clearTimeout(timer);
  deaf(true);
  countMerges(0);
  forgetToken();
  drawn++;
  for (const n of Object.keys(parts)) id("part-" + n).replaceChildren();
  id("title").textContent = document.title = "ccnode";
  id("asof").textContent = id("said").textContent = "";
  id("said").hidden = id("shop").hidden = id("leave").hidden = id("elsewhere").hidden = true;
  go("");
  id("login").hidden = false;
  id("token").value = "";
  id("token").focus();
}

id("login").addEventListener("submit", (e) => {
  e.preventDefault();
  say("error", "");
  const name = id("who").value.trim(), secret = id("token").value;
  id("token").value = "";
  if (!name) {
    setToken(secret);
    look();
    return;
  }
  page.act(e.submitter, async () => {
    forgetToken();
    setToken((await ask("POST", "/login", { name, password: secret })).token);
    look();
  });
});
// go turns the parts to a site; the box itself stays the one that is asked.
function go(code) {
  setSite(code);
  id("site").value = code;
  for (const n of Object.keys(parts)) if (n !== "status") id("part-" + n).replaceChildren();
}

id("elsewhere").addEventListener("submit", async (e) => {
  e.preventDefault();
  const code = id("site").value.trim();
  await page.act(e.submitter, async () => {
    const before = site();
    setSite(code);
    try {
      await get("/site"); // whether it answers, and may be asked
    } catch (err) {
      setSite(before);
      throw err;
    }
    go(code);
    await draw();
    page.said(code ? "You see site " + code + ". Changes are made there, in your name." : "You see this site.");
  });
});
id("leave").addEventListener("click", async () => {
  say("error", "");
  if (token().startsWith("ccs_")) await ask("DELETE", "/login").catch(() => {}); // else it ends by itself
  logout();
});
window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) {
    takeToken();
    look();
    return;
  }
  say("error", "");
  say("said", "");
  draw();
  document.querySelector("main").focus();
});
document.addEventListener("visibilitychange", look);

takeToken();
if (token()) look();
else logout();
