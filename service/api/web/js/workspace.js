// What marking a new video, following a session and the camera have in common: picture, timeline, objects, tools.

import { $ } from "./dom.js";
import { Marks } from "./marks.js";
import { MaskStore } from "./mask_store.js";
import { ObjectsList } from "./objects_list.js";
import { Player } from "./player.js";
import { guarded, hideProblem } from "./problems.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";

/**
 * A mode is what the workspace is used for. It has:
 *   panels             ids of the parts of the page that it shows
 *   leave()            another mode comes
 *   lastFrame()        how far playing may go
 *   labelMap(index)    the masks of a frame, {labelMap, width, height} or null
 *   begin(index, tool) a mark begins on a frame
 *   changed()          marks or objects were changed
 *   remove(objectId)   the person wants an object gone
 *   settled(objectId)  whether the object's name is the server's now
 *   note               what to say under the picture when it has nothing of its own to say
 */
export class Workspace {
  constructor() {
    this.marks = new Marks();
    this.store = new MaskStore();
    this.mode = null;
    this.stage = new Stage(this.marks, {
      begin: (frameIndex, tool) => this.begin(frameIndex, tool),
      changed: () => this.changed(),
    });
    this.player = new Player($("video"), $("still"), (frameIndex) => this.frameShown(frameIndex), () => this.drawPlay());
    this.timeline = new Timeline(this.marks, () => this.store, (frameIndex) => this.jump(frameIndex));
    this.objects = new ObjectsList(this.marks, {
      changed: () => this.changed(),
      jump: (frameIndex) => this.jump(frameIndex),
      remove: guarded((objectId) => this.mode.remove(objectId)),
      settled: (objectId) => this.mode?.settled(objectId) ?? false,
    });
  }

  /** Put a mode in charge of an empty workspace. */
  enter(mode) {
    this.leave();
    this.mode = mode;
    this.showPanels();
    $("start").hidden = true;
    $("work").hidden = false;
    this.changed();
  }

  /** Empty the workspace and show the start. */
  leave() {
    this.mode?.leave();
    this.mode = null;
    this.player.close();
    this.store = new MaskStore();
    this.marks.clear();
    Object.assign(this.marks, { objects: [], activeId: 0 });
    this.stage.enabled = true;
    hideProblem();
    this.note("");
    $("suggestions").replaceChildren();
    $("start").hidden = false;
    $("work").hidden = true;
  }

  /** Another mode goes on with the same picture and objects. */
  handOver(mode) {
    this.mode?.leave();
    this.mode = mode;
    this.marks.clear();
    this.showPanels();
    this.changed();
  }

  showPanels() {
    for (const panel of document.querySelectorAll("[data-panel]")) panel.hidden = !this.mode.panels.includes(panel.dataset.panel);
  }

  /** Open a video; false where no picture can be had. */
  async openVideo(source, options) {
    const size = await this.player.open(source, options);
    if (size) this.setSize(size.width, size.height);
    else this.setSize(0, 0);
    return size !== null;
  }

  /** Masks without pictures, of a given size. */
  showNothing(width, height) {
    this.player.openNothing();
    this.setSize(width, height);
  }

  setSize(width, height) {
    this.marks.setSize(width, height);
    if (width) this.stage.resize(width, height);
  }

  // --- showing ------------------------------------------------------------------------------------------------------

  frameShown(frameIndex) {
    this.stage.frameIndex = frameIndex;
    this.timeline.setFrame(frameIndex);
    this.redraw();
  }

  redraw() {
    this.stage.drawMasks(this.mode?.labelMap(this.stage.frameIndex) ?? null);
    this.stage.drawMarks();
  }

  /** Whether there is a timeline to move on: the camera has none. */
  get hasTime() {
    return this.mode?.panels.includes("time") ?? false;
  }

  jump(frameIndex) {
    if (!this.hasTime) return;
    this.mode.following = false;
    this.player.pause();
    this.player.show(Math.min(Math.max(frameIndex, 0), this.timeline.count - 1));
  }

  togglePlay() {
    if (!this.hasTime) return;
    if (this.player.playing) this.player.pause();
    else this.player.play(() => this.mode.lastFrame());
    this.mode.following = false;
  }

  drawPlay() {
    const { playing } = this.player ?? {};
    $("play").textContent = playing ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  note(text) {
    $("stage-note").textContent = text;
  }

  // --- marking ------------------------------------------------------------------------------------------------------

  begin(frameIndex, tool) {
    if (this.hasTime) this.player.pause();
    this.marks.remember(frameIndex);
    this.mode.begin(frameIndex, tool);
  }

  changed() {
    this.objects.draw();
    this.timeline.draw();
    this.redraw();
    $("undo").disabled = !this.marks.done.length;
    $("redo").disabled = !this.marks.undone.length;
    this.mode?.changed();
  }

  undo() {
    this.marks.undo();
    this.changed();
  }

  redo() {
    this.marks.redo();
    this.changed();
  }

  addObject() {
    this.marks.remember();
    this.marks.addObject();
    this.changed();
  }
}
