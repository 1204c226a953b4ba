// A session that the server has: its masks as they come, corrections, the end and the files.

import * as api from "./api.js";
import { $, button, element } from "./dom.js";
import { drawDownloads } from "./downloads.js";
import { guarded, hideProblem, Problem, showProblem } from "./problems.js";
import { Rate } from "./rate.js";
import { referenceForm } from "./references.js";
import { counted, spell } from "./spelling.js";
import { MaskStream } from "./stream.js";
import { suggest } from "./suggestions.js";

const LINKS = { open: "", lost: "Connection lost, trying again…", closed: "" };
const SUGGEST_EVERY_MS = 1000;
export const ENDED = new Set(["completed", "failed", "cancelled"]);
const STATES = {
  queued: "Waiting for a worker",
  running: "Running",
  idle: "Waiting for pictures",
  completed: "Completed",
  failed: "Failed",
  cancelled: "Stopped",
};

export class SessionMode {
  constructor(workspace, session) {
    this.workspace = workspace;
    this.session = session;
    this.id = session.session_id;
    // What the camera saw is not kept: there is nothing to mark.
    this.panels = session.live ? ["objects", "session", "time"] : ["tools", "objects", "session", "time"];
    this.following = true;
    this.stream = null;
    this.rate = new Rate();
    this.replayed = -1; // masks up to this seq were made before we came: they say nothing of the speed
    this.arrived = new Set();
    this.dropped = new Set();
    this.asked = new Set(); // objects in the masks that the session was looked up for
    this.suggestedAt = 0;
  }

  /** Show the session from the server's copy of its video. */
  async open() {
    const { workspace, session, id } = this;
    workspace.enter(this);
    this.takeOver();
    const { width, height, fps } = session.video;
    const stillUrl = (index) => `sessions/${id}/frames/${index}.jpg`;
    const visible = !session.live && (await workspace.openVideo(`sessions/${id}/video`, { fps, stillUrl }));
    if (workspace.mode !== this) return; // the person has gone elsewhere
    if (!visible) {
      workspace.showNothing(width, height);
      workspace.note("The pictures of this session are not kept; these are its masks.");
    }
    workspace.frameShown(session.start_frame);
    this.follow();
  }

  /** Go on from the draft that has just been uploaded: the picture is there already, unless only the server can read it. */
  async continue() {
    if (!this.workspace.player.hasPictures) return this.open();
    this.workspace.handOver(this);
    this.takeOver();
    this.workspace.note("");
    return this.follow();
  }

  takeOver() {
    const { workspace, session } = this;
    for (const { object_id: id, name, color } of session.objects) workspace.marks.addObject({ id, name, color });
    workspace.player.ptsOf = (index) => workspace.store.ptsOf(index);
    this.setTotal(session.progress.frames_total);
    this.describe();
    workspace.changed();
  }

  leave() {
    this.stream?.close();
    $("link").textContent = "";
    this.workspace.player.ptsOf = () => null;
  }

  // --- the workspace's questions ------------------------------------------------------------------------------------

  lastFrame() {
    return Math.max(this.workspace.store.lastFrame, 0);
  }

  labelMap(frameIndex) {
    return this.workspace.store.labelMap(frameIndex);
  }

  /** A correction begins with what the engine made of the frame, so that only the error has to be painted. */
  begin(frameIndex, tool) {
    this.following = false;
    const masks = this.labelMap(frameIndex);
    if (masks && (tool === "brush" || tool === "erase")) this.workspace.marks.adopt(frameIndex, masks.labelMap);
  }

  changed() {
    const frames = this.workspace.marks.markedFrames();
    $("correct").disabled = !frames.length || !this.canCorrect;
    const which = frames.length > 1 ? ` ${frames.length} frames` : frames.length ? ` frame ${frames[0] + 1}` : "";
    $("correct").textContent = `Correct${which}`;
    $("correct-hint").hidden = frames.length > 0;
    $("correcting").hidden = !this.canCorrect;
  }

