// The result as files, in every format that the API makes.

import * as api from "./api.js";
import { $, button, element } from "./dom.js";
import { guarded } from "./problems.js";

/** [format, title, what it is good for, file name's end] */
export const FORMATS = [
  ["png", "Indexed PNGs", "one per frame, DAVIS layout", "zip"],
  ["png-binary", "PNGs per object", "black and white", "zip"],
  ["overlay", "Overlay video", "to look at", "mp4"],
  ["matte", "Matte video", "for compositing", "mp4"],
  ["probability", "Probabilities", "video per object, if kept", "zip"],
  ["coco", "COCO", "annotations", "json"],
  ["youtube-vis", "YouTube-VIS", "annotations", "json"],
  ["label-studio", "Label Studio", "to import", "json"],
  ["cvat", "CVAT", "to import", "xml"],
  ["rle", "Run lengths", "one line per frame", "jsonl"],
];

/** Offer all formats. partial: the session was not completed, take what is there. hasPictures: so that masks can be drawn over them. */
export function drawDownloads(sessionId, { partial, hasPictures }) {
  const rows = FORMATS.filter(([format]) => hasPictures || format !== "overlay").map(([format, title, about, suffix]) => {
    const path = `sessions/${sessionId}/masks?format=${format}&partial=${partial}`;
    const fetch = guarded(async () => {
      choice.disabled = true;
      try {
        await api.download(path, `${sessionId}-${format}.${suffix}`);
      } finally {
        choice.disabled = false;
      }
    });
    const choice = button("", fetch, { dataset: { format } });
    choice.append(element("b", {}, title), element("small", {}, `${about} · ${suffix}`));
    return element("li", {}, choice);
  });
  $("download-list").replaceChildren(...rows);
}
