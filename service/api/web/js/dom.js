// Elements: finding the ones of index.html and building the others. Knows nothing of what they are for.

export const $ = (id) => document.getElementById(id);

/** A new element. Properties are the element's own; `aria` and `dataset` are objects; children are nodes or strings. */
export function element(tag, { aria = {}, dataset = {}, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
  Object.assign(node.dataset, dataset);
  node.append(...children);
  return node;
}

/** A button that does nothing but what it is told. */
export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, text);
}
