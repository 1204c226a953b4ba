// A mask PNG that a person has -> label map. Ids are kept where the file holds ids: grey values, or the field's palette.

import { Problem } from "./problems.js";
import { colourOf } from "./palette.js";

const GREY = 0;
const PALETTE = 3;

/** {labelMap, width, height}. File: an indexed or grey PNG; of another, every colour that is not black is an object. */
export async function readLabelPng(file) {
  const header = new Uint8Array(await file.slice(0, 26).arrayBuffer());
  if (String.fromCharCode(...header.slice(1, 4)) !== "PNG") throw new Problem({ title: "That is no PNG file", detail: file.name });
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
  const idOf = header[25] === GREY ? greyIds(pixels) : coloured(header[25] === PALETTE);
  return { labelMap: Uint8Array.from(pixels, (pixel) => idOf(pixel & 0xffffff)), width, height };
}

/** Grey values are ids; a file of 0 and 255 alone is one object. */
function greyIds(pixels) {
  const values = new Set(pixels.map((pixel) => pixel & 255));
  const binary = [...values].every((value) => value === 0 || value === 255);
  return (rgb) => (binary ? Number(rgb > 0) : rgb & 255);
}

/** Colours of the field's palette are its ids; others get the free ids in order of appearance. */
function coloured(indexed) {
  const ids = new Map([[0, 0]]);
  if (indexed) for (let id = 1; id < 255; id++) ids.set(packed(colourOf(id)), id);
  let next = 1;
  const fresh = (rgb) => {
    ids.set(rgb, next);
    return next++;
  };
  return (rgb) => ids.get(rgb) ?? fresh(rgb);
}

function packed([r, g, b]) {
  return r | (g << 8) | (b << 16);
}
