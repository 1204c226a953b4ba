// The sessions that the server has, newest first, with a thumbnail each.

import * as api from "./api.js";
import { $, button, element } from "./dom.js";
import { guarded } from "./problems.js";
import { counted } from "./spelling.js";

/** Show the first page of sessions on the start page. */
export async function drawSessions() {
  const { sessions, next } = await api.sessions();
  $("session-list").replaceChildren(...sessions.map(card));
  showMore(next);
  showEmpty();
}

function showMore(cursor) {
  $("more-sessions").hidden = !cursor;
  $("more-sessions").onclick = guarded(async () => {
    const { sessions, next } = await api.sessions(cursor);
    $("session-list").append(...sessions.map(card));
    showMore(next);
  });
}

function showEmpty() {
  $("recent").hidden = !$("session-list").children.length;
}

function card(session) {
  const id = session.session_id;
  const name = session.name || "Camera";
  const picture = element("img", { alt: "", loading: "lazy", width: 192, height: 108 });
  if (!session.live) picture.src = `sessions/${id}/thumbnail.jpg`; // of the camera no pictures are kept
  picture.onerror = () => picture.removeAttribute("src");
  const when = new Date(session.timings.created_at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const objects = counted(session.objects.length, "object");
  const link = element("a", { href: `#/s/${id}` }, picture, element("b", {}, name),
    element("small", {}, `${progressOf(session)} · ${objects} · ${session.engine}`), element("small", {}, when));
  const remove = guarded(async () => {
    if (!confirm(`Delete the session ${name} with its video and masks?`)) return;
    await api.remove(id);
    item.remove();
    showEmpty();
  });
  const remover = button("×", remove, { className: "quiet", title: `Delete ${name}` });
  remover.setAttribute("aria-label", `Delete the session ${name} of ${when}`);
  const item = element("li", {}, link, remover);
  return item;
}

function progressOf({ state, progress }) {
  return state === "running" && progress.share !== null ? `${Math.round(progress.share * 100)} %` : state;
}
