// What the person has marked: objects, and on each frame one mark per object. Draws nothing, sends nothing.

import { brightColourOf } from "./palette.js";

const MOST_UNDO_BYTES = 64 << 20;

/**
 * A frame's marks. Each object has at most one of: pixels in labelMap (its id stands in `painted`), a box
 * [x, y, width, height], points [[x, y, 1 inside | 0 outside]], a text. labelMap is null until something is painted.
 */
function emptyFrame() {
  return { labelMap: null, painted: new Set(), boxes: new Map(), points: new Map(), texts: new Map() };
}

function copyOf(frame) {
  return {
    labelMap: frame.labelMap && Uint8Array.from(frame.labelMap),
    painted: new Set(frame.painted),
    boxes: new Map(frame.boxes),
    points: new Map(frame.points),
    texts: new Map(frame.texts),
  };
}

export class Marks {
  constructor() {
    this.objects = []; // {id, name, color}, by id
    this.frames = new Map(); // frame index -> frame
    this.size = { width: 0, height: 0 };
    this.activeId = 0;
    this.undone = [];
    this.done = [];
  }

  setSize(width, height) {
    this.size = { width, height };
  }

  object(objectId) {
    return this.objects.find((object) => object.id === objectId);
  }

  nameOf(objectId) {
    return this.object(objectId)?.name ?? `Object ${objectId}`;
  }

  /** Object id -> "#rrggbb". */
  get colours() {
    return new Map(this.objects.map((object) => [object.id, object.color]));
  }

  /** Add an object, with the lowest free id if none is given, and make it the active one. */
  addObject({ id = this.freeId(), name = null, color = null } = {}) {
    if (!this.object(id)) {
      this.objects.push({ id, name: name ?? `Object ${id}`, color: color ?? brightColourOf(id) });
      this.objects.sort((a, b) => a.id - b.id);
    }
    this.activeId = id;
    return id;
  }

  freeId() {
    let id = 1;
    while (this.object(id)) id++;
    return id;
  }

  /** Forget an object and all its marks. */
  removeObject(objectId) {
    this.remember(...this.frames.keys());
    this.objects = this.objects.filter((object) => object.id !== objectId);
    for (const frame of this.frames.values()) unmark(frame, objectId);
    if (this.activeId === objectId) this.activeId = this.objects[0]?.id ?? 0;
  }

  /** The marks of one frame, made when first asked for. */
  at(frameIndex) {
    if (!this.frames.has(frameIndex)) this.frames.set(frameIndex, emptyFrame());
    return this.frames.get(frameIndex);
  }

  has(frameIndex) {
    return kindsAt(this.frames.get(frameIndex)).length > 0;
  }

  markedFrames() {
    return [...this.frames.keys()].filter((index) => this.has(index)).sort((a, b) => a - b);
  }

  /** [{frameIndex, kind}] of an object. */
  marksOf(objectId) {
    const found = [];
    for (const frameIndex of this.markedFrames()) {
      for (const { id, kind } of kindsAt(this.frames.get(frameIndex))) if (id === objectId) found.push({ frameIndex, kind });
    }
    return found;
  }

  clear() {
    this.frames.clear();
    this.done = [];
    this.undone = [];
  }

  // --- marking ------------------------------------------------------------------------------------------------------

  /** Where painting begins on a frame that has masks already; what is left untouched counts as no mark. */
  adopt(frameIndex, labelMap) {
    const frame = this.at(frameIndex);
    frame.labelMap ??= Uint8Array.from(labelMap);
  }

