// Which frames are most worth a look: where an object is lost or comes back, and where the engine was least sure.

const LEAST_DOUBT = 0.2;

/**
 * Up to `count` of {frameIndex, objectId, reason: "lost" | "unsure"} in frame order, at least `apart` frames from one
 * another and from the frames in `reference` (those that the person has given). store: a MaskStore.
 */
export function suggest(store, { count = 5, apart = 8, reference = [] } = {}) {
  const found = [...candidates(store)].sort((a, b) => b.doubt - a.doubt || a.frameIndex - b.frameIndex);
  const chosen = [];
  for (const each of found) {
    if (chosen.length === count) break;
    const near = (frameIndex) => Math.abs(frameIndex - each.frameIndex) < apart;
    if (!reference.some((index) => index === each.frameIndex) && !chosen.some(({ frameIndex }) => near(frameIndex))) chosen.push(each);
  }
  return chosen.sort((a, b) => a.frameIndex - b.frameIndex);
}

function* candidates(store) {
  const seen = new Map(); // object id -> whether it was visible in the frame before
  for (const frameIndex of [...store.frames.keys()].sort((a, b) => a - b)) {
    for (const { id, score, uncertainty } of store.objectsAt(frameIndex)) {
      const visible = score > 0;
      if (!visible && seen.get(id)) yield { frameIndex, objectId: id, reason: "lost", doubt: 1 };
      if (visible && uncertainty >= LEAST_DOUBT) yield { frameIndex, objectId: id, reason: "unsure", doubt: uncertainty };
      seen.set(id, visible);
    }
  }
}
