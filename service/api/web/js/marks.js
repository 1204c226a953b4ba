// What the person has marked: objects, and for each marked frame a label map, boxes and points. Draws nothing.

export class Marks {
  constructor() {
    this.objects = [];
    this.frames = new Map(); // frame index -> {labelMap, painted, boxes: Map(id -> [x, y, w, h]), points: [{id, x, y}]}
    this.size = { width: 0, height: 0 };
    this.activeId = 0;
  }

  setSize(width, height) {
    this.size = { width, height };
  }

  /** Add an object with the lowest free id and make it the active one. */
  addObject(objectId = this.freeId(), name = `Object ${objectId}`) {
    if (!this.objects.some((object) => object.id === objectId)) {
      this.objects.push({ id: objectId, name, text: "" });
      this.objects.sort((a, b) => a.id - b.id);
    }
    this.activeId = objectId;
    return objectId;
  }

  freeId() {
    let id = 1;
    while (this.objects.some((object) => object.id === id)) id++;
    return id;
  }

  removeObject(objectId) {
    this.objects = this.objects.filter((object) => object.id !== objectId);
    for (const frame of this.frames.values()) {
      frame.labelMap.forEach((label, at) => label === objectId && (frame.labelMap[at] = 0));
      frame.boxes.delete(objectId);
      frame.points = frame.points.filter((point) => point.id !== objectId);
    }
    if (this.activeId === objectId) this.activeId = this.objects[0]?.id ?? 0;
  }

  /** The marks of one frame, made when first asked for. */
  at(frameIndex) {
    if (!this.frames.has(frameIndex)) {
      const { width, height } = this.size;
      this.frames.set(frameIndex, {
        labelMap: new Uint8Array(width * height), touched: new Set(), boxes: new Map(), points: [],
      });
    }
    return this.frames.get(frameIndex);
  }

  has(frameIndex) {
    const frame = this.frames.get(frameIndex);
    return Boolean(frame && (frame.touched.size || frame.boxes.size || frame.points.length));
  }

  markedFrames() {
    return [...this.frames.keys()].filter((index) => this.has(index)).sort((a, b) => a - b);
  }

  clear() {
    this.frames.clear();
    for (const object of this.objects) object.text = "";
  }

  /** Paint a disk of the active object (or background) along a stroke, in pixels of the frame. */
  stroke(frameIndex, from, to, radius, label) {
    const frame = this.at(frameIndex);
    const { width, height } = this.size;
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, radius / 2)));
    for (let step = 0; step <= steps; step++) {
      const x = from.x + ((to.x - from.x) * step) / steps;
      const y = from.y + ((to.y - from.y) * step) / steps;
      for (let row = Math.max(0, Math.ceil(y - radius)); row <= Math.min(height - 1, y + radius); row++) {
        const reach = Math.sqrt(radius * radius - (row - y) ** 2);
        const first = Math.max(0, Math.ceil(x - reach));
        const last = Math.min(width - 1, Math.floor(x + reach));
        if (last >= first) frame.labelMap.fill(label, row * width + first, row * width + last + 1);
      }
    }
    frame.touched.add(this.activeId);
  }

  setBox(frameIndex, objectId, from, to) {
    const clamp = (value, limit) => Math.min(Math.max(value, 0), limit);
    const x0 = clamp(Math.min(from.x, to.x), this.size.width);
    const y0 = clamp(Math.min(from.y, to.y), this.size.height);
    const x1 = clamp(Math.max(from.x, to.x), this.size.width);
    const y1 = clamp(Math.max(from.y, to.y), this.size.height);
    if (x1 - x0 >= 2 && y1 - y0 >= 2) this.at(frameIndex).boxes.set(objectId, [x0, y0, x1 - x0, y1 - y0].map(Math.round));
  }

  addPoint(frameIndex, objectId, at) {
    this.at(frameIndex).points.push({ id: objectId, x: Math.round(at.x), y: Math.round(at.y) });
  }

  /** Take over a finished label map, a loaded PNG or the engine's own masks to correct. */
  setLabelMap(frameIndex, labelMap) {
    const frame = this.at(frameIndex);
    frame.labelMap = Uint8Array.from(labelMap);
    for (const id of new Set(labelMap)) {
      if (id === 0 || id === 255) continue;
      this.addObject(id);
      frame.touched.add(id);
    }
  }
}
