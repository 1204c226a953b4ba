// `WS /live`: pictures out, masks in. Opens again where it was after a lost connection.

import { openSocket } from "./api.js";

const WINDOW = 4; // frames that may wait for their masks
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;
const LOST_CODES = new Set([1005, 1006, 1011, 1012, 1013]);

export class LiveSocket {
  /** handlers: {ready(message), mask(message), dropped(message), end(message), problem(document), link(state)} */
  constructor(handlers) {
    this.handlers = handlers;
    this.sessionId = null;
    this.after = -1;
    this.closed = false;
    this.isReady = false;
    this.pauseMs = FIRST_PAUSE_MS;
  }

  /** Begin a session. fields: what `open` may hold beside its type. */
  open(fields) {
    this.connect({ policy: "latest", window: WINDOW, ...fields });
  }

  /** Go on with a session from the mask behind `after`. */
  reopen(sessionId, after) {
    Object.assign(this, { sessionId, after });
    this.connect({ session_id: sessionId, after });
  }

  connect(fields) {
    this.socket = openSocket("live");
    this.socket.onopen = () => this.tell({ type: "open", ...fields });
    this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.socket.onclose = (event) => this.lost(event.code);
  }

  tell(message) {
    this.socket.send(JSON.stringify(message));
  }

  /** Send one frame. facts: pts_s, and references if it carries any. */
  send(jpeg, facts) {
    if (!this.isReady || this.socket.readyState !== WebSocket.OPEN) return;
    this.tell({ type: "frame", ...facts });
    this.socket.send(jpeg);
  }

  /** No more frames: the masks that are under way still come, then `end`. */
  end() {
    this.tell({ type: "end" });
  }

  receive(message) {
    if (this.closed) return;
    if (message.type === "ready") {
      this.sessionId = message.session_id;
      this.isReady = true;
      this.pauseMs = FIRST_PAUSE_MS;
      this.handlers.link("open");
    }
    if (message.type === "mask") {
      this.after = message.seq;
      this.tell({ type: "ack", seq: message.seq });
    }
    if (message.type === "end" || message.type === "error") this.close();
    if (message.type === "error") this.handlers.problem(message.problem);
    else this.handlers[message.type]?.(message);
  }

  lost(code) {
    this.isReady = false;
    if (this.closed) return;
    if (!this.sessionId || !LOST_CODES.has(code)) {
      this.closed = true;
      this.handlers.problem({ title: "The connection was closed", detail: `The server closed it with code ${code}.` });
      return;
    }
    this.handlers.link("lost");
    this.timer = setTimeout(() => this.reopen(this.sessionId, this.after), this.pauseMs);
    this.pauseMs = Math.min(this.pauseMs * 2, LONGEST_PAUSE_MS);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket?.close(1000);
  }
}
