// The page: wires the parts together and follows the address (#/s/SESSION shows a session).

import * as api from "./api.js";
import { Marks } from "./marks.js";
import { MaskStore } from "./mask_store.js";
import { ObjectsPanel } from "./objects_panel.js";
import { Player } from "./player.js";
import { referenceForm } from "./references.js";
import { showSessions } from "./sessions_dialog.js";
import { Stage } from "./stage.js";
import { MaskStream } from "./stream.js";
import { Timeline } from "./timeline.js";

const FORMATS = [
  ["png", "Indexed PNGs (zip)", "zip"],
  ["png-binary", "One PNG per object (zip)", "zip"],
  ["rle", "COCO run lengths (JSON lines)", "jsonl"],
  ["coco", "COCO annotations (JSON)", "json"],
  ["youtube-vis", "YouTube-VIS (JSON)", "json"],
  ["overlay", "Overlay video (MP4)", "mp4"],
  ["matte", "Matte video (MP4)", "mp4"],
];
const NETWORK_TITLES = { open: "", lost: "Connection lost, trying again…", closed: "" };
const $ = (id) => document.getElementById(id);

const page = {
  file: null,
  session: null,
  stream: null,
  engines: [],
  store: new MaskStore(),
  marks: new Marks(),
  total: 1,
  follow: true,
  startedAt: 0,
  startedFrames: 0,
};

const stage = new Stage($("stage"), page.marks, marksChanged);
const player = new Player($("video"), $("still"), frameShown);
const timeline = new Timeline($("doubt"), $("scrub"), $("frame-number"), jump);
const objects = new ObjectsPanel($("objects"), page.marks, marksChanged);

// --- problems -------------------------------------------------------------------------------------------------------

function problem(error) {
  if (error.status === 401) $("key-dialog").showModal();
  $("problem-title").textContent = error.title ?? "Something went wrong.";
  $("problem-detail").textContent = error.detail ?? error.message ?? "";
  $("problem").hidden = false;
}

function guarded(action) {
  return async (...parts) => {
    try {
      await action(...parts);
    } catch (error) {
      problem(error);
    }
  };
}

// --- the picture ----------------------------------------------------------------------------------------------------

function frameShown(frameIndex) {
  stage.frameIndex = frameIndex;
  timeline.setFrame(frameIndex);
  stage.drawMasks(page.store.labelMap(frameIndex));
  stage.drawMarks();
}

function jump(frameIndex) {
  page.follow = false;
  player.pause();
  drawPlay();
  player.show(Math.min(Math.max(frameIndex, 0), timeline.count - 1));
}

function marksChanged() {
  $("problem").hidden = true;
  objects.draw();
  stage.drawMarks();
  timeline.draw(page.store, page.marks);
  $("correct").disabled = !page.marks.markedFrames().length;
}

function drawPlay() {
  $("play").textContent = player.playing ? "❚❚" : "▶";
}

function togglePlay() {
  if (player.playing) player.pause();
  else player.play(() => (page.session ? Math.max(page.store.lastFrame, 0) : timeline.count - 1));
  page.follow = false;
  drawPlay();
}

function note(text) {
  $("stage-note").textContent = text;
}

async function openVideo(source, options) {
  $("drop").hidden = true;
  $("work").hidden = false;
  const size = await player.open(source, options);
  page.marks.setSize(size.width, size.height);
  stage.resize(size.width, size.height);
  frameShown(0);
}

// --- a new session --------------------------------------------------------------------------------------------------

function reset() {
  page.stream?.close();
  player.pause();
  Object.assign(page, { session: null, stream: null, store: new MaskStore(), total: 1, follow: true });
  page.marks.clear();
  page.marks.objects = [];
  page.marks.activeId = 0;
  for (const id of ["running", "downloads", "problem"]) $(id).hidden = true;
  $("setup").hidden = false;
  $("suggestions").replaceChildren();
  note("");
}

async function chooseFile(file) {
  if (!file) return;
  reset();
  if (location.hash.startsWith("#/s/")) history.replaceState(null, "", "#/");
  page.file = file;
  page.marks.addObject();
  try {
    await openVideo(URL.createObjectURL(file), {});
    timeline.setCount(Math.max(1, Math.round(player.duration * player.fps)));
    note("Paint the object, or draw a box around it.");
  } catch {
    note("This browser cannot show the file. Describe the objects, load a mask PNG, or let the engine find them.");
  }
  frameShown(0);
  marksChanged();
}

async function start(find) {
  if (!page.file) return;
  const { form, count } = await referenceForm(page.marks);
  if (!count && !find) {
    problem({ title: "Nothing is marked.", detail: "Paint an object, draw a box, or press “Find them”." });
    return;
  }
  const body = find ? new FormData() : form;
  body.append("video", page.file, page.file.name);
  body.append("engine", $("engine").value);
  $("start").disabled = $("find").disabled = true;
  try {
    const session = await api.createSession(body, (share) => note(`Uploading ${Math.round(share * 100)} %`));
    note("");
    page.marks.clear();
    location.hash = `#/s/${session.session_id}`;
  } finally {
    $("start").disabled = $("find").disabled = false;
  }
}

