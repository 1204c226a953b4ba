// The mask stream of a session: a WebSocket that goes on where it broke off.

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;

/** Close codes after which trying again makes no sense. */
const FINAL_CODES = new Set([1000, 4401, 4403, 4404, 4410]);

export class MaskStream {
  /**
   * handlers: {mask(message), progress(message), revision(message), end(message), problem(document), link(state)}
   * with link state "open", "lost" or "closed".
   */
  constructor(sessionId, { after = -1, key = null, handlers }) {
    this.sessionId = sessionId;
    this.after = after;
    this.key = key;
    this.handlers = handlers;
    this.pauseMs = FIRST_PAUSE_MS;
    this.closed = false;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const query = this.after >= 0 ? `?after=${this.after}` : "";
    const url = `${scheme}://${location.host}/sessions/${this.sessionId}/stream${query}`;
    this.socket = new WebSocket(url, this.key ? ["bearer", this.key] : []);
    this.socket.onopen = () => this.handlers.link("open");
    this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.socket.onclose = (event) => this.lost(event.code);
  }

  receive(message) {
    this.pauseMs = FIRST_PAUSE_MS;
    switch (message.type) {
      case "mask":
        this.after = Math.max(this.after, message.seq);
        this.handlers.mask(message);
        break;
      case "progress":
        this.handlers.progress(message);
        break;
      case "revision":
        this.handlers.revision(message);
        break;
      case "end":
        this.close();
        this.handlers.end(message);
        break;
      case "error":
        this.close();
        this.handlers.problem(message.problem);
        break;
    }
  }

  lost(code) {
    if (this.closed || FINAL_CODES.has(code)) {
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
