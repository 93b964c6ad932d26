// Changes: who changed what, as far as this box remembers, and the way back.

import { ask, at, card, el, get, heading, p, quiet, when } from "./door.js";

let sought = ""; // a number, name or id; empty: the newest changes of all

// seek makes the part show the changes of one record.
export function seek(record) {
  sought = record;
}

export async function drawChanges(page) {
  const input = el("input", { type: "search", value: sought, maxlength: 120, autocomplete: "off" });
  const send = el("button", { type: "submit" }, "Show");
  const form = el("form", {
    submit: (e) => {
      e.preventDefault();
      sought = input.value.trim();
      page.act(send, () => page.redraw());
    },
  }, el("label", null, "Changes of a number or name; empty for the newest of all", input), send);
  const out = [heading("Who changed what"), form];
  let h;
  try {
    h = await get("/history" + (sought ? "?record=" + encodeURIComponent(sought) : ""));
  } catch (err) {
    if (err.status === 401) throw err;
    return [...out, el("p", { class: "error" }, err.message)];
  }
  out.push(quiet([h.record, "this box remembers what it saw being overwritten since " + when(h.since)].filter(Boolean).join(" · ")));
  if (!h.changes || !h.changes.length) out.push(quiet("None."));
  for (const c of h.changes || []) out.push(change(page, h, c));
  return out;
}

const words = (text) => text || "(empty)";
const states = { beside: "a side of an open merge", overwritten: "overwritten since" };

function change(page, h, c) {
  const fields = c.fields.map((f) => p(el("strong", null, (h.kind === "all" || f.record !== h.record ? f.record + ": " : "") + f.field), " ",
    f.old === undefined ? "" : words(f.old) + " → ", words(f.new), states[f.state] ? " · " + states[f.state] : ""));
  const acts = el("div", { class: "acts" });
  const what = c.fields.map((f) => f.field).join(", ");
  const undo = (yes) => async () => {
    let done;
    try {
      done = await ask("POST", at("changes", c.id, "undo"), { yes });
    } catch (err) {
      // Somebody wrote since: to go over that is a second decision.
      if (err.status === 409 && !yes && err.message.includes("changed since")) {
        acts.replaceChildren(page.button("Undo it all the same", undo(true)), page.button("Leave it", () => page.redraw()));
      }
      throw err;
    }
    await page.redraw();
    page.said(["Undone.", ...(done.left || [])].join(" "));
  };
  acts.append(page.button("Undo", undo(false), { "aria-label": "Undo: " + what + ", " + when(c.at) }));
  return card(fields, quiet([c.by, c.node && "at " + c.node, c.site && "site " + c.site, when(c.at)].filter(Boolean).join(" · ")), acts);
}
