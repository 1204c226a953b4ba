// A video that was chosen and is being marked; start() uploads it.

import * as api from "./api.js";
import { $ } from "./dom.js";
import { Problem, hideProblem, showProblem } from "./problems.js";
import { referenceForm } from "./references.js";

export class Draft {
  panels = ["tools", "objects", "setup", "time"];
  following = false;

  /** file: the video. engineChoice: which engine. opened(session): the server has taken it. */
  constructor(workspace, file, engineChoice, opened) {
    Object.assign(this, { workspace, file, engineChoice, opened });
    this.abort = null;
  }

  /** Show the video's first frame, where the browser can. */
  async open() {
    const { workspace } = this;
    workspace.enter(this);
    workspace.marks.addObject();
    const visible = await workspace.openVideo(URL.createObjectURL(this.file), {});
    if (workspace.mode !== this) return;
    workspace.timeline.setCount(Math.max(1, Math.round(workspace.player.duration * workspace.player.fps)));
    workspace.stage.enabled = visible;
    $("stage").classList.toggle("blind", !visible);
    workspace.note(visible ? "Mark the objects, here or on any other frame." : "This browser cannot show the file; the server may "
      + "still read it. Load a mask PNG, describe the objects in words, or have them found; once it runs, every frame is shown and can be corrected.");
    workspace.frameShown(0);
    workspace.changed();
  }

  leave() {
    this.abort?.abort();
    $("stage").classList.remove("blind");
  }

  lastFrame() {
    return this.workspace.timeline.count - 1;
  }

  labelMap() {
    return null;
  }

  begin() {}

  changed() {
    hideProblem();
  }

  remove(objectId) {
    this.workspace.marks.removeObject(objectId);
    this.workspace.changed();
  }

  settled() {
    return false;
  }

  get isDirty() {
    return this.workspace.marks.markedFrames().length > 0;
  }

  /**
   * Upload. find: send no marks, the engine looks for the objects by itself. idempotencyKey: that of an attempt which
   * is repeated; a new attempt has a new one.
   */
  async start(find, idempotencyKey = newKey()) {
    const { form, count } = find ? { form: new FormData(), count: 0 } : await referenceForm(this.workspace.marks);
    if (!count && !find) {
      throw new Problem({ title: "Nothing is marked yet", detail: "Paint an object, draw a box around it, or press “Find them”" });
    }
    form.append("video", this.file, this.file.name);
    form.append("engine", this.engineChoice.name);
    for (const id of ["start_frame", "end_frame", "max_side"]) if ($(id).value) form.append(id, $(id).value);
    if ($("probability").checked) form.append("probability", "true");
    if (find) form.append("max_objects", $("max_objects").value);
    await this.upload(form, idempotencyKey, () => this.start(find, idempotencyKey));
  }

  async upload(form, idempotencyKey, retry) {
    hideProblem();
    this.abort = new AbortController();
    this.showUpload(true);
    const progress = (share) => {
      $("upload-progress").value = share;
      this.workspace.note(share < 1 ? `Uploading ${Math.round(share * 100)} %` : "Uploaded; the server looks at it…");
    };
    try {
      const session = await api.createSession(form, { idempotencyKey, signal: this.abort.signal, progress });
      this.opened(session);
    } catch (error) {
      this.workspace.note("");
      if (error.name !== "AbortError") showProblem(error, error.status && error.status < 429 ? null : retry);
    } finally {
      this.showUpload(false);
      this.abort = null;
    }
  }

  showUpload(running) {
    $("uploading").hidden = !running;
    $("start-buttons").hidden = running;
    $("upload-progress").value = 0;
  }
}

/** 128 random bits. crypto.randomUUID() is not there on pages over plain HTTP, which a server in the house is. */
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
