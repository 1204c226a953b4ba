// The strip under the picture: one lane per object (there, unsure, gone), what is marked, and where we are.

import { $ } from "./dom.js";
import { brightColourOf } from "./palette.js";

const LANE_PX = 12;
const MOST_LANES = 6;
const MARK_PX = 6;
const UNSURE = "#ffbe3c";
const MARKED = "#ffffff";
const EMPTY = "#22313a";

export class Timeline {
  /** store(): the MaskStore now. jump(frameIndex): the person chose a frame. */
  constructor(marks, store, jump) {
    this.marks = marks;
    this.store = store;
    this.canvas = $("lanes");
    this.scrub = $("scrub");
    this.count = 1;
    this.scrub.addEventListener("input", () => jump(Number(this.scrub.value)));
    this.canvas.addEventListener("pointerdown", (event) => this.canvas.setPointerCapture(event.pointerId));
    for (const name of ["pointerdown", "pointermove"]) {
      this.canvas.addEventListener(name, (event) => event.buttons && jump(this.frameUnder(event)));
    }
  }

  frameUnder(event) {
    const { left, width } = this.canvas.getBoundingClientRect();
    return Math.min(this.count - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * this.count)));
  }

  setCount(count) {
    this.count = Math.max(1, count);
    this.scrub.max = this.count - 1;
    this.setFrame(Number(this.scrub.value));
  }

  setFrame(frameIndex) {
    this.scrub.value = frameIndex;
    this.scrub.setAttribute("aria-valuetext", `Frame ${frameIndex + 1} of ${this.count}`);
    $("frame-number").textContent = `${frameIndex + 1} / ${this.count}`;
  }

  draw() {
    const lanes = this.marks.objects.slice(0, MOST_LANES);
    const width = (this.canvas.width = this.canvas.clientWidth || 600);
    const height = (this.canvas.height = MARK_PX + Math.max(1, lanes.length) * LANE_PX);
    const context = this.canvas.getContext("2d");
    context.fillStyle = EMPTY;
    context.fillRect(0, MARK_PX, width, height - MARK_PX);
    const step = width / this.count;
    for (const frameIndex of this.store().frames.keys()) this.drawFrame(context, frameIndex, step, lanes);
    context.fillStyle = MARKED;
    for (const index of this.marks.markedFrames()) context.fillRect(index * step, 0, Math.max(3, step), MARK_PX - 1);
  }

  /** Draw some frames again, whose masks have come: an hour's timeline is not redrawn for each. */
  update(frameIndices) {
    const lanes = this.marks.objects.slice(0, MOST_LANES);
    const context = this.canvas.getContext("2d");
    for (const frameIndex of frameIndices) this.drawFrame(context, frameIndex, this.canvas.width / this.count, lanes);
  }

  drawFrame(context, frameIndex, step, lanes) {
    const x = Math.floor(frameIndex * step);
    const wide = Math.ceil((frameIndex + 1) * step) - x;
    context.fillStyle = EMPTY;
    context.fillRect(x, MARK_PX, wide, this.canvas.height - MARK_PX);
    for (const { id, score, uncertainty } of this.store().objectsAt(frameIndex)) {
      const lane = lanes.findIndex((object) => object.id === id);
      if (lane < 0 || score === 0) continue;
      const y = MARK_PX + lane * LANE_PX;
      context.fillStyle = lanes[lane].color ?? brightColourOf(id);
      context.globalAlpha = 0.55;
      context.fillRect(x, y + 1, wide, LANE_PX - 2);
      context.globalAlpha = 1;
      context.fillStyle = UNSURE;
      const tall = Math.round((LANE_PX - 2) * Math.min(1, uncertainty));
      context.fillRect(x, y + LANE_PX - 1 - tall, wide, tall);
      context.fillStyle = "#000000";
      if (tall) context.fillRect(x, y + LANE_PX - 2 - tall, wide, 1); // an edge, for lanes that are amber themselves
    }
  }
}
