// Phones: those of the shop, those that asked for settings, and the window in
// which they may begin.

import { ask, card, el, get, heading, p, quiet, when } from "./door.js";

const vendors = ["yealink", "snom", "snom-m", "gigaset", "ht8xx", "akuvox"];

export async function drawPhones(page) {
  const [phones, seen, users, open] = await Promise.all([get("/phones"), get("/phones/seen"), get("/users?home=here"), get("/phones/window")]);
  const whose = new Map(); // device id to user
  for (const u of users) for (const d of u.devices || []) whose.set(d.id, u);

  const out = [heading("May phones begin to fetch their settings?"), gate(page, open)];
  out.push(heading("Seen on the network"));
  if (!seen.length) out.push(quiet("No device has asked this box for settings yet. Open the window, then start the phone."));
  for (const d of seen) {
    const c = card(
      p(el("strong", null, d.mac), " ", [d.vendor, d.model, d.version].filter(Boolean).join(" ")),
      quiet("at " + d.addr + ", last " + when(d.last) + ", asked " + d.times + "×" + (d.fetched ? ", given its settings " + when(d.fetched) : "")),
      d.phone ? p("It is ", el("strong", null, d.phone), ".") : null,
      d.trouble ? el("p", { class: "warning" }, d.trouble) : null);
    if (!d.phone) c.append(adopt(page, d, users));
    out.push(c);
  }
  out.push(heading("Phones of this shop"));
  const living = phones.filter((x) => !x.deleted);
  if (!living.length) out.push(quiet("None yet."));
  for (const x of living) {
    const lines = (x.lines || []).map((l) => (whose.has(l) ? whose.get(l).extension + " " + whose.get(l).name : l));
    out.push(card(
      p(el("strong", null, x.name), " ", [x.vendor, x.model].filter(Boolean).join(" ")),
      quiet([x.mac, "rings for " + (lines.join(", ") || "nobody"), x.place && "stands at " + x.place].filter(Boolean).join(" · "))));
  }
  return out;
}

function gate(page, w) {
  const c = card(p(w.open
    ? "Yes, until " + when(w.until) + (w.macs && w.macs.length ? ", only " + w.macs.join(", ") : "") + "."
    : "No. Only phones that did so before get theirs."));
  if (w.open && (w.urls || []).length) c.append(quiet("What to type into a phone that does not find this box by itself:"), ...w.urls.map((u) => el("p", { class: "secret" }, u)));
  c.append(el("div", { class: "acts" },
    page.button(w.open ? "Open for 15 minutes from now" : "Open for 15 minutes", async () => {
      await ask("POST", "/phones/window", { duration: "15m" });
      page.redraw();
    }),
    w.open && page.button("Close", async () => {
      await ask("DELETE", "/phones/window");
      page.redraw();
    }),
    page.button("Look again", () => page.redraw())));
  return c;
}

function adopt(page, d, users) {
  const who = el("select", { required: true }, el("option", { value: "" }, "choose …"),
    users.filter((u) => !u.deleted).map((u) => el("option", { value: u.number }, u.extension + " " + u.name)));
  const kind = el("select", { required: true }, el("option", { value: "" }, "choose …"), vendors.map((v) => el("option", { value: v, selected: v === d.kind }, v)));
  const name = el("input", { maxlength: 120, placeholder: "such as till 1" });
  const place = el("input", { maxlength: 120 });
  const send = el("button", { type: "submit" }, "Adopt");
  return el("details", null, el("summary", null, "Adopt this phone"),
    el("form", {
      submit: (e) => {
        e.preventDefault();
        page.act(send, async () => {
          await ask("POST", "/phones", {
            name: name.value || "phone " + who.value, mac: d.mac, vendor: kind.value, model: d.model || "", lines: [who.value], place: place.value,
          });
          await page.redraw();
        }, d.mac + " is a phone of this shop now. Open the window, then start the phone.");
      },
    },
    el("label", null, "Whose phone it is", who), el("label", null, "What it is", kind),
    el("label", null, "What people call it", name), el("label", null, "Where it stands (for emergency calls)", place), send));
}