// --- a session that exists ------------------------------------------------------------------------------------------

async function openSession(sessionId) {
  const session = await api.session(sessionId);
  const local = page.file && !page.session ? page.file : null;
  if (!local) reset();
  page.session = session;
  $("setup").hidden = true;
  $("running").hidden = false;
  for (const object of session.objects ?? []) page.marks.addObject(object.object_id, object.name || undefined);
  page.total = session.progress?.frames_total ?? 1;
  timeline.setCount(page.total);
  if (!local) {
    const stillUrl = (index) => `sessions/${sessionId}/frames/${index}.jpg`;
    await openVideo(`sessions/${sessionId}/video`, { fps: session.video?.fps ?? null, stillUrl });
  }
  player.ptsOf = (index) => page.store.ptsOf(index);
  marksChanged();
  follow(sessionId);
}

function follow(sessionId) {
  page.stream?.close();
  page.startedAt = performance.now();
  page.startedFrames = page.store.frames.size;
  page.stream = new MaskStream(sessionId, {
    after: -1,
    key: api.key.get(),
    handlers: {
      mask: maskArrived,
      progress: (message) => setTotal(message.frames_total),
      revision: (message) => note(`Made again from frame ${message.from_frame + 1}.`),
      end: sessionEnded,
      problem,
      link: (state) => ($("link").textContent = NETWORK_TITLES[state]),
    },
  });
}

function setTotal(total) {
  if (!total || total === page.total) return;
  page.total = total;
  timeline.setCount(total);
}

let repaint = null;

function maskArrived(message) {
  page.store.add(message);
  if (message.frame_index >= page.total) setTotal(message.frame_index + 1);
  // Masks may come faster than the screen is drawn: one repaint for all that came since.
  repaint ??= requestAnimationFrame(() => {
    repaint = null;
    timeline.draw(page.store, page.marks);
    showProgress();
    if (page.follow) player.show(page.store.lastFrame);
    else if (page.store.has(player.frameIndex)) stage.drawMasks(page.store.labelMap(player.frameIndex));
  });
}

function showProgress() {
  const done = page.store.frames.size;
  const seconds = (performance.now() - page.startedAt) / 1000;
  const speed = (done - page.startedFrames) / Math.max(seconds, 0.001);
  const left = speed > 0 ? Math.round((page.total - done) / speed) : null;
  $("progress").value = done / page.total;
  $("progress-note").textContent = `${done} of ${page.total} frames · ${speed.toFixed(1)} per second`
    + (left !== null && done < page.total ? ` · ${left} s left` : "");
}

function sessionEnded(message) {
  $("cancel").disabled = true;
  page.session.state = message.state;
  if (message.state === "failed") {
    problem({ title: "The session failed; the masks made until then are kept.", detail: message.error?.detail ?? message.error ?? "" });
  }
  $("progress-note").textContent = `${page.store.frames.size} frames · ${message.state}`;
  showDownloads(message.state !== "completed");
  suggest();
}

function showDownloads(partial) {
  const rows = FORMATS.map(([format, title, suffix]) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.dataset.format = format;
    const path = `sessions/${page.session.session_id}/masks?format=${format}&partial=${partial}`;
    button.onclick = guarded(() => api.download(path, `${page.session.session_id}-${format}.${suffix}`));
    item.append(button);
    return item;
  });
  $("download-list").replaceChildren(...rows);
  $("downloads").hidden = false;
}

function suggest() {
  const worst = page.store.worstFrames(5);
  const buttons = worst.map((index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `Frame ${index + 1}`;
    button.onclick = () => jump(index);
    return button;
  });
  $("suggestions").replaceChildren(...(worst.length ? ["Worth a look:", ...buttons] : []));
}

async function correct() {
  const { form, count } = await referenceForm(page.marks);
  if (!count) return;
  form.append("direction", "forward");
  await api.addReferences(page.session.session_id, form);
  page.marks.clear();
  page.follow = false;
  $("cancel").disabled = false;
  marksChanged();
  if (page.stream?.closed) resume();
}

function resume() {
  const after = Math.max(-1, ...[...page.store.frames.values()].map((message) => message.seq));
  follow(page.session.session_id);
  page.stream.after = after;
}

/** Begin a correction from what the engine made of this frame, so that only the error has to be painted. */
function adoptMasks() {
  const index = player.frameIndex;
  if (page.session && !page.marks.has(index) && page.store.has(index)) {
    page.marks.setLabelMap(index, page.store.labelMap(index).labelMap);
  }
}

// --- controls -------------------------------------------------------------------------------------------------------

