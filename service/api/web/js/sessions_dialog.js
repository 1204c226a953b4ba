// The list of sessions, newest first, with a thumbnail each.

import * as api from "./api.js";

export async function showSessions(dialog, list, problem) {
  dialog.showModal();
  list.replaceChildren(line("Loading…"));
  try {
    const sessions = await api.sessions();
    list.replaceChildren(...(sessions.length ? sessions.map((session) => row(session, dialog, list, problem)) : [line("None yet.")]));
  } catch (error) {
    dialog.close();
    problem(error);
  }
}

function line(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}

function row(session, dialog, list, problem) {
  const item = document.createElement("li");
  const image = document.createElement("img");
  image.loading = "lazy";
  image.alt = "";
  image.src = `sessions/${session.session_id}/thumbnail.jpg`;
  image.onerror = () => image.removeAttribute("src");
  const link = document.createElement("a");
  link.href = `#/s/${session.session_id}`;
  link.textContent = `${session.name || session.session_id} · ${session.engine} · ${session.state}`;
  link.onclick = () => dialog.close();
  const remove = document.createElement("button");
  remove.type = "button";
  remove.textContent = "Delete";
  remove.onclick = async () => {
    try {
      await api.remove(session.session_id);
      item.remove();
      if (!list.children.length) list.append(line("None yet."));
    } catch (error) {
      dialog.close();
      problem(error);
    }
  };
  item.append(image, link, remove);
  return item;
}
