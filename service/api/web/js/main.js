// The page: makes the parts, and follows the address (#/ the start, #/s/SESSION a session, #/camera the camera).

import * as api from "./api.js";
import { CameraMode } from "./camera_mode.js";
import { $ } from "./dom.js";
import { Draft } from "./draft.js";
import { EngineChoice } from "./engine_choice.js";
import { guarded, hideProblem } from "./problems.js";
import { ENDED, SessionMode } from "./session_mode.js";
import { drawSessions } from "./sessions_list.js";
import { installShortcuts } from "./shortcuts.js";
import { Tools } from "./tools.js";
import { Workspace } from "./workspace.js";

const SAMPLE_NAMES = { 1: "Clown fish", 2: "Blue fish", 3: "Green fish" };

const workspace = new Workspace();
const tools = new Tools(workspace);
const engineChoice = new EngineChoice();

// --- ways in --------------------------------------------------------------------------------------------------------

async function choose(file) {
  if (!file) return;
  history.replaceState(null, "", "#/new");
  await new Draft(workspace, file, engineChoice, uploaded).open();
}

/** The clip that comes with the page, with its objects marked already. */
async function trySample() {
  const [clip, mask] = await Promise.all(["sample.mp4", "sample.png"].map(async (name) => new File([await (await fetch(name)).blob()], name)));
  await choose(clip);
  await tools.loadMask(mask, SAMPLE_NAMES);
  workspace.note("Three fish, marked already: press Segment. Or mark them yourself.");
}

/** The server has taken the draft: go on with the same picture. */
function uploaded(session) {
  history.pushState(null, "", `#/s/${session.session_id}`);
  return new SessionMode(workspace, session).continue();
}

async function openSession(sessionId) {
  if (workspace.mode?.id === sessionId) return;
  await new SessionMode(workspace, await api.session(sessionId)).open();
}

async function openCamera(sessionId) {
  if (workspace.mode instanceof CameraMode) return;
  const camera = new CameraMode(workspace, engineChoice, {
    opened: (id) => history.replaceState(null, "", `#/camera/${id}`),
    ended: (id) => (location.hash = `#/s/${id}`),
  });
  if (!sessionId) {
    await camera.open();
    return;
  }
  const session = await api.session(sessionId);
  if (ENDED.has(session.state)) location.hash = `#/s/${sessionId}`;
  else await camera.reopen(session);
}

async function route() {
  const [, view, id] = location.hash.match(/^#\/(s|camera|new)(?:\/([\w-]+))?$/) ?? [];
  if (view === "s" && id) return openSession(id);
  if (view === "camera") return openCamera(id);
  if (view === "new" && workspace.mode instanceof Draft) return undefined;
  workspace.leave();
  return drawSessions();
}

// --- controls -------------------------------------------------------------------------------------------------------

function dropped(event) {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer?.files.length) guarded(choose)(event.dataTransfer.files[0]);
}

function wireStart() {
  $("file").onchange = guarded(async () => {
    await choose($("file").files[0]);
    $("file").value = "";
  });
  $("try-sample").onclick = guarded(trySample);
  $("use-camera").onclick = () => (location.hash = "#/camera");
  addEventListener("dragover", (event) => (event.preventDefault(), document.body.classList.add("dragging")));
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
  addEventListener("drop", dropped);
}

function wireWork() {
  $("segment").onclick = guarded(() => workspace.mode.start(false));
  $("find").onclick = guarded(() => workspace.mode.start(true));
  $("stop-upload").onclick = () => workspace.mode.abort?.abort();
  $("cancel").onclick = guarded(() => workspace.mode.cancel());
  $("correct").onclick = guarded(() => workspace.mode.correct());
  $("play").onclick = () => workspace.togglePlay();
  $("camera-choice").onchange = guarded(() => workspace.mode.open($("camera-choice").value));
  $("camera-correct").onclick = guarded(() => workspace.mode.correct());
  $("camera-resume").onclick = () => workspace.mode.resume();
  $("camera-end").onclick = guarded(() => workspace.mode.end());
}

function wireDialogs() {
  $("problem-close").onclick = hideProblem;
  $("show-help").onclick = () => $("help").showModal();
  $("show-key").onclick = () => $("key-dialog").showModal();
  $("key-form").onsubmit = (event) => {
    if (event.submitter?.value !== "save") return;
    api.key.set($("key").value.trim());
    hideProblem();
    engineChoice.load();
    guarded(route)();
  };
}

wireStart();
wireWork();
wireDialogs();
installShortcuts(workspace, tools);
addEventListener("hashchange", guarded(route));
addEventListener("resize", () => workspace.mode && (workspace.timeline.draw(), workspace.stage.zoom.apply(), workspace.stage.drawMarks()));
addEventListener("beforeunload", (event) => workspace.mode?.isDirty && event.preventDefault());
engineChoice.load();
guarded(route)();
