// Users: who can be called, what happens to their calls, and new ones.

import { ask, at, card, el, freshness, get, heading, p, quiet } from "./door.js";
import { seek } from "./changes.js";

const forwards = [["forwardAll", "Forward all calls to"], ["forwardBusy", "When busy, to"], ["forwardNoAnswer", "When nobody answers, to"], ["forwardOffline", "When no phone is on, to"]];

const most = 200;

export async function drawUsers(page) {
  const list = el("div", null), note = quiet("");
  let asked = 0;
  const fill = async (text) => {
    const mine = ++asked;
    const users = await get("/users?limit=" + most + "&q=" + encodeURIComponent(text));
    if (mine !== asked) return; // a later one is on its way
    list.replaceChildren(...users.map((u) => user(page, u)));
    if (!users.length) list.append(quiet("None."));
    note.textContent = users.length < most ? "" : "The first " + most + "; type to find the others.";
  };
  await fill("");
  let wait = 0;
  const type = (e) => {
    clearTimeout(wait);
    wait = setTimeout(() => page.act(null, () => fill(e.target.value)), 150);
  };
  return [heading("A new user"), create(page), heading("Users"),
    el("label", null, "Find by name or number", el("input", { type: "search", input: type })), note, list];
}

function create(page) {
  const number = el("input", { required: true, maxlength: 24, inputmode: "numeric", autocomplete: "off" });
  const name = el("input", { maxlength: 120, autocomplete: "off" });
  const send = el("button", { type: "submit" }, "Create");
  const form = el("form", {
    submit: (e) => {
      e.preventDefault();
      page.act(send, async () => {
        const u = await ask("POST", "/users", { number: number.value, name: name.value });
        await page.redraw();
        // The part is new now: the password goes on top of it, until it is left.
        document.getElementById("part-users").prepend(once(u));
      });
    },
  }, el("label", null, "Extension", number), el("label", null, "Name", name), send);
  return el("details", null, el("summary", null, "Create a user"), form);
}

function once(u) {
  const d = (u.devices || []).find((x) => x.password);
  const c = card(p(el("strong", null, u.number + " " + u.name)));
  if (!d) return c;
  c.append(p("Its phone's password, shown this once:"), el("p", { class: "secret", tabindex: 0 }, d.password),
    quiet("User name " + d.sipUser + ", at " + ((d.servers || []).join(" and ") || d.realm)));
  return c;
}

function user(page, u) {
  const notes = [u.disabled && "disabled", u.doNotDisturb && "do not disturb", u.forwardAll && "all calls to " + u.forwardAll,
    u.messages && u.messages.new && u.messages.new + " new in voicemail", u.e164, freshness(u.asOf)].filter(Boolean);
  return card(p(el("strong", null, u.extension + " " + u.name), u.number !== u.extension ? " (" + u.number + ")" : ""),
    notes.length ? quiet(notes.join(" · ")) : null,
    (u.clash || []).length ? el("p", { class: "warning" }, "The same number belongs to " + u.clash.join(", ") + "; renumber one.") : null,
    el("details", { toggle: (e) => { if (e.target.open) edit(page, u, e.target); } }, el("summary", null, "Change " + u.extension)));
}

// edit asks for the user as it is now: its etag is what the edit answers to.
async function edit(page, listed, into) {
  const u = await page.act(null, () => get(at("users", listed.id)));
  if (!u) return;
  const fields = forwards.map(([k, label]) => [k, label, el("input", { value: u[k] || "", maxlength: 64, autocomplete: "off" })]);
  const name = el("input", { value: u.name, maxlength: 120, autocomplete: "off" });
  const dnd = el("input", { type: "checkbox", checked: !!u.doNotDisturb });
  const send = el("button", { type: "submit" }, "Save");
  const change = (patch, done) => async () => {
    const now = await ask("PATCH", at("users", u.id), patch, u.etag);
    await page.redraw();
    page.said((now.waiting || []).length ? "Site " + u.site + " cannot be reached. The change is kept here and counts when it can." : done);
    return now;
  };
  const waits = (u.waiting || []).map((w) => el("p", { class: "warning" }, "Waits for site " + u.site + ": " + w));
  const form = el("form", {
    submit: (e) => {
      e.preventDefault();
      const patch = {};
      if (name.value !== u.name) patch.name = name.value;
      if (dnd.checked !== !!u.doNotDisturb) patch.doNotDisturb = dnd.checked;
      for (const [k, , input] of fields) if (input.value !== (u[k] || "")) patch[k] = input.value;
      if (!Object.keys(patch).length) {
        page.said("Nothing was changed.");
        return;
      }
      page.act(send, change(patch, u.extension + " is saved."));
    },
  },
  el("label", null, "Name", name), el("label", null, dnd, " Do not disturb"),
  fields.map(([, label, input]) => el("label", null, label, input)),
  el("div", { class: "acts" }, send,
    page.button(u.disabled ? "Enable" : "Disable", change({ disabled: !u.disabled }, u.extension + (u.disabled ? " is enabled." : " is disabled: its phones are shut out."))),
    page.button("New password", async () => {
      const now = await change({ password: "" }, "The old password counts no more.")();
      document.getElementById("part-users").prepend(once(now));
    }),
    page.button("Who changed " + u.extension, () => {
      seek(u.number);
      location.hash = "#changes";
    })));
  const age = freshness(u.asOf);
  into.replaceChildren(into.firstChild, ...waits, ...(age ? [quiet(age)] : []), form);
}
