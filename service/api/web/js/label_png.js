// A mask PNG that a person has -> label map. Ids are kept where the file holds ids: grey values, or the field's palette.

import { Problem } from "./problems.js";
import { colourOf } from "./palette.js";

const DEPTH = 24;
const KIND = 25;
const GREY = 0;
const PALETTE = 3;

/** {labelMap, width, height}. File: an indexed or grey PNG; of another, every colour that is not black is an object. Throws Problem. */
export async function readLabelPng(file) {
  const header = new Uint8Array(await file.slice(0, 26).arrayBuffer());
  if (String.fromCharCode(...header.slice(1, 4)) !== "PNG") throw refused("is no PNG file", `masks are indexed or grey PNGs of the video's size, ${file.name} is something else`);
  if (header[DEPTH] > 8) throw refused("has 16 bits per pixel", "ids go from 1 to 254: convert its values to 8 bits, not its contrast");
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
  const idOf = header[KIND] === GREY ? greyIds(pixels) : coloured(header[KIND] === PALETTE);
  const labelMap = Uint8Array.from(pixels, (pixel) => idOf(pixel & 0xffffff));
  if (!labelMap.some((id) => id > 0)) throw refused("holds no object", "every pixel is 0: give the object's pixels an id from 1 to 254");
  return { labelMap, width, height };
}

function refused(what, detail) {
  return new Problem({ title: `The mask ${what}`, detail });
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
