// The list of objects: colour, name, what is marked of each, remove.

import { $, button, element } from "./dom.js";

const KIND_NAMES = { mask: "painted", box: "box", point: "clicks", text: "words" };

export class ObjectsList {
  /**
   * marks: the model. changed(): it was changed. jump(frameIndex): look at a mark.
   * remove(objectId): the person wants it gone. settled(objectId): the server has it, so its name and colour stand.
   */
  constructor(marks, { changed, jump, remove, settled }) {
    Object.assign(this, { marks, changed, jump, remove, settled });
  }

  draw() {
    const focused = document.activeElement?.dataset.field;
    $("objects").replaceChildren(...this.marks.objects.map((object) => this.row(object)));
    if (focused) $("objects").querySelector(`[data-field="${focused}"]`)?.focus();
    $("objects-empty").hidden = this.marks.objects.length > 0;
  }

  row(object) {
    const active = object.id === this.marks.activeId;
    const remover = button("×", () => this.remove(object.id), { title: `Remove ${object.name}`, dataset: { field: `remove-${object.id}` } });
    remover.setAttribute("aria-label", `Remove ${object.name}`);
    remover.className = "quiet";
    return element("li", { className: active ? "active" : "" }, this.chooser(object, active), this.name(object), this.colour(object), remover,
      this.chips(object));
  }

  chooser(object, active) {
    const choose = () => {
      this.marks.activeId = object.id;
      this.changed();
    };
    const title = object.id < 10 ? `Mark ${object.name} (key ${object.id})` : `Mark ${object.name}`;
    const swatch = button(String(object.id), choose, { className: "swatch", title, dataset: { field: `choose-${object.id}` } });
    swatch.style.background = object.color;
    swatch.setAttribute("aria-label", title);
    swatch.setAttribute("aria-pressed", String(active));
    return swatch;
  }

  name(object) {
    const rename = (event) => {
      object.name = event.target.value.trim() || `Object ${object.id}`;
      this.changed();
    };
    return element("input", {
      type: "text", value: object.name, maxLength: 200, onchange: rename, readOnly: this.settled(object.id),
      aria: { label: `Name of object ${object.id}` }, dataset: { field: `name-${object.id}` },
    });
  }

  colour(object) {
    const recolour = (event) => {
      object.color = event.target.value;
      this.changed();
    };
    return element("input", {
      type: "color", value: object.color, onchange: recolour, title: `Colour of ${object.name}`,
      aria: { label: `Colour of object ${object.id}` }, dataset: { field: `colour-${object.id}` },
    });
  }

  chips(object) {
    const chips = this.marks.marksOf(object.id).map(({ frameIndex, kind }) => {
      const text = kind === "text" ? `“${this.marks.frames.get(frameIndex).texts.get(object.id)}”` : KIND_NAMES[kind];
      const away = button("×", () => this.unmark(frameIndex, object.id), { className: "chip-away" });
      away.setAttribute("aria-label", `Remove ${text} of ${object.name} on frame ${frameIndex + 1}`);
      return element("span", { className: "chip" }, button(`${text} · ${frameIndex + 1}`, () => this.jump(frameIndex), {
        className: "chip-jump", title: `Show frame ${frameIndex + 1}`,
      }), away);
    });
    return element("div", { className: "chips" }, ...chips);
  }

  unmark(frameIndex, objectId) {
    this.marks.remember(frameIndex);
    this.marks.unmark(frameIndex, objectId);
    this.changed();
  }
}
