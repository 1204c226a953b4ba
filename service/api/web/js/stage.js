// The picture: masks over the frame, marks over the masks, and the hand that marks.

import { cssColour, rgbaTable } from "./palette.js";

const MASK_TABLE = rgbaTable(140);
const MARK_TABLE = rgbaTable(190);

export class Stage {
  /** element: holds #masks and #marks. marks: the model. changed(): called after every mark. */
  constructor(element, marks, changed) {
    this.maskCanvas = element.querySelector("#masks");
    this.markCanvas = element.querySelector("#marks");
    this.marks = marks;
    this.changed = changed;
    this.tool = "brush";
    this.radius = 18;
    this.frameIndex = 0;
    this.pointer = null;
    this.cursor = null;
    for (const [name, handler] of [
      ["pointerdown", this.down], ["pointermove", this.move], ["pointerup", this.up], ["pointercancel", this.up],
      ["pointerleave", this.leave],
    ]) this.markCanvas.addEventListener(name, handler.bind(this));
    this.markCanvas.addEventListener("keydown", this.keyboard.bind(this));
  }

  resize(width, height) {
    for (const canvas of [this.maskCanvas, this.markCanvas]) {
      canvas.width = width;
      canvas.height = height;
    }
  }

  /** Show a label map, or clear it with null. */
  drawMasks(picture) {
    const context = this.maskCanvas.getContext("2d");
    context.clearRect(0, 0, this.maskCanvas.width, this.maskCanvas.height);
    if (picture) context.drawImage(toCanvas(picture.labelMap, picture.width, picture.height, MASK_TABLE), 0, 0,
      this.maskCanvas.width, this.maskCanvas.height);
  }

  drawMarks() {
    const { width, height } = this.marks.size;
    const context = this.markCanvas.getContext("2d");
    context.clearRect(0, 0, this.markCanvas.width, this.markCanvas.height);
    const frame = this.marks.frames.get(this.frameIndex);
    if (frame) {
      context.drawImage(toCanvas(frame.labelMap, width, height, MARK_TABLE), 0, 0);
      for (const [id, box] of frame.boxes) this.outline(context, box, id);
      for (const point of frame.points) this.dot(context, point);
    }
    if (this.pointer?.tool === "box") {
      const { start, last } = this.pointer;
      this.outline(context, [start.x, start.y, last.x - start.x, last.y - start.y], this.marks.activeId);
    }
    if (this.cursor) this.ring(context);
  }

  outline(context, [x, y, width, height], id) {
    context.lineWidth = Math.max(2, this.marks.size.width / 300);
    context.strokeStyle = cssColour(id);
    context.setLineDash([8, 5]);
    context.strokeRect(x, y, width, height);
    context.setLineDash([]);
  }

  dot(context, point) {
    context.beginPath();
    context.arc(point.x, point.y, Math.max(4, this.marks.size.width / 130), 0, 2 * Math.PI);
    context.fillStyle = cssColour(point.id);
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.fill();
    context.stroke();
  }

  ring(context) {
    const brushing = this.tool === "brush" || this.tool === "erase";
    context.beginPath();
    context.arc(this.cursor.x, this.cursor.y, brushing ? this.radius : 6, 0, 2 * Math.PI);
    context.strokeStyle = this.tool === "erase" ? "#fff" : cssColour(this.marks.activeId || 1);
    context.lineWidth = 1.5;
    context.stroke();
  }

  position(event) {
    const bounds = this.markCanvas.getBoundingClientRect();
    return {
      x: ((event.clientX - bounds.left) / bounds.width) * this.marks.size.width,
      y: ((event.clientY - bounds.top) / bounds.height) * this.marks.size.height,
    };
  }

  down(event) {
    if (event.button > 0 || !this.marks.size.width) return;
    if (!this.marks.activeId) this.marks.addObject();
    this.markCanvas.setPointerCapture(event.pointerId);
    const at = this.position(event);
    this.pointer = { tool: this.tool, start: at, last: at };
    this.apply(at);
  }

  move(event) {
    const at = this.position(event);
    this.cursor = event.pointerType === "touch" ? null : at;
    if (this.pointer && this.pointer.tool !== "point") this.apply(at);
    else this.drawMarks();
  }

  up() {
    if (!this.pointer) return;
    const { tool, start, last } = this.pointer;
    this.pointer = null;
    if (tool === "box") this.marks.setBox(this.frameIndex, this.marks.activeId, start, last);
    this.drawMarks();
    this.changed();
  }

  leave() {
    this.cursor = null;
    this.drawMarks();
  }

  apply(at) {
    const { tool, last } = this.pointer;
    if (tool === "brush") this.marks.stroke(this.frameIndex, last, at, this.radius, this.marks.activeId);
    if (tool === "erase") this.marks.stroke(this.frameIndex, last, at, this.radius, 0);
    if (tool === "point") this.marks.addPoint(this.frameIndex, this.marks.activeId, at);
    this.pointer.last = at;
    this.drawMarks();
  }

  /** Marking without a pointer: arrows move a cursor, Enter marks there. */
  keyboard(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { width, height } = this.marks.size;
    if (!width) return;
    this.cursor ??= { x: width / 2, y: height / 2 };
    if (steps[event.key]) {
      const stride = event.shiftKey ? 2 : 12;
      this.cursor.x = Math.min(Math.max(this.cursor.x + steps[event.key][0] * stride, 0), width - 1);
      this.cursor.y = Math.min(Math.max(this.cursor.y + steps[event.key][1] * stride, 0), height - 1);
    } else if (event.key === "Enter") {
      this.keyboardMark();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    this.drawMarks();
  }

  keyboardMark() {
    if (!this.marks.activeId) this.marks.addObject();
    const at = { ...this.cursor };
    if (this.tool === "box" && !this.boxCorner) {
      this.boxCorner = at;
      return;
    }
    if (this.tool === "box") {
      this.marks.setBox(this.frameIndex, this.marks.activeId, this.boxCorner, at);
      this.boxCorner = null;
    } else {
      this.pointer = { tool: this.tool, start: at, last: at };
      this.apply(at);
      this.pointer = null;
    }
    this.changed();
  }
}

/** An offscreen canvas of a label map in palette colours. */
export function toCanvas(labelMap, width, height, table) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < labelMap.length; at++) pixels[at] = table[labelMap[at]];
  context.putImageData(image, 0, 0);
  return canvas;
}
