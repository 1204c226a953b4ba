// Requests to the service. Every refusal becomes a Problem with the server's own words.

import { Problem } from "./problems.js";

const KEY_NAME = "maskstream-key";

export const key = {
  get: () => localStorage.getItem(KEY_NAME),
  set: (value) => (value ? localStorage.setItem(KEY_NAME, value) : localStorage.removeItem(KEY_NAME)),
};

/** Open a socket of the service, with the key where there is one. */
export function openSocket(path) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  return new WebSocket(`${scheme}://${location.host}/${path}`, key.get() ? ["bearer", key.get()] : []);
}

function headers() {
  return key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
}

function problemOf(status, statusText, body) {
  let document = {};
  try {
    document = JSON.parse(body);
  } catch {
    // Not a problem document: a proxy's page, say. The status has to do.
  }
  return new Problem({ title: statusText || `Status ${status}`, ...document, status });
}

async function respond(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Problem({ title: "No answer", detail: "The server cannot be reached. Is it running, and are you online?" });
  }
  if (!response.ok) throw problemOf(response.status, response.statusText, await response.text());
  return response;
}

async function request(path, options) {
  const response = await respond(path, options);
  return response.status === 204 ? null : response.json();
}

export const engines = () => request("engines").then((answer) => answer.engines);

/** A page of sessions, newest first: {sessions, next}. */
export const sessions = (cursor = null) => request(cursor ? `sessions?cursor=${cursor}` : "sessions");
export const session = (id) => request(`sessions/${id}`);
export const cancel = (id) => request(`sessions/${id}/cancel`, { method: "POST" });
export const remove = (id) => request(`sessions/${id}`, { method: "DELETE" });
export const removeObject = (id, objectId) => request(`sessions/${id}/objects/${objectId}`, { method: "DELETE" });

/** Send marks for a session that exists: new objects or corrections. */
export const addReferences = (id, form) => request(`sessions/${id}/references`, { method: "POST", body: form });

/**
 * Upload a video with its references. XMLHttpRequest, because fetch tells nothing of an upload's progress.
 * idempotencyKey: the same for a second try, so that an answer that was lost makes no second session.
 */
export function createSession(form, { idempotencyKey, signal, progress }) {
  return new Promise((resolve, reject) => {
    const upload = new XMLHttpRequest();
    upload.open("POST", "sessions");
    for (const [name, value] of Object.entries(headers())) upload.setRequestHeader(name, value);
    upload.setRequestHeader("Idempotency-Key", idempotencyKey);
    upload.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    upload.onerror = () => reject(new Problem({ title: "The upload broke off", detail: "The connection was lost." }));
    upload.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    upload.onload = () => {
      if (upload.status < 300) resolve(JSON.parse(upload.responseText));
      else reject(problemOf(upload.status, upload.statusText, upload.responseText));
    };
    signal.addEventListener("abort", () => upload.abort());
    upload.send(form);
  });
}

/** Fetch a file with the key and hand it to the browser's download. */
export async function download(path, name) {
  const response = await respond(path);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
