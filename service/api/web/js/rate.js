// How fast something goes just now, from when its events came.

const WINDOW_MS = 5000;

export class Rate {
  constructor() {
    this.times = [];
  }

  add(now = performance.now()) {
    this.times.push(now);
    while (this.times[0] < now - WINDOW_MS) this.times.shift();
  }

  /** Events per second over the last seconds; null while there are too few to tell. */
  perSecond() {
    const span = this.times.at(-1) - this.times[0];
    return this.times.length > 2 && span > 0 ? ((this.times.length - 1) * 1000) / span : null;
  }
}
