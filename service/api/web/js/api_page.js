// The page at /docs: openapi.json for people. Loads nothing from elsewhere, so that it works on hosts without internet.

import { $, element } from "./dom.js";

const OK = /^2/;

/** Text with `code` in it. */
function prose(text) {
  return text.split(/(`[^`]+`)/).map((part) => (part.startsWith("`") ? element("code", {}, part.slice(1, -1)) : part));
}

function paragraphs(text = "") {
  return text.split(/\n\n+/).map((part) => element("p", {}, ...prose(part.replaceAll("\n", " "))));
}

/** A schema in a few words: `integer`, `list of Reference`, `"a" or "b"`. */
export function typeOf(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {}) || "anything"}`;
  if (schema.format === "binary" || schema.contentMediaType) return "file";
  return schema.type ?? "";
}

function bounds({ minimum, maximum, default: preset }) {
  const range = minimum !== undefined || maximum !== undefined ? [`${minimum ?? "…"} to ${maximum ?? "…"}`] : [];
  return [...range, ...(preset === undefined || preset === null ? [] : [`default ${JSON.stringify(preset)}`])];
}

function row(name, schema, description, required) {
  const facts = [typeOf(schema), ...bounds(schema), ...(required ? ["required"] : [])].filter(Boolean).join("; ");
  return element("tr", {}, element("th", { scope: "row" }, element("code", {}, name)), element("td", {}, facts), element("td", {}, ...prose(description ?? "")));
}

function table(caption, rows) {
  return rows.length ? [element("table", {}, element("caption", {}, caption), element("tbody", {}, ...rows))] : [];
}

function fieldRows({ properties = {}, required = [] }) {
  return Object.entries(properties).map(([name, schema]) => row(name, schema, schema.description, required.includes(name)));
}

/** The same request with curl. */
export function curl(method, path, operation) {
  const form = operation.requestBody?.content?.["multipart/form-data"]?.schema;
  const words = ["curl"];
  if (operation.security) words.push('-H "Authorization: Bearer $KEY"');
  if (method !== "get" && !form) words.push(`-X ${method.toUpperCase()}`);
  if (form?.properties.video) words.push("-F video=@clip.mp4 -F mask=@00000.png");
  else if (form) words.push("-F frame_index=40 -F mask=@00040.png");
  return [...words, `"${location.origin}${path}"`].join(" ");
}

function answers(responses) {
  const refusals = Object.keys(responses).filter((status) => !OK.test(status));
  const rows = Object.entries(responses).filter(([status]) => OK.test(status)).map(([status, { description, content = {} }]) => {
    const said = Object.entries(content).filter(([kind]) => kind !== "*/*");
    const kinds = said.map(([kind, { schema }]) => [typeOf(schema), kind].filter(Boolean).join(", "));
    return row(status, {}, kinds.join("; ") || description);
  });
  return [...table("Answers", rows), element("p", { className: "hint" }, `Refused with ${refusals.join(", ")}: application/problem+json.`)];
}

function operationOf(method, path, operation) {
  const form = operation.requestBody?.content?.["multipart/form-data"]?.schema ?? {};
  const [first = "", ...rest] = (operation.description ?? operation.summary).split("\n\n");
  const title = element("summary", {}, element("b", {}, method.toUpperCase()), " ", element("code", {}, path), element("small", {}, ...prose(first.replaceAll("\n", " "))));
  const parameters = (operation.parameters ?? []).map(({ name, in: place, schema, description, required }) =>
    row(name, schema, [place, description].filter(Boolean).join(": "), required));
  return element("details", { id: operation.operationId }, title, ...paragraphs(rest.join("\n\n")), ...table("Parameters", parameters),
    ...table("Form", fieldRows(form)), ...answers(operation.responses), element("pre", {}, curl(method, path, operation)));
}

function draw({ info, paths, components }) {
  const operations = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, each]) => operationOf(method, path, each)));
  const schemas = Object.entries(components.schemas).map(([name, schema]) =>
    element("details", { id: name }, element("summary", {}, element("code", {}, name), element("small", {}, ...prose(schema.description ?? ""))), ...table("Fields", fieldRows(schema))));
  $("api").replaceChildren(element("h1", {}, `${info.title} ${info.version}`), ...paragraphs(info.description),
    element("h2", {}, "Requests"), ...operations, element("h2", {}, "What the answers hold"), ...schemas);
}

async function main() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
  draw(await answer.json());
}

main().catch((error) => $("api").replaceChildren(element("p", { role: "alert" }, String(error))));
