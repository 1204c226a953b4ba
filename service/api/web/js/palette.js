// The palette of the field (PASCAL VOC / DAVIS), so that colours match the PNGs people download.

/** [r, g, b] of an object id. */
export function colourOf(objectId) {
  let [r, g, b] = [0, 0, 0];
  for (let id = objectId, bit = 7; id > 0; id >>= 3, bit--) {
    r |= (id & 1) << bit;
    g |= ((id >> 1) & 1) << bit;
    b |= ((id >> 2) & 1) << bit;
  }
  return [r, g, b];
}

/** The same as a CSS colour. */
export function cssColour(objectId, alpha = 1) {
  return `rgb(${colourOf(objectId).join(" ")} / ${alpha})`;
}

/** RGBA table over all ids, for filling image data; background is clear. */
export function rgbaTable(alpha) {
  const table = new Uint32Array(256);
  const bytes = new Uint8Array(table.buffer);
  for (let id = 1; id < 256; id++) bytes.set([...colourOf(id), alpha], id * 4);
  return table;
}
