// Requests to the service. Every refusal becomes a Problem with the server's own words.

const KEY_NAME = "maskstream-key";

/** A refused or failed request; `title` and `detail` are for people. */
export class Problem extends Error {
  constructor({ status = 0, title = "Something went wrong", detail = "" }) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.detail = detail;
  }
}

export const key = {
  get: () => localStorage.getItem(KEY_NAME),
  set: (value) => (value ? localStorage.setItem(KEY_NAME, value) : localStorage.removeItem(KEY_NAME)),
};

function headers() {
  return key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
}

async function problemOf(response) {
  let document = {};
  try {
    document = await response.json();
  } catch {
    // Not a problem document: a proxy's page, say. The status has to do.
  }
  return new Problem({ title: response.statusText || `Status ${response.status}`, ...document, status: response.status });
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Problem({ title: "No answer", detail: "The server cannot be reached. Is it running, and are you online?" });
  }
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? null : response.json();
}

export const engines = () => request("engines").then((answer) => answer.engines);
export const sessions = () => request("sessions").then((answer) => answer.sessions);
export const session = (id) => request(`sessions/${id}`);
export const cancel = (id) => request(`sessions/${id}/cancel`, { method: "POST" });
export const remove = (id) => request(`sessions/${id}`, { method: "DELETE" });

/** Send marks for a session that exists: new objects or corrections. */
export const addReferences = (id, form) => request(`sessions/${id}/references`, { method: "POST", body: form });

/** Upload a video with its references. XMLHttpRequest, because fetch tells nothing of an upload's progress. */
export function createSession(form, onProgress) {
  return new Promise((resolve, reject) => {
    const upload = new XMLHttpRequest();
    upload.open("POST", "sessions");
    for (const [name, value] of Object.entries(headers())) upload.setRequestHeader(name, value);
    upload.setRequestHeader("Idempotency-Key", crypto.randomUUID());
    upload.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    upload.onerror = () => reject(new Problem({ title: "Upload broke off", detail: "The connection was lost. Try again." }));
    upload.onload = () => {
      let document = {};
      try {
        document = JSON.parse(upload.responseText);
      } catch {
        // Same as in problemOf().
      }
      if (upload.status < 300) resolve(document);
      else reject(new Problem({ title: upload.statusText, ...document, status: upload.status }));
    };
    upload.send(form);
  });
}

/** Fetch a file with the key and hand it to the browser's download. */
export async function download(path, name) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw await problemOf(response);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
