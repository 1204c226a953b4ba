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

/** The same hue, bright enough to stand out from a picture: the palette's first colours are dark. "#rrggbb". */
export function brightColourOf(objectId) {
  const colour = colourOf(objectId);
  const lift = 217 / Math.max(...colour, 1);
  return toHex(colour.map((value) => Math.round(value * lift + 38)));
}

/** RGBA table over all ids, for filling image data; background is clear. colours: object id -> "#rrggbb". */
export function rgbaTable(colours, alpha) {
  const table = new Uint32Array(256);
  const bytes = new Uint8Array(table.buffer);
  for (let id = 1; id < 256; id++) bytes.set([...fromHex(colours.get(id) ?? brightColourOf(id)), alpha], id * 4);
  return table;
}

function toHex(rgb) {
  return `#${rgb.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

function fromHex(text) {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}
