// Marks -> the form that the API takes. The one place that knows its field names.

import { labelMapToPng } from "./png.js";

/** One entry of the references list for each mark; masks go as files that the list names. */
export async function referenceForm(marks) {
  const form = new FormData();
  const references = [];
  for (const frameIndex of marks.markedFrames()) await addFrame(form, references, marks, frameIndex);
  for (const object of marks.objects) {
    if (object.text) references.push({ object_id: object.id, frame_index: 0, kind: "text", text: object.text, name: object.name });
  }
  if (references.length) form.append("references", JSON.stringify(references));
  return { form, count: references.length };
}

async function addFrame(form, references, marks, frameIndex) {
  const frame = marks.frames.get(frameIndex);
  const named = new Map(marks.objects.map((object) => [object.id, object.name]));
  if (frame.touched.size) {
    const part = `mask_${frameIndex}`;
    const png = await labelMapToPng(frame.labelMap, marks.size.width, marks.size.height);
    form.append(part, png, `${part}.png`);
    for (const id of frame.touched) {
      references.push({ object_id: id, frame_index: frameIndex, kind: "mask", mask: part, name: named.get(id) });
    }
  }
  for (const [id, box] of frame.boxes) {
    if (!frame.touched.has(id)) references.push({ object_id: id, frame_index: frameIndex, kind: "box", box, name: named.get(id) });
  }
  for (const { id, x, y } of frame.points) {
    if (!frame.touched.has(id)) references.push({ object_id: id, frame_index: frameIndex, kind: "point", point: [x, y], name: named.get(id) });
  }
}
