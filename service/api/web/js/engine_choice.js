// The engines that a worker serves now, as a list to choose from.

import * as api from "./api.js";
import { $ } from "./dom.js";
import { guarded } from "./problems.js";

const WORKER_WAIT_MS = 2000;

export class EngineChoice {
  constructor() {
    this.engines = [];
    $("engine").onchange = () => this.describe();
    this.load = guarded(() => this.fetch());
  }

  get name() {
    return $("engine").value;
  }

  /** Ask the server; while no worker is ready, ask again. */
  async fetch() {
    clearTimeout(this.timer);
    this.engines = (await api.engines()).filter(isOffered);
    if (!this.engines.length) {
      $("engine-note").textContent = "No worker is ready yet; waiting for one…";
      this.timer = setTimeout(this.load, WORKER_WAIT_MS);
      return;
    }
    const kept = this.engines.find((engine) => engine.name === this.name);
    const chosen = kept ?? this.engines.find((engine) => engine.default) ?? this.engines[0];
    $("engine").replaceChildren(...this.engines.map((engine) => new Option(engine.name, engine.name, engine === chosen, engine === chosen)));
    this.describe();
  }

  describe() {
    const engine = this.engines.find((each) => each.name === this.name);
    const waiting = engine?.queue_length ? ` ${engine.queue_length} waiting.` : "";
    $("engine-note").textContent = engine ? `${engine.summary}${waiting}` : "";
  }
}

/** Engines that follow objects; the one for tests only where nothing else is served. */
function isOffered(engine) {
  return engine.ready && engine.reference_kinds.includes("mask") && (engine.family !== "fake" || engine.default);
}
