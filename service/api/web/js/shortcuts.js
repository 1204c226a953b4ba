// The keyboard: one table, from which keys act and the help is written.

import { $, element } from "./dom.js";

const TYPING = "input[type=text], input[type=password], input[type=number], input[type=search], select, textarea";

/** Listen for keys and fill the help. workspace and tools are acted upon. */
export function installShortcuts(workspace, tools) {
  const { marks, stage, player } = workspace;
  const step = (by) => () => workspace.jump(player.frameIndex + by);
  const table = [
    ["B", "Brush", () => tools.choose("brush")],
    ["E", "Eraser", () => tools.choose("erase")],
    ["R", "Box", () => tools.choose("box")],
    ["P", "Points", () => tools.choose("point")],
    ["T", "Words", () => (tools.choose("text"), $("words").focus())],
    ["[", "Smaller brush", () => tools.setBrush(stage.radius * 0.8)],
    ["]", "Larger brush", () => tools.setBrush(stage.radius * 1.25)],
    ["Ctrl+Z", "Undo", () => workspace.undo()],
    ["Ctrl+Shift+Z", "Redo", () => workspace.redo()],
    ["N", "New object", () => workspace.addObject()],
    ["Space", "Play or pause", () => workspace.togglePlay()],
    ["ArrowLeft", "One frame back", step(-1)],
    ["ArrowRight", "One frame on", step(1)],
    ["Shift+ArrowLeft", "Ten frames back", step(-10)],
    ["Shift+ArrowRight", "Ten frames on", step(10)],
    ["+", "Zoom in", () => stage.zoom.by(1.5)],
    ["-", "Zoom out", () => stage.zoom.by(1 / 1.5)],
    ["?", "This help", () => $("help").showModal()],
  ];
  for (let id = 1; id < 10; id++) {
    table.push([String(id), null, () => {
      if (!marks.object(id)) return;
      marks.activeId = id;
      workspace.changed();
    }]);
  }
  const actions = new Map(table.map(([keys, , action]) => [keys, action]));
  addEventListener("keydown", (event) => {
    if (event.target.matches(TYPING) || document.querySelector("dialog[open]")) return;
    const action = actions.get(nameOf(event));
    if (!action || (!workspace.mode && nameOf(event) !== "?") || keepsItsKey(event)) return;
    event.preventDefault();
    action();
  });
  drawHelp(table);
}

/** "Ctrl+Shift+Z" of an event; Shift only where the key does not tell already. */
function nameOf(event) {
  const key = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const command = event.ctrlKey || event.metaKey;
  const shift = event.shiftKey && (command || key.length > 1);
  return `${command ? "Ctrl+" : ""}${shift ? "Shift+" : ""}${key}`;
}

/** Buttons and links are pressed by Space, sliders moved by arrows. */
function keepsItsKey(event) {
  if (event.key === " ") return event.target.matches("button, a, label, input, summary");
  return event.key.startsWith("Arrow") && event.target.matches("input[type=range], input[type=radio]");
}

function drawHelp(table) {
  const rows = table.filter(([, title]) => title).map(([keys, title]) =>
    [element("dt", {}, ...keys.replace("ArrowLeft", "←").replace("ArrowRight", "→").split(/(?<=.)\+(?=.)/)
      .map((key) => element("kbd", {}, key))), element("dd", {}, title)]);
  const objects = [element("dt", {}, element("kbd", {}, "1"), "–", element("kbd", {}, "9")), element("dd", {}, "Mark that object")];
  $("shortcut-list").replaceChildren(...rows.flat(), ...objects);
}
