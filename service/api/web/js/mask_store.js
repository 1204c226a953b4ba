// The masks of a session as they came: run lengths, not pixels, so that an hour of video fits in a tab.

import { paintRle } from "./rle.js";

export class MaskStore {
  constructor() {
    this.frames = new Map(); // frame index -> mask message with the highest seq
    this.lastFrame = -1;
  }

  add(message) {
    const known = this.frames.get(message.frame_index);
    if (known && known.seq > message.seq) return;
    this.frames.set(message.frame_index, message);
    this.lastFrame = Math.max(this.lastFrame, message.frame_index);
  }

  has(frameIndex) {
    return this.frames.has(frameIndex);
  }

  ptsOf(frameIndex) {
    return this.frames.get(frameIndex)?.pts_s ?? null;
  }

  /** Row-major label map of a frame, or null while it has none. */
  labelMap(frameIndex) {
    const message = this.frames.get(frameIndex);
    if (!message) return null;
    const [height, width] = message.size;
    const labelMap = new Uint8Array(width * height);
    for (const object of message.objects) if (object.rle) paintRle(object.rle, object.object_id, labelMap);
    return { labelMap, width, height };
  }

  /** 0 sure .. 1 unsure; null where nothing is known yet. The worst object decides. */
  doubt(frameIndex) {
    const message = this.frames.get(frameIndex);
    if (!message) return null;
    let worst = 0;
    for (const object of message.objects) {
      const doubt = object.uncertainty ?? 1 - object.score;
      worst = Math.max(worst, object.score === 0 ? 0.5 : doubt);
    }
    return worst;
  }

  /** Up to `count` frames most worth correcting, apart from one another. */
  worstFrames(count, apart = 10, least = 0.25) {
    const ranked = [...this.frames.keys()]
      .map((index) => [this.doubt(index), index])
      .filter(([doubt]) => doubt >= least)
      .sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    const chosen = [];
    for (const [, index] of ranked) {
      if (chosen.length < count && chosen.every((other) => Math.abs(other - index) >= apart)) chosen.push(index);
    }
    return chosen.sort((a, b) => a - b);
  }
}
