// The masks of a session as they came: run lengths, not pixels, so that an hour of video fits in a tab.

import { paintRle } from "./rle.js";

export class MaskStore {
  constructor() {
    this.frames = new Map(); // frame index -> mask message with the highest seq
    this.lastFrame = -1;
    this.newestFrame = -1; // of the highest seq
    this.lastSeq = -1;
  }

  add(message) {
    if (message.seq > this.lastSeq) {
      this.lastSeq = message.seq;
      this.newestFrame = message.frame_index;
    }
    const known = this.frames.get(message.frame_index);
    if (known && known.seq > message.seq) return;
    this.frames.set(message.frame_index, message);
    this.lastFrame = Math.max(this.lastFrame, message.frame_index);
  }

  /** Drop an object that the server drops as well. */
  forget(objectId) {
    for (const message of this.frames.values()) message.objects = message.objects.filter((item) => item.object_id !== objectId);
  }

  has(frameIndex) {
    return this.frames.has(frameIndex);
  }

  ptsOf(frameIndex) {
    return this.frames.get(frameIndex)?.pts_s ?? null;
  }

  /** Row-major label map of a frame, {labelMap, width, height}, or null while it has none. */
  labelMap(frameIndex) {
    const message = this.frames.get(frameIndex);
    return message ? labelMapOf(message) : null;
  }

  /** {id, score, uncertainty} of a frame's objects; null while it has no masks. */
  objectsAt(frameIndex) {
    const message = this.frames.get(frameIndex);
    return message?.objects.map((item) => ({ id: item.object_id, score: item.score, uncertainty: uncertaintyOf(item) })) ?? null;
  }
}

/** Row-major label map of one mask message. */
export function labelMapOf(message) {
  const [height, width] = message.size;
  const labelMap = new Uint8Array(width * height);
  for (const object of message.objects) if (object.rle) paintRle(object.rle, object.object_id, labelMap);
  return { labelMap, width, height };
}

/** 0 sure to 1 unsure. Masks of older versions do not say; there the score has to do. */
function uncertaintyOf(item) {
  return item.uncertainty ?? 1 - item.score;
}
