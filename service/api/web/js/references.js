// Marks -> the form that the API takes. The one place that knows its field names.

import { labelMapToPng } from "./png.js";

/**
 * {form, count}: a `references` list with one entry per mark; masks go as files that the list names.
 * `frameIndices` limits it to some frames.
 */
export async function referenceForm(marks, frameIndices = marks.markedFrames()) {
  const form = new FormData();
  const references = [];
  for (const frameIndex of frameIndices) {
    const { entries, labelMap } = entriesOf(marks, frameIndex);
    if (labelMap) {
      const part = `mask_${frameIndex}`;
      form.append(part, await labelMapToPng(labelMap, marks.size.width, marks.size.height), `${part}.png`);
      for (const entry of entries) if (entry.kind === "mask") entry.mask = part;
    }
    references.push(...entries);
  }
  if (references.length) form.append("references", JSON.stringify(references));
  return { form, count: references.length };
}

/** The marks of frame 0 as `WS /live` takes them: {references, mask_0?}, without frame numbers, the file as base64. */
export async function liveReferences(marks) {
  const { entries, labelMap } = entriesOf(marks, 0);
  const references = entries.map(({ frame_index: _, ...entry }) => (entry.kind === "mask" ? { ...entry, mask: "mask_0" } : entry));
  if (!labelMap) return { references };
  const png = await labelMapToPng(labelMap, marks.size.width, marks.size.height);
  return { references, mask_0: await base64Of(png) };
}

async function base64Of(blob) {
  const url = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(blob);
  });
  return url.slice(url.indexOf(",") + 1);
}

/** The entries of one frame, and the label map of those that are masks (null if there are none). */
export function entriesOf(marks, frameIndex) {
  const frame = marks.frames.get(frameIndex);
  const entry = (id, kind, what) => {
    const { name, color } = marks.object(id) ?? {};
    return { object_id: id, frame_index: frameIndex, kind, name, color, ...what };
  };
  const painted = presentIn(frame);
  const entries = [
    ...[...painted].map((id) => entry(id, "mask")),
    ...[...frame.boxes].map(([id, box]) => entry(id, "box", { box })),
    ...[...frame.points].map(([id, points]) => entry(id, "point", { points })),
    ...[...frame.texts].map(([id, text]) => entry(id, "text", { text })),
  ];
  const labelMap = painted.size ? frame.labelMap.map((label) => (painted.has(label) ? label : 0)) : null;
  return { entries, labelMap };
}

/** Painted objects of which something is left: one that was erased wholly says nothing that the API could take. */
function presentIn(frame) {
  const left = new Set(frame.labelMap ?? []);
  return new Set([...frame.painted].filter((id) => left.has(id)));
}
