// The tools for marking: which one is in hand, how big the brush is, words, mask files, undo.

import { $ } from "./dom.js";
import { readLabelPng } from "./label_png.js";
import { guarded, Problem } from "./problems.js";

const HINTS = {
  brush: "Paint over the object. It need not be exact at the edge.",
  erase: "Take away what was painted.",
  box: "Draw a box around the object.",
  point: "Click on the object; with “not this”, on what does not belong to it.",
  text: "Say which object: a colour, a size, a place, an order.",
};
const SMALLEST_BRUSH = 2;
const LARGEST_BRUSH = 80;

export class Tools {
  constructor(workspace) {
    this.workspace = workspace;
    for (const each of document.querySelectorAll("[data-tool]")) each.onclick = () => this.choose(each.dataset.tool);
    $("brush-size").oninput = () => this.setBrush(Number($("brush-size").value));
    $("outside").onchange = () => (workspace.stage.outside = $("outside").checked);
    $("undo").onclick = () => workspace.undo();
    $("redo").onclick = () => workspace.redo();
    $("words-form").onsubmit = (event) => {
      event.preventDefault();
      this.addWords($("words").value.trim());
    };
    $("mask-file").onchange = guarded(async () => {
      await this.loadMask($("mask-file").files[0]);
      $("mask-file").value = "";
    });
    $("add-object").onclick = () => workspace.addObject();
    $("zoom-in").onclick = () => workspace.stage.zoom.by(1.5);
    $("zoom-out").onclick = () => workspace.stage.zoom.by(1 / 1.5);
    this.choose("brush");
  }

  choose(tool) {
    this.workspace.stage.tool = tool;
    for (const each of document.querySelectorAll("[data-tool]")) each.setAttribute("aria-pressed", String(each.dataset.tool === tool));
    for (const each of document.querySelectorAll("[data-for]")) each.hidden = !each.dataset.for.split(" ").includes(tool);
    $("tool-hint").textContent = HINTS[tool];
  }

  setBrush(radius) {
    this.workspace.stage.radius = Math.min(LARGEST_BRUSH, Math.max(SMALLEST_BRUSH, radius));
    $("brush-size").value = this.workspace.stage.radius;
    this.workspace.stage.drawMarks();
  }

  /** Describe the active object on the frame that is shown. */
  addWords(text) {
    if (!text) return;
    const { marks, stage } = this.workspace;
    marks.remember(stage.frameIndex);
    if (!marks.activeId) marks.addObject();
    marks.setText(stage.frameIndex, marks.activeId, text);
    $("words").value = "";
    this.workspace.changed();
  }

  /** Take a mask PNG as the marks of the frame that is shown. */
  async loadMask(file, names = {}) {
    const { marks, stage } = this.workspace;
    const { labelMap, width, height } = await readLabelPng(file);
    if (marks.size.width && (width !== marks.size.width || height !== marks.size.height)) {
      throw new Problem({
        title: "The mask has another size than the video",
        detail: `It is ${width} x ${height} pixels, the video ${marks.size.width} x ${marks.size.height}. Resize it with nearest neighbour`,
      });
    }
    if (!marks.size.width) this.workspace.setSize(width, height);
    marks.remember(stage.frameIndex);
    marks.setLabelMap(stage.frameIndex, labelMap, names);
    this.workspace.changed();
  }
}