function chooseTool(tool) {
  stage.tool = tool;
  for (const button of $("tools").querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  }
}

async function loadMaskFile(file) {
  const { width, height } = page.marks.size;
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  if (width && (bitmap.width !== width || bitmap.height !== height)) {
    throw new api.Problem({ title: "The mask has another size.", detail: `It is ${bitmap.width}x${bitmap.height}, the video ${width}x${height}.` });
  }
  page.marks.setSize(bitmap.width, bitmap.height);
  page.marks.setLabelMap(player.frameIndex, labelsOf(bitmap));
  marksChanged();
}

/** Label map of a mask picture: every colour that is not black becomes an object, in order of appearance. */
function labelsOf(bitmap) {
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, bitmap.width, bitmap.height).data.buffer);
  const ids = new Map();
  return Uint8Array.from(pixels, (pixel) => {
    const colour = pixel & 0xffffff;
    if (colour === 0) return 0;
    if (!ids.has(colour)) ids.set(colour, ids.size + 1);
    return ids.get(colour);
  });
}

function shortcuts(event) {
  if (event.target.matches("input[type=text], input[type=password], select") || event.ctrlKey || event.metaKey) return;
  const tools = { b: "brush", e: "erase", r: "box", p: "point" };
  if (tools[event.key]) chooseTool(tools[event.key]);
  else if (event.key === " " && !event.target.matches("button")) togglePlay();
  else if (event.key === "n") page.marks.addObject() && marksChanged();
  else if (event.key === "ArrowRight") jump(player.frameIndex + 1);
  else if (event.key === "ArrowLeft") jump(player.frameIndex - 1);
  else if (/^[1-9]$/.test(event.key) && page.marks.objects.some((object) => object.id === Number(event.key))) {
    page.marks.activeId = Number(event.key);
    marksChanged();
  } else return;
  event.preventDefault();
}

function dropped(event) {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer?.files.length) guarded(chooseFile)(event.dataTransfer.files[0]);
}

const WORKER_WAIT_MS = 2000;

/** Offer the engines that a worker serves now; while there is none, look again. */
async function loadEngines() {
  page.engines = (await api.engines()).filter((engine) => engine.ready);
  if (!page.engines.length) {
    $("engine-note").textContent = "No worker is ready yet; waiting for one…";
    setTimeout(guarded(loadEngines), WORKER_WAIT_MS);
    return;
  }
  const chosen = page.engines.find((engine) => engine.default) ?? page.engines[0];
  const options = page.engines.map((engine) => new Option(engine.name, engine.name, engine === chosen, engine === chosen));
  $("engine").replaceChildren(...options);
  engineChosen();
}

function engineChosen() {
  const engine = page.engines.find((each) => each.name === $("engine").value);
  $("engine-note").textContent = engine?.summary ?? "";
}

function route() {
  const match = location.hash.match(/^#\/s\/([\w-]+)$/);
  if (match) return guarded(openSession)(match[1]);
  reset();
  page.file = null;
  $("work").hidden = true;
  $("drop").hidden = false;
}

function wire() {
  $("file").onchange = guarded(() => chooseFile($("file").files[0]));
  $("mask-file").onchange = guarded(() => loadMaskFile($("mask-file").files[0]));
  $("add-object").onclick = () => page.marks.addObject() && marksChanged();
  $("start").onclick = guarded(() => start(false));
  $("find").onclick = guarded(() => start(true));
  $("cancel").onclick = guarded(() => api.cancel(page.session.session_id));
  $("correct").onclick = guarded(correct);
  $("play").onclick = togglePlay;
  $("engine").onchange = engineChosen;
  $("brush-size").oninput = () => (stage.radius = Number($("brush-size").value));
  $("problem-close").onclick = () => ($("problem").hidden = true);
  $("show-sessions").onclick = () => showSessions($("sessions"), $("session-list"), problem);
  $("show-key").onclick = () => $("key-dialog").showModal();
  $("key-form").onsubmit = (event) => event.submitter?.value === "save" && (api.key.set($("key").value.trim()), guarded(loadEngines)());
  $("tools").onclick = (event) => event.target.dataset.tool && chooseTool(event.target.dataset.tool);
  $("marks").addEventListener("pointerdown", adoptMasks, { capture: true });
  for (const label of document.querySelectorAll("label[tabindex]")) {
    label.onkeydown = (event) => (event.key === "Enter" || event.key === " ") && label.click();
  }
  addEventListener("keydown", shortcuts);
  addEventListener("hashchange", route);
  addEventListener("resize", () => timeline.draw(page.store, page.marks));
  addEventListener("dragover", (event) => (event.preventDefault(), document.body.classList.add("dragging")));
  addEventListener("dragleave", () => document.body.classList.remove("dragging"));
  addEventListener("drop", dropped);
}

wire();
guarded(loadEngines)();
route();
