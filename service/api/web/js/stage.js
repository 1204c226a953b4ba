// The picture: masks over the frame, marks over the masks, and the hand that marks.

import { $ } from "./dom.js";
import { brightColourOf, rgbaTable } from "./palette.js";
import { Zoom } from "./zoom.js";

const MASK_ALPHA = 140;
const MARK_ALPHA = 180;
const SHARP_PX = 1280; // at least so many pixels across for lines, however small the video is
const KEY_STEP_PX = 12;
const FINE_KEY_STEP_PX = 2;

export class Stage {
  /**
   * marks: the model. changed(): called after every finished mark. begin(frameIndex, tool): called before one, so that
   * there is something to correct and something to undo.
   */
  constructor(marks, { begin, changed }) {
    this.maskCanvas = $("masks");
    this.markCanvas = $("marks");
    this.marks = marks;
    this.begin = begin;
    this.changed = changed;
    this.tool = "brush";
    this.radius = 18;
    this.outside = false; // points say what is not the object
    this.enabled = true;
    this.frameIndex = 0;
    this.gesture = null; // {tool, start, last} while a pointer is down
    this.cursor = null;
    this.sharpness = 1; // pixels of the marks' canvas per pixel of the frame
    this.corner = null; // first corner of a box drawn by keyboard
    this.zoom = new Zoom($("stage"), $("picture"), () => this.abandon());
    const on = (name, handler) => this.markCanvas.addEventListener(name, handler.bind(this));
    on("pointerdown", this.down);
    on("pointermove", this.move);
    on("pointerup", this.up);
    on("pointercancel", this.up);
    on("pointerleave", this.leave);
    on("keydown", this.keyboard);
  }

