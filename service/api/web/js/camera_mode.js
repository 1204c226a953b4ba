// The camera: look, mark on a frozen picture, follow; freeze again to correct. Every mask is shown on its own picture.

import * as api from "./api.js";
import { CameraSource, encodeJpeg } from "./camera_source.js";
import { $ } from "./dom.js";
import { LiveSocket } from "./live_socket.js";
import { labelMapOf } from "./mask_store.js";
import { Problem, showProblem } from "./problems.js";
import { Rate } from "./rate.js";
import { liveReferences } from "./references.js";
import { counted } from "./spelling.js";

const MOST_WAITING = 3; // pictures under way: more would only be older when their masks come
const LINKS = { open: "", lost: "Connection lost, trying again…" };

export class CameraMode {
  panels = ["tools", "objects", "setup", "camera"];
  following = false;

  /** opened(sessionId): a session has begun. ended(sessionId): and has come to its end. */
  constructor(workspace, engineChoice, { opened, ended }) {
    Object.assign(this, { workspace, engineChoice, opened, ended });
    this.source = new CameraSource($("video"));
    this.canvas = $("live-frame");
    this.socket = null;
    this.frozen = null; // the picture that is being marked
    this.latest = null; // the newest mask message
    this.waiting = new Map(); // time of a picture in ms -> the picture, until its mask is there
    this.rate = new Rate();
    this.left = false;
    this.ending = false;
  }

  async open(deviceId = null) {
    const { workspace, source } = this;
    if (workspace.mode !== this) workspace.enter(this);
    $("camera-state").textContent = $("camera-note").textContent = "";
    workspace.player.openNothing();
    await source.open(deviceId);
    if (this.left) {
      source.close();
      return;
    }
    workspace.stage.frameIndex = 0;
    workspace.setSize(source.width, source.height);
    Object.assign(this.canvas, { width: source.width, height: source.height });
    $("video").hidden = false;
    this.showCanvas(false);
    if (!workspace.marks.objects.length) workspace.marks.addObject();
    workspace.note("Mark an object: the picture stands still while you do.");
    workspace.changed();
  }

  /** Go on with a session after a reload. */
  async reopen(session) {
    await this.open();
    for (const { object_id: id, name, color } of session.objects) this.workspace.marks.addObject({ id, name, color });
    this.beganAt = Math.round(session.timings.created_at * 1000);
    this.connect().reopen(session.session_id, session.progress.frames_done - 1);
    this.begun(session.session_id);
  }

  leave() {
    this.left = true;
    this.socket?.close();
    this.source.close();
    this.forget(Infinity);
    this.showCanvas(false);
    $("link").textContent = "";
  }

  // --- the workspace's questions ------------------------------------------------------------------------------------

  lastFrame() {
    return 0;
  }

  labelMap() {
    return this.latest && labelMapOf(this.latest);
  }

  begin(frameIndex, tool) {
    const masks = this.labelMap();
    if (masks && (tool === "brush" || tool === "erase")) this.workspace.marks.adopt(frameIndex, masks.labelMap);
    this.freeze();
  }

  changed() {
    const marked = this.workspace.marks.has(0);
    $("camera-correct").disabled = !marked;
    $("camera-correct").hidden = $("camera-end").hidden = !this.socket;
    $("camera-resume").hidden = !this.frozen;
    if (marked && !this.frozen) this.freeze(); // words or a mask file, without a touch of the picture
  }

  settled(objectId) {
    return Boolean(this.socket) && (this.latest?.objects.some((item) => item.object_id === objectId) ?? false);
  }

  async remove(objectId) {
    if (this.settled(objectId)) await api.removeObject(this.socket.sessionId, objectId);
    this.workspace.marks.removeObject(objectId);
    this.workspace.changed();
  }

  // --- freezing -----------------------------------------------------------------------------------------------------

  /** Stop at the picture that is seen, so that it can be marked. */
  freeze() {
    if (this.frozen) return;
    this.frozen = this.latest ? this.source.copy(this.canvas) : this.source.grab();
    if (!this.latest) this.show(this.frozen);
    this.workspace.note("");
    this.changed();
  }

  /** Forget the marks and go on. */
  resume() {
    this.frozen = null;
    this.workspace.marks.clear();
    this.showCanvas(Boolean(this.latest));
    this.workspace.changed();
  }

  show(picture) {
    this.canvas.getContext("2d").drawImage(picture, 0, 0);
    this.showCanvas(true);
  }