  get canCorrect() {
    return !this.session.live && !["failed", "cancelled"].includes(this.session.state);
  }

  settled(objectId) {
    return this.session.objects.some((object) => object.object_id === objectId);
  }

  async remove(objectId) {
    if (this.settled(objectId)) {
      if (!confirm(`Remove ${this.workspace.marks.nameOf(objectId)} from the whole session?`)) return;
      this.session = await api.removeObject(this.id, objectId);
      this.drop(objectId);
    }
    this.workspace.marks.removeObject(objectId);
    this.workspace.changed();
    this.describe();
    this.resume();
  }

  /** Masks that were made before the object was removed still name it. */
  drop(objectId) {
    this.dropped.add(objectId);
    this.workspace.store.forget(objectId);
  }

  // --- the stream ---------------------------------------------------------------------------------------------------

  follow(after = -1) {
    this.stream?.close();
    this.stream = new MaskStream(this.id, {
      after,
      handlers: {
        mask: (message) => this.mask(message),
        progress: (message) => this.progress(message),
        revision: (message) => this.revised(message),
        end: (message) => this.ended(message),
        problem: (document) => showProblem(new Problem(document)),
        link: (state) => ($("link").textContent = LINKS[state]),
      },
    });
  }

  /** Look again at a session that had come to its end, after something was asked of it. */
  resume() {
    if (this.stream?.closed) this.follow(this.workspace.store.lastSeq);
  }

  setTotal(total) {
    this.total = total ?? this.total ?? null; // null: without an end, or the end is not known yet
    const { start_frame: first, end_frame: end, video } = this.session;
    this.workspace.timeline.setCount(Math.max(video.frames ?? 0, end ?? 0, first + 1, this.workspace.store.lastFrame + 1));
  }

  progress(message) {
    this.replayed = Math.max(this.replayed, message.seq - 1);
    this.session.state = message.state;
    this.setTotal(message.frames_total);
    this.describe();
  }

  mask(message) {
    message.objects = message.objects.filter((item) => !this.dropped.has(item.object_id));
    this.workspace.store.add(message);
    this.arrived.add(message.frame_index);
    if (message.seq > this.replayed) this.rate.add();
    if (message.frame_index >= this.workspace.timeline.count) this.setTotal(null);
    if (this.session.state === "queued" && message.seq > this.replayed) this.session.state = "running";
    // Masks may come faster than the screen is drawn: one repaint for all that came since.
    this.repainting ??= requestAnimationFrame(() => this.repaint());
  }

  repaint() {
    const { mode, store, timeline, player, stage } = this.workspace;
    this.repainting = null;
    if (mode !== this) return;
    for (const frameIndex of this.arrived) this.meet(frameIndex);
    timeline.update(this.arrived);
    this.describe();
    if (this.following) player.show(store.newestFrame);
    else if (this.arrived.has(stage.frameIndex)) this.workspace.redraw();
    this.arrived.clear();
    if (performance.now() - this.suggestedAt > SUGGEST_EVERY_MS) this.suggest();
  }

  /** Objects that the engine found by itself, that joined, or that are no more: the session knows. */
  meet(frameIndex) {
    const { marks, store } = this.workspace;
    const unknown = store.objectsAt(frameIndex).map(({ id }) => id).filter((id) => !marks.object(id) && !this.asked.has(id));
    if (!unknown.length) return;
    for (const id of unknown) this.asked.add(id);
    guarded(async () => {
      await this.refresh();
      for (const id of unknown) if (!marks.object(id)) this.drop(id);
      this.workspace.redraw();
    })();
  }

  async refresh() {
    const { marks } = this.workspace;
    this.session = await api.session(this.id);
    for (const { object_id: id, name, color } of this.session.objects) {
      if (this.dropped.has(id)) continue; // the worker has not heard of it yet
      const known = marks.object(id);
      if (known) Object.assign(known, name && { name }, color && { color });
      else marks.addObject({ id, name, color });
    }
    this.setTotal(this.session.progress.frames_total);
    this.describe();
    this.workspace.changed();
  }