  resize(width, height) {
    this.sharpness = Math.max(1, Math.ceil(SHARP_PX / width));
    Object.assign(this.maskCanvas, { width, height });
    Object.assign(this.markCanvas, { width: width * this.sharpness, height: height * this.sharpness });
    $("stage").style.setProperty("--ratio", width / height);
    this.zoom.reset();
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  /** Show the masks of a frame ({labelMap, width, height}, or null), unless its marks have taken their place. */
  drawMasks(picture) {
    const context = this.maskCanvas.getContext("2d");
    const { width, height } = this.maskCanvas;
    context.clearRect(0, 0, width, height);
    if (!picture || this.marks.frames.get(this.frameIndex)?.labelMap) return;
    const table = rgbaTable(this.marks.colours, MASK_ALPHA);
    context.drawImage(toCanvas(picture.labelMap, picture.width, picture.height, table), 0, 0, width, height);
  }

  drawMarks() {
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = null;
      this.paintMarks();
    });
  }

  paintMarks() {
    const { width, height } = this.marks.size;
    const context = this.markCanvas.getContext("2d");
    context.setTransform(this.sharpness, 0, 0, this.sharpness, 0, 0);
    context.clearRect(0, 0, width, height);
    const frame = this.marks.frames.get(this.frameIndex);
    if (frame?.labelMap) {
      context.drawImage(toCanvas(frame.labelMap, width, height, rgbaTable(this.marks.colours, MARK_ALPHA)), 0, 0);
    }
    for (const [id, box] of frame?.boxes ?? []) this.outline(context, box, id);
    for (const [id, points] of frame?.points ?? []) for (const point of points) this.dot(context, point, id);
    const begun = this.gesture?.tool === "box" ? this.gesture.start : this.corner;
    const until = this.gesture?.tool === "box" ? this.gesture.last : this.cursor;
    if (begun && until) this.outline(context, [begun.x, begun.y, until.x - begun.x, until.y - begun.y], this.marks.activeId);
    if (this.cursor && this.enabled) this.ring(context);
  }

  colour(objectId) {
    return this.marks.object(objectId)?.color ?? brightColourOf(objectId);
  }

  /** A length on the screen in the picture's pixels, so that lines look the same in every video. */
  px(length) {
    return (length * this.marks.size.width) / Math.max(1, this.markCanvas.getBoundingClientRect().width);
  }

  outline(context, [x, y, width, height], id) {
    for (const [colour, wide] of [["#000", 4], [this.colour(id), 2]]) {
      context.lineWidth = this.px(wide);
      context.strokeStyle = colour;
      context.strokeRect(x, y, width, height);
    }
  }

  dot(context, [x, y, inside], id) {
    const radius = this.px(7);
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = inside ? this.colour(id) : "#000";
    context.strokeStyle = inside ? "#fff" : this.colour(id);
    context.lineWidth = this.px(2.5);
    context.fill();
    context.stroke();
    context.beginPath();
    context.moveTo(x - radius / 2, y);
    context.lineTo(x + radius / 2, y);
    if (inside) {
      context.moveTo(x, y - radius / 2);
      context.lineTo(x, y + radius / 2);
    }
    context.stroke();
  }

  ring(context) {
    const brushing = this.tool === "brush" || this.tool === "erase";
    for (const [colour, wide] of [["#000", 3], [this.tool === "erase" ? "#fff" : this.colour(this.marks.activeId || 1), 1.5]]) {
      context.beginPath();
      context.arc(this.cursor.x, this.cursor.y, brushing ? this.radius : this.px(6), 0, 2 * Math.PI);
      context.strokeStyle = colour;
      context.lineWidth = this.px(wide);
      context.stroke();
    }
  }

  // --- the pointer --------------------------------------------------------------------------------------------------

  position(event) {
    const bounds = this.markCanvas.getBoundingClientRect();
    return {
      x: ((event.clientX - bounds.left) / bounds.width) * this.marks.size.width,
      y: ((event.clientY - bounds.top) / bounds.height) * this.marks.size.height,
    };
  }

  down(event) {
    if (event.button > 0 || !this.enabled || !this.marks.size.width || this.zoom.pinching) return;
    this.markCanvas.setPointerCapture(event.pointerId);
    this.startAt(this.position(event));
  }

  startAt(at) {
    this.begin(this.frameIndex, this.tool);
    if (!this.marks.activeId) this.marks.addObject();
    this.gesture = { tool: this.tool, start: at, last: at };
    this.apply(at);
  }

  move(event) {
    const at = this.position(event);
    this.cursor = event.pointerType === "touch" ? null : at;
    if (this.gesture && this.gesture.tool !== "point") this.apply(at);
    else this.drawMarks();
  }

  up() {
    if (!this.gesture) return;
    const { tool, start, last } = this.gesture;
    this.gesture = null;
    if (tool === "box") this.marks.setBox(this.frameIndex, this.marks.activeId, start, last);
    this.finish();
  }

  /** A second finger came down: it was no mark, but the beginning of a pinch. */
  abandon() {
    if (!this.gesture) return;
    this.gesture = null;
    this.marks.undo();
    this.finish();
  }

  finish() {
    this.drawMarks();
    this.changed();
  }

  leave() {
    this.cursor = null;
    this.drawMarks();
  }

  apply(at) {
    const { tool, last } = this.gesture;
    if (tool === "brush") this.marks.stroke(this.frameIndex, last, at, this.radius, this.marks.activeId);
    if (tool === "erase") this.marks.stroke(this.frameIndex, last, at, this.radius, 0);
    if (tool === "point") this.marks.addPoint(this.frameIndex, this.marks.activeId, at, !this.outside);
    this.gesture.last = at;
    this.drawMarks();
  }

  // --- the keyboard -------------------------------------------------------------------------------------------------

  /** Marking without a pointer: arrows move a cursor, Enter marks there. */
  keyboard(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { width, height } = this.marks.size;
    if (!width || !this.enabled) return;
    this.cursor ??= { x: width / 2, y: height / 2 };
    if (steps[event.key]) {
      const stride = event.shiftKey ? FINE_KEY_STEP_PX : KEY_STEP_PX;
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
    if (this.tool === "box" && !this.corner) {
      this.corner = { ...this.cursor };
      return;
    }
    this.startAt(this.corner ?? { ...this.cursor });
    this.gesture.last = { ...this.cursor };
    this.corner = null;
    this.up();
  }
}

/** An offscreen canvas of a label map in the colours of a table. */
export function toCanvas(labelMap, width, height, table) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < labelMap.length; at++) pixels[at] = table[labelMap[at]];
  context.putImageData(image, 0, 0);
  return canvas;
}