  showCanvas(visible) {
    this.canvas.hidden = !visible;
  }

  // --- the session --------------------------------------------------------------------------------------------------

  /** Begin to follow. find: without marks, the engine looks for the objects. */
  async start(find) {
    if (!find && !this.workspace.marks.has(0)) {
      throw new Problem({ title: "Nothing is marked yet", detail: "Paint an object, draw a box around it, or press “Find them”" });
    }
    this.first = { picture: this.frozen ?? this.source.grab(), facts: find ? {} : await liveReferences(this.workspace.marks) };
    this.frozen = null;
    this.beganAt = Date.now();
    const fields = { engine: this.engineChoice.name, name: "Camera" };
    if ($("max_side").value) fields.max_side = Number($("max_side").value);
    if (find) fields.max_objects = Number($("max_objects").value);
    this.connect().open({ ...fields, ...this.first.facts });
  }

  connect() {
    this.socket = new LiveSocket({
      ready: (message) => this.ready(message),
      mask: (message) => this.mask(message),
      end: () => this.ended(this.socket.sessionId),
      problem: (document) => this.failed(document),
      link: (state) => ($("link").textContent = LINKS[state]),
    });
    return this.socket;
  }

  async ready(message) {
    this.forget(Infinity);
    if (this.first) {
      const { picture } = this.first;
      this.first = null;
      this.begun(message.session_id);
      await this.send(picture, {});
    }
    if (!this.pumping) this.pump();
  }

  begun(sessionId) {
    this.panels = ["tools", "objects", "camera"];
    this.workspace.showPanels();
    $("camera-state").textContent = "Following";
    this.workspace.marks.clear();
    this.workspace.note("");
    this.workspace.changed();
    this.opened(sessionId);
  }

  failed(document) {
    showProblem(new Problem(document));
    $("camera-state").textContent = "";
    this.socket = null;
    this.latest = null;
    this.resume();
  }

  /** Send the newest picture whenever there is room, for as long as the session lasts. */
  pump() {
    this.pumping = true;
    const turn = async () => {
      if (this.left || !this.socket || this.socket.closed) {
        this.pumping = false;
        return;
      }
      // The first picture carries the marks: nothing newer may take its place before it has its mask.
      const most = this.latest ? MOST_WAITING : 1;
      if (this.socket.isReady && !this.frozen && this.waiting.size < most) await this.send(this.source.grab(), {});
      if (!this.left) $("video").requestVideoFrameCallback(turn);
    };
    $("video").requestVideoFrameCallback(turn);
  }

  async send(picture, facts) {
    const at = Date.now() - this.beganAt;
    const jpeg = await encodeJpeg(picture);
    if (!this.socket?.isReady || this.ending) return; // no frame may follow the end
    this.waiting.set(at, picture);
    this.socket.send(jpeg, { pts_s: at / 1000, ...facts });
  }

  mask(message) {
    const at = Math.round(message.pts_s * 1000);
    const picture = this.waiting.get(at);
    this.rate.add();
    for (const { object_id: id } of message.objects) this.workspace.marks.object(id) ?? this.newObject(id);
    if (!this.frozen) {
      this.latest = message;
      if (picture) this.show(picture);
      this.workspace.redraw();
    }
    const speed = this.rate.perSecond();
    $("camera-note").textContent = `${counted(message.frame_index + 1, "frame")}${speed ? ` · ${speed.toFixed(1)} per second` : ""} · `
      + `${Date.now() - this.beganAt - at} ms behind`;
    this.forget(at);
  }

  newObject(id) {
    this.workspace.marks.addObject({ id });
    this.workspace.changed();
  }

  /** Let go of pictures up to a time: their masks are there, or will not come. */
  forget(until) {
    for (const at of this.waiting.keys()) if (at <= until) this.waiting.delete(at);
  }

  /** Send the marks with the very picture that they were drawn on. */
  async correct() {
    const facts = await liveReferences(this.workspace.marks);
    if (!facts.references.length) throw new Problem({ title: "Nothing is left to send", detail: "Paint where the object is" });
    const picture = this.frozen;
    this.frozen = null;
    this.workspace.marks.clear();
    this.workspace.changed();
    await this.send(picture, facts);
  }

  end() {
    $("camera-state").textContent = "Ending…";
    this.ending = true;
    this.socket.end();
  }
}
