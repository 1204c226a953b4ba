// The mask stream of a session: a WebSocket that goes on where it broke off.

import { openSocket } from "./api.js";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;

/** Close codes after which trying again makes no sense. */
const FINAL_CODES = new Set([1000, 4400, 4401, 4403, 4404, 4409, 4410, 4422]);

export class MaskStream {
  /**
   * handlers: {mask(message), progress(message), revision(message), end(message), problem(document), link(state)}
   * with link state "open", "lost" or "closed". after: the last seq that is known.
   */
  constructor(sessionId, { after = -1, handlers }) {
    this.sessionId = sessionId;
    this.after = after;
    this.handlers = handlers;
    this.pauseMs = FIRST_PAUSE_MS;
    this.closed = false;
    this.connect();
  }

  connect() {
    const query = this.after >= 0 ? `?after=${this.after}` : "";
    this.socket = openSocket(`sessions/${this.sessionId}/stream${query}`);
    this.socket.onopen = () => this.handlers.link("open");
    this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.socket.onclose = (event) => this.lost(event.code);
  }

  receive(message) {
    if (this.closed) return;
    this.pauseMs = FIRST_PAUSE_MS;
    if (message.type === "mask") this.after = Math.max(this.after, message.seq);
    if (message.type === "end" || message.type === "error") this.close();
    if (message.type === "error") this.handlers.problem(message.problem);
    else this.handlers[message.type]?.(message);
  }

  lost(code) {
    if (this.closed || FINAL_CODES.has(code)) {
      this.closed = true;
      this.handlers.link("closed");
      return;
    }
    this.handlers.link("lost");
    this.timer = setTimeout(() => this.connect(), this.pauseMs);
    this.pauseMs = Math.min(this.pauseMs * 2, LONGEST_PAUSE_MS);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.close(1000);
  }
}
