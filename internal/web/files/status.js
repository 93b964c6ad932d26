// The box and its pair, in words: what wants a look comes first.

import { card, el, heading, many, p, quiet, size, when } from "./door.js";

export function showStatus(s) {
  const out = [];
  if (s.readOnly) out.push(el("p", { class: "warning" }, s.readOnly));
  for (const w of s.warnings || []) out.push(el("p", { class: "warning" }, w));
  if (!out.length) out.push(p("Nothing wants a look."));

  out.push(heading("This box"), list([
    ["Name", s.node.name],
    ["Shop", [s.node.siteCode, s.node.siteName].filter(Boolean).join(" ")],
    ["Runs since", when(s.node.started)],
    ["Phones", many(s.phones, "phone") + " registered, " + many(s.users, "user") + " in the directory"],
    ["Calls", s.calls ? many(s.calls, "call") + " now" : "none now"],
    ["Merges", s.merges ? many(s.merges, "thing") + " changed on two sides at once: see Merges" : "none open"],
    ["Phones register at", (s.node.sip || []).join(", ")],
    ["Disk", size(s.node.diskFree) + " free"],
    ["Program", s.version],
  ]));

  out.push(heading("Its pair"));
  out.push(s.pair ? card(p(peer(s.pair))) : quiet("This box has no second one beside it."));

  out.push(heading("Lines to the outside"));
  const trunks = s.trunks || [];
  if (!trunks.length) out.push(quiet("None: calls stay inside."));
  for (const t of trunks) {
    out.push(card(p(el("strong", null, t.name), t.usable ? " works" : " does not work", t.calls ? ", " + many(t.calls, "call") + " over it" : ""), t.state ? quiet(t.state) : null));
  }

  out.push(heading("Last emergency call"));
  const e = s.lastEmergency;
  out.push(e
    ? card(p(when(e.at), ": ", e.number, " from ", [e.name, e.from].filter(Boolean).join(", "), e.trunk ? " over " + e.trunk : ", over no line", e.over ? ", ended" : ", still going on"))
    : quiet("None known to this box."));

  out.push(heading("What is on its way"));
  const o = s.owed;
  const owed = [
    o.changes && many(o.changes, "change") + " not acknowledged by " + many(o.peers, "neighbour"),
    o.outbox && many(o.outbox, "change") + " written here for other shops" + ((o.sites || []).length ? " (" + o.sites.slice(0, 5).map((x) => x.changes + " for " + x.site + " since " + when(x.since)).join(", ") + ")" : ""),
    o.blobs && many(o.blobs, "recording") + " on the way",
    s.heldTotal && many(s.heldTotal, "change") + " waiting for trust or time",
  ].filter(Boolean);
  out.push(p(owed.length ? owed.join("; ") + "." : "Nothing is owed to anybody."));
  const only = s.onlyHere;
  out.push(p(only.changes || only.blobs
    ? "If this box dies now, " + [only.changes && many(only.changes, "change"), only.blobs && many(only.blobs, "recording") + " (" + size(only.bytes) + ")"].filter(Boolean).join(" and ") + " die with it."
    : "Nothing is on this box alone."));

  const others = (s.peers || []).filter((x) => !s.pair || x.node !== s.pair.node);
  if (others.length) out.push(heading("Other boxes"), ...others.map((x) => card(p(peer(x)))));
  const gaps = (s.scopes || []).filter((x) => !x.complete);
  if (gaps.length) out.push(quiet("Not caught up yet: " + gaps.map((x) => x.scope).join(", ")));
  return out;
}

function list(rows) {
  return el("dl", null, rows.filter((r) => r[1]).map(([k, v]) => [el("dt", null, k), el("dd", null, v)]).flat());
}

function peer(x) {
  let s = x.name + ": " + x.state;
  if (x.since) s += " since " + when(x.since);
  s += x.heard ? ", as of " + when(x.heard) : ", never heard";
  if (x.owed) s += ", " + many(x.owed, "change") + " owed to it";
  if (x.error) s += " (" + x.error + ")";
  return s;
}
