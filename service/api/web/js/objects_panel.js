// The list of objects: colour, name, text, remove.

import { cssColour } from "./palette.js";

export class ObjectsPanel {
  constructor(list, marks, changed) {
    this.list = list;
    this.marks = marks;
    this.changed = changed;
    this.takesText = false;
  }

  draw() {
    this.list.replaceChildren(...this.marks.objects.map((object) => this.row(object)));
  }

  row(object) {
    const item = document.createElement("li");
    item.append(this.swatch(object), this.name(object), this.remover(object));
    if (this.takesText) item.append(this.text(object));
    return item;
  }

  swatch(object) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "swatch";
    button.style.background = cssColour(object.id);
    button.title = `Mark ${object.name} (key ${object.id})`;
    button.setAttribute("aria-label", button.title);
    button.setAttribute("aria-pressed", String(object.id === this.marks.activeId));
    button.onclick = () => {
      this.marks.activeId = object.id;
      this.changed();
    };
    return button;
  }

  name(object) {
    const input = document.createElement("input");
    input.type = "text";
    input.value = object.name;
    input.setAttribute("aria-label", `Name of object ${object.id}`);
    input.onchange = () => (object.name = input.value);
    return input;
  }

  text(object) {
    const input = document.createElement("input");
    input.type = "text";
    input.className = "text";
    input.value = object.text;
    input.placeholder = "or describe it: the black one";
    input.setAttribute("aria-label", `Description of object ${object.id}`);
    input.onchange = () => (object.text = input.value.trim());
    return input;
  }

  remover(object) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "×";
    button.setAttribute("aria-label", `Remove ${object.name}`);
    button.onclick = () => {
      this.marks.removeObject(object.id);
      this.changed();
    };
    return button;
  }
}
