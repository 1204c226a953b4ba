// Zooming and moving the picture: wheel with Ctrl, two fingers, or the buttons. Changes how it is shown, never what.

const MOST = 8;

export class Zoom {
  /** frame: the window onto the picture. picture: what is scaled in it. gesture(): two fingers came down. */
  constructor(frame, picture, gesture) {
    this.frame = frame;
    this.picture = picture;
    this.gesture = gesture;
    this.touches = new Map();
    this.reset();
    frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    frame.addEventListener("pointerdown", (event) => this.touch(event), { capture: true });
    frame.addEventListener("pointermove", (event) => this.pinch(event), { capture: true });
    for (const name of ["pointerup", "pointercancel"]) {
      frame.addEventListener(name, (event) => this.touches.delete(event.pointerId), { capture: true });
    }
  }

  get pinching() {
    return this.touches.size > 1;
  }

  reset() {
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.apply();
  }

  /** Scale by a factor, keeping the point (in the window's pixels; its middle if left out) where it is. */
  by(factor, at = { x: this.frame.clientWidth / 2, y: this.frame.clientHeight / 2 }) {
    const scale = Math.min(MOST, Math.max(1, this.scale * factor));
    this.x = at.x - ((at.x - this.x) * scale) / this.scale;
    this.y = at.y - ((at.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.apply();
  }

  apply() {
    const { clientWidth, clientHeight } = this.frame;
    this.x = Math.min(0, Math.max(this.x, clientWidth * (1 - this.scale)));
    this.y = Math.min(0, Math.max(this.y, clientHeight * (1 - this.scale)));
    this.picture.style.transform = this.scale === 1 ? "" : `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
  }

  wheel(event) {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    this.by(Math.exp(-event.deltaY / 300), this.inFrame(event));
  }

  inFrame(event) {
    const { left, top } = this.frame.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  touch(event) {
    if (event.pointerType !== "touch") return;
    this.touches.set(event.pointerId, this.inFrame(event));
    if (this.pinching) this.gesture();
  }

  pinch(event) {
    if (!this.touches.has(event.pointerId)) return;
    const before = this.spread();
    this.touches.set(event.pointerId, this.inFrame(event));
    if (!this.pinching) return;
    const after = this.spread();
    this.x += after.middle.x - before.middle.x;
    this.y += after.middle.y - before.middle.y;
    this.by(after.distance / Math.max(1, before.distance), after.middle);
  }

  spread() {
    const [a, b = a] = [...this.touches.values()];
    return { middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, distance: Math.hypot(a.x - b.x, a.y - b.y) };
  }
}