  revised(message) {
    if (message.from_frame != null) this.workspace.note(`Made again from frame ${message.from_frame + 1} on.`);
    if (!this.workspace.marks.markedFrames().length) this.following = true;
    guarded(() => this.refresh())();
  }

  async ended(message) {
    this.session.state = message.state;
    if (message.state === "failed") {
      const { detail = "", code = "" } = message.error ?? {};
      showProblem(new Problem({ title: "The session failed; the masks made so far are kept", detail: detail || code }));
    }
    this.describe();
    await guarded(() => this.refresh())();
    this.suggest();
    if (!ENDED.has(this.session.state)) this.resume(); // something was asked of it as it ended
  }

  // --- the panel ----------------------------------------------------------------------------------------------------

  describe() {
    const { state, warnings, engine, error } = this.session;
    const done = Math.min(this.workspace.store.lastSeq + 1, this.total ?? Infinity);
    const ended = ENDED.has(state);
    $("progress").value = ended ? 1 : done / Math.max(1, this.total ?? Infinity);
    $("progress-note").textContent = ended ? this.summary(done) : this.speed(done);
    $("cancel").hidden = ended;
    $("warnings").replaceChildren(...warnings.map((text) => element("li", {}, text)));
    if (error && !ended) $("progress-note").textContent += ` · ${error.detail}`;
    if (this.shownState === state) return;
    this.shownState = state;
    $("session-state").textContent = `${STATES[state] ?? state} · ${engine}`;
    $("downloads").hidden = !ended;
    this.workspace.stage.enabled = this.canCorrect;
    if (ended) drawDownloads(this.id, { partial: state !== "completed", hasPictures: !this.session.live });
    this.changed();
  }

  summary(done) {
    const frames = this.workspace.store.frames.size;
    return done > frames ? `${counted(frames, "frame")}, ${done - frames} of them made again` : counted(frames, "frame");
  }

  speed(done) {
    const rate = this.rate.perSecond();
    const left = rate && this.total && done < this.total ? ` · ${spell((this.total - done) / rate)} left` : "";
    if (!done) return this.session.state === "queued" ? "It begins as soon as a worker is free." : "Preparing the first mask…";
    return `${done}${this.total ? ` of ${this.total}` : ""} frames${rate ? ` · ${rate.toFixed(1)} per second` : ""}${left}`;
  }

  suggest() {
    this.suggestedAt = performance.now();
    const { marks, store } = this.workspace;
    const reference = [...this.session.references.map((each) => each.frame_index), ...marks.markedFrames()];
    const buttons = suggest(store, { reference }).map(({ frameIndex, objectId, reason }) =>
      button(`Frame ${frameIndex + 1}: ${marks.nameOf(objectId)} ${reason}`, () => {
        this.workspace.marks.activeId = objectId;
        this.workspace.jump(frameIndex);
        this.workspace.changed();
      }));
    const focused = document.activeElement?.closest("#suggestions");
    if (!focused) $("suggestions").replaceChildren(...(buttons.length ? ["Worth correcting:", ...buttons] : []));
  }

  // --- what the person asks for -------------------------------------------------------------------------------------

  async cancel() {
    this.session = await api.cancel(this.id);
    this.describe();
  }

  async correct() {
    const { form, count } = await referenceForm(this.workspace.marks);
    if (!count) throw new Problem({ title: "Nothing is left to send", detail: "Paint where the object is on this frame" });
    form.append("direction", $("direction").value);
    hideProblem();
    $("correct").disabled = true;
    try {
      this.session = await api.addReferences(this.id, form);
    } finally {
      this.changed();
    }
    this.workspace.marks.clear();
    this.following = true;
    this.workspace.changed();
    this.describe();
    this.resume();
  }
}
