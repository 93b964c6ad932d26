// What happens at this box, read as it happens: while somebody is looking, one
// request to this box stays open. A stream with a token in its header cannot be
// an EventSource, so that it is read here.

import { token } from "./door.js";

let reading = null; // ends the request that is open
let last = ""; // the event read last: a new request goes on after it
let timer = 0;

// listen calls told with each event until deaf is called. It begins again by
// itself, later and later.
export function listen(told, wait = 1000) {
  if (reading) return;
  clearTimeout(timer);
  const mine = (reading = new AbortController());
  read(mine.signal, (e) => { wait = 1000; told(e); }).catch(() => {}).finally(() => {
    if (reading !== mine) return; // deaf by now
    reading = null;
    timer = setTimeout(() => listen(told, Math.min(wait * 2, 60000)), wait);
  });
}

// deaf ends it; forget also forgets where it was.
export function deaf(forget) {
  clearTimeout(timer);
  if (reading) reading.abort();
  reading = null;
  if (forget) last = "";
}

async function read(signal, told) {
  const res = await fetch("/api/v1/events" + (last ? "?after=" + last : ""), {
    headers: { Authorization: "Bearer " + token() }, cache: "no-store", credentials: "omit", signal,
  });
  if (!res.ok) throw new Error(res.statusText);
  const reader = res.body.pipeThrough(new TextDecoderStream()).getReader();
  let have = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    have += value;
    const blocks = have.split("\n\n");
    have = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((l) => l.startsWith("data: "));
      if (!data) continue;
      const e = JSON.parse(data.slice(6));
      last = String(/^id: (\d+)$/m.exec(block)[1]); // larger than a number of this language
      told(e);
    }
  }
}