  /** Paint a disk along a stroke, in pixels of the frame. label 0 erases, whatever object is there. */
  stroke(frameIndex, from, to, radius, label) {
    const frame = this.at(frameIndex);
    frame.labelMap ??= new Uint8Array(this.size.width * this.size.height);
    if (label && !frame.painted.has(label)) unmark(frame, label, { keepPixels: true });
    if (label) frame.painted.add(label);
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, radius / 2)));
    for (let step = 0; step <= steps; step++) {
      this.disk(frame, from.x + ((to.x - from.x) * step) / steps, from.y + ((to.y - from.y) * step) / steps, radius, label);
    }
  }

  disk(frame, x, y, radius, label) {
    const { width, height } = this.size;
    for (let row = Math.max(0, Math.ceil(y - radius)); row <= Math.min(height - 1, y + radius); row++) {
      const reach = Math.sqrt(radius * radius - (row - y) ** 2);
      const first = row * width + Math.max(0, Math.ceil(x - reach));
      const last = row * width + Math.min(width - 1, Math.floor(x + reach));
      if (!label) for (let at = first; at <= last; at++) if (frame.labelMap[at]) frame.painted.add(frame.labelMap[at]);
      if (last >= first) frame.labelMap.fill(label, first, last + 1);
    }
  }

  setBox(frameIndex, objectId, from, to) {
    const clamp = (value, limit) => Math.min(Math.max(value, 0), limit);
    const x0 = clamp(Math.min(from.x, to.x), this.size.width);
    const y0 = clamp(Math.min(from.y, to.y), this.size.height);
    const x1 = clamp(Math.max(from.x, to.x), this.size.width);
    const y1 = clamp(Math.max(from.y, to.y), this.size.height);
    if (x1 - x0 < 2 || y1 - y0 < 2) return;
    unmark(this.at(frameIndex), objectId);
    this.at(frameIndex).boxes.set(objectId, [x0, y0, x1 - x0, y1 - y0].map(Math.round));
  }

  /** Add a click: on the object, or on what is not. Other clicks of the object on this frame stay. */
  addPoint(frameIndex, objectId, { x, y }, inside) {
    const frame = this.at(frameIndex);
    const others = frame.points.get(objectId) ?? [];
    unmark(frame, objectId);
    const within = (value, limit) => Math.min(Math.max(Math.floor(value), 0), limit - 1);
    frame.points.set(objectId, [...others, [within(x, this.size.width), within(y, this.size.height), inside ? 1 : 0]]);
  }

  setText(frameIndex, objectId, text) {
    unmark(this.at(frameIndex), objectId);
    if (text) this.at(frameIndex).texts.set(objectId, text);
  }

  unmark(frameIndex, objectId) {
    unmark(this.at(frameIndex), objectId);
  }

  /** Take over a finished label map: a loaded PNG. names: object id -> name. */
  setLabelMap(frameIndex, labelMap, names = {}) {
    const frame = this.at(frameIndex);
    frame.labelMap = Uint8Array.from(labelMap);
    frame.painted.clear();
    for (const id of [...new Set(labelMap)].sort((a, b) => a - b)) {
      if (id === 0 || id === 255) continue;
      this.addObject({ id });
      if (names[id]) this.object(id).name = names[id];
      unmark(frame, id, { keepPixels: true });
      frame.painted.add(id);
    }
  }

  // --- undo ---------------------------------------------------------------------------------------------------------

  /** Call before a change to these frames: undo() comes back to here. */
  remember(...frameIndices) {
    this.done.push(this.snapshot(frameIndices));
    this.undone = [];
    let bytes = 0;
    const kept = this.done.findLastIndex((step) => (bytes += step.bytes) > MOST_UNDO_BYTES);
    this.done.splice(0, kept + 1);
  }

  undo() {
    this.swap(this.done, this.undone);
  }

  redo() {
    this.swap(this.undone, this.done);
  }

  swap(from, to) {
    const step = from.pop();
    if (!step) return;
    to.push(this.snapshot([...step.frames.keys()]));
    this.objects = step.objects;
    this.activeId = step.activeId;
    for (const [index, frame] of step.frames) this.frames.set(index, frame);
  }

  snapshot(frameIndices) {
    const frames = new Map(frameIndices.map((index) => [index, copyOf(this.frames.get(index) ?? emptyFrame())]));
    const bytes = [...frames.values()].reduce((sum, frame) => sum + (frame.labelMap?.length ?? 0), 1000);
    return { frames, objects: this.objects.map((object) => ({ ...object })), activeId: this.activeId, bytes };
  }
}

/** [{id, kind}] of a frame's marks. */
function kindsAt(frame) {
  if (!frame) return [];
  const groups = [[frame.painted, "mask"], [frame.boxes.keys(), "box"], [frame.points.keys(), "point"], [frame.texts.keys(), "text"]];
  return groups.flatMap(([ids, kind]) => [...ids].map((id) => ({ id, kind })));
}

function unmark(frame, objectId, { keepPixels = false } = {}) {
  for (const kind of [frame.boxes, frame.points, frame.texts]) kind.delete(objectId);
  if (keepPixels || !frame.labelMap) return;
  if (frame.painted.delete(objectId)) {
    for (let at = 0; at < frame.labelMap.length; at++) if (frame.labelMap[at] === objectId) frame.labelMap[at] = 0;
  }
}
