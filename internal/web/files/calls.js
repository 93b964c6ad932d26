// Calls, voicemail, and what two sides changed without seeing each other.

import { ask, at, audio, card, el, freshness, get, heading, many, p, quiet, when } from "./door.js";

export async function drawCalls() {
  const calls = await get("/calls?since=1h");
  const live = calls.filter((c) => !c.ended), over = calls.filter((c) => c.ended);
  over.sort((a, b) => b.ended.localeCompare(a.ended));
  return [heading("Now"), ...(live.length ? live.map(call) : [quiet("No calls.")]),
    heading("In the last hour"), ...(over.length ? over.slice(0, 200).map(call) : [quiet("None ended.")])];
}

function call(c) {
  const facts = [c.state, "since " + when(c.since), c.answered ? "answered " + when(c.answered) : c.ended && "not answered",
    c.ended && "ended " + when(c.ended), c.cause && "because: " + c.cause,
    c.bothHeard === false && "one side was not heard"].filter(Boolean);
  return card(p(el("strong", null, (c.from || "unknown") + " → " + (c.to || "unknown"))), quiet(facts.join(" · ")));
}

let mailbox = "";
const lent = new Set(); // addresses of fetched recordings

export async function drawVoicemail(page) {
  const users = await get("/users?home=here");
  for (const url of lent) URL.revokeObjectURL(url);
  lent.clear();
  if (!users.some((u) => u.id === mailbox)) mailbox = users.length ? users[0].id : "";
  const choose = el("select", { change: async (e) => { mailbox = e.target.value; await page.redraw(); const s = document.querySelector("#part-voicemail select"); if (s) s.focus(); } },
    users.map((u) => el("option", { value: u.id, selected: u.id === mailbox }, u.extension + " " + u.name)));
  if (!mailbox) return [quiet("There are no users yet.")];
  const messages = (await get(at("users", mailbox, "messages"))) || [];
  messages.sort((a, b) => b.at.localeCompare(a.at));
  const who = users.find((u) => u.id === mailbox);
  return [el("label", null, "Mailbox of", choose), quiet([many(messages.length, "message"), freshness(who.asOf)].filter(Boolean).join(" · ")),
    ...messages.map((m) => message(page, m)),
    el("div", { class: "acts" }, page.button("Look again", () => page.redraw()))];
}

function message(page, m) {
  const path = at("users", mailbox, "messages", m.id);
  const c = card(p(el("strong", null, m.fromName ? m.fromName + " (" + m.from + ")" : m.from || "unknown"), m.heard ? "" : " · new"),
    quiet([when(m.at), Math.round(m.seconds) + " s", m.folder, m.cutOff && "cut off", m.audio === "arriving" && "its audio is still on the way here" + (m.arrived ? ", " + Math.floor(m.arrived * 100) + " % have arrived" : "")].filter(Boolean).join(" · ")));
  const move = (folder) => async () => {
    await ask("PATCH", path, { folder });
    await page.redraw();
  };
  c.append(el("div", { class: "acts" },
    page.button("Play", async () => {
      const url = await audio(path + "/audio");
      lent.add(url);
      const old = c.querySelector("audio");
      if (old) old.remove();
      const player = el("audio", { controls: true, src: url });
      c.append(player);
      player.focus();
      await player.play().catch(() => {}); // without leave to start by itself, its own button does
    }),
    m.folder === "inbox" && page.button("Save", move("saved")),
    m.folder === "trash" ? page.button("Take back", move("inbox")) : page.button("Trash", move("trash"))));
  return c;
}

export async function drawMerges(page) {
  const merges = (await get("/merges")) || [];
  const out = [heading("Changed on two sides at once")];
  if (!merges.length) out.push(quiet("None open."));
  for (const m of merges) {
    const c = card(p(el("strong", null, m.record), m.field ? ": " + m.field : ""), quiet(m.kind + " · in force: " + m.inForce), quiet(m.why || ""));
    for (const s of m.sides || []) {
      c.append(card(p(s.value || "(empty)", s.inForce ? " · in force" : ""), quiet([s.was !== undefined && "was " + (s.was || "(empty)"), s.by, s.node && "at " + s.node, s.site && "site " + s.site, when(s.at)].filter(Boolean).join(" · ")),
        !m.do && page.button("Keep this", async () => {
          await ask("POST", at("merges", m.id, "keep"), { version: s.version });
          await page.redraw();
        }, { "aria-label": "Keep this: " + (s.value || "empty") })));
    }
    if (m.both) {
      c.append(card(p(m.both), quiet("what both sides say together"), page.button("Keep both", async () => {
        await ask("POST", at("merges", m.id, "keep"), { version: "both" });
        await page.redraw();
      }, { "aria-label": "Keep both: " + m.both })));
    }
    if (m.do) c.append(quiet(m.do));
    out.push(c);
  }
  return out;
}
