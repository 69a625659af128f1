// A form made from a JSON Schema: one field for each property, nested objects and lists included. What no field can show
// (alternatives, free objects) is entered as JSON. The gateway checks the arguments; the form only helps.

import { h } from "./dom.js";

let n_fields = 0;
const nextId = () => `field-${(n_fields += 1)}`;

/** What was entered is not JSON, not a number and so on. `field` is the control to show. */
export class WrongInput extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/** Follows `$ref` within the document, and takes the one real alternative of "this or null". */
function resolve(schema, root, depth = 0) {
  if (typeof schema !== "object" || schema === null || 8 < depth) return {};
  if (typeof schema.$ref === "string" && schema.$ref.startsWith("#")) {
    const path = schema.$ref.slice(1).split("/").slice(1);
    const target = path.reduce((at, part) => at?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")], root);
    return resolve({ ...target, ...schema, $ref: undefined }, root, depth + 1);
  }
  const choices = schema.anyOf ?? schema.oneOf;
  const real = choices?.filter((choice) => choice.type !== "null");
  if (real?.length === 1) return resolve({ ...schema, anyOf: undefined, oneOf: undefined, ...real[0] }, root, depth + 1);
  return schema;
}

const typesOf = (schema) => [schema.type ?? []].flat().filter((type) => type !== "null");

/** `{ element, read() }`; `read` gives the value, or `undefined` when nothing was entered. */
export function objectForm(schema, root = schema) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const resolved = resolve(property, root);
    return { name, ...field(name, resolved, root, required.has(name)) };
  });
  const element = h("div", { class: "fields" }, ...fields.map((it) => it.element));
  if (fields.length === 0) element.append(h("p", { class: "quiet" }, "It takes no arguments."));
  const read = () => {
    const object = {};
    for (const { name, read } of fields) {
      const value = read();
      if (value !== undefined) object[name] = value;
    }
    return object;
  };
  return { element, read };
}

function field(name, schema, root, isRequired) {
  const types = typesOf(schema);
  if (types.length === 1 && types[0] === "object" && schema.properties) return group(name, schema, root, isRequired);
  if (types.length === 1 && types[0] === "array" && isPlain(schema.items)) return list(name, schema, root, isRequired);
  const control = controlFor(schema, isRequired);
  return { element: labelled(name, schema, isRequired, control.element), read: control.read };
}

const isPlain = (schema) => typeof schema === "object" && schema !== null && !Array.isArray(schema);

function labelled(name, schema, isRequired, control) {
  const about = h("span", { class: "hint", id: nextId() }, schema.description ?? "");
  control.id = nextId();
  if (schema.description) control.setAttribute("aria-describedby", about.id);
  return h("div", {}, h("label", { for: control.id }, schema.title ?? name, " ", h("small", {}, kind(schema, isRequired))), control, about);
}

function kind(schema, isRequired) {
  const words = [schema.enum || schema.const !== undefined ? "" : typesOf(schema).join(" or "), isRequired ? "required" : ""];
  return words.filter(Boolean).join(", ");
}

function group(name, schema, root, isRequired) {
  const inner = objectForm(schema, root);
  const about = schema.description ? h("span", { class: "hint" }, schema.description) : null;
  const title = h("legend", {}, schema.title ?? name, " ", h("small", {}, isRequired ? "required" : ""));
  const read = () => {
    const value = inner.read();
    return isRequired || Object.keys(value).length ? value : undefined;
  };
  return { element: h("fieldset", {}, title, about, inner.element), read };
}

function list(name, schema, root, isRequired) {
  const items = resolve(schema.items, root);
  const rows = h("div", { class: "fields" });
  const readers = new Map();
  const add = () => {
    const types = typesOf(items);
    const item = types[0] === "object" && items.properties ? objectForm(items, root) : controlFor(items, true);
    if (!item.element.matches("div")) item.element.setAttribute("aria-label", `${name}, item ${readers.size + 1}`);
    const remove = h("button", { type: "button", class: "plain", "aria-label": `Remove this item of ${name}` }, "Remove");
    const row = h("div", { class: "row" }, h("div", { class: "grow" }, item.element), remove);
    remove.addEventListener("click", () => {
      readers.delete(row);
      row.remove();
      more.focus();
    });
    readers.set(row, item.read);
    rows.append(row);
    row.querySelector("input, select, textarea")?.focus({ preventScroll: true });
  };
  const more = h("button", { type: "button", class: "plain", onclick: add }, `Add to ${name}`);
  const about = schema.description ? h("span", { class: "hint" }, schema.description) : null;
  const title = h("legend", {}, schema.title ?? name, " ", h("small", {}, isRequired ? "list, required" : "list"));
  const read = () => (isRequired || readers.size ? [...readers.values()].map((it) => it()) : undefined);
  return { element: h("fieldset", {}, title, about, rows, h("div", {}, more)), read };
}

function controlFor(schema, isRequired) {
  const types = typesOf(schema);
  const given = schema.default === undefined ? "" : schema.default;
  if (schema.const !== undefined) return choice([schema.const], isRequired, given);
  if (Array.isArray(schema.enum)) return choice(schema.enum, isRequired, given);
  if (types.length === 1 && types[0] === "boolean") return choice([true, false], isRequired, given);
  if (types.length === 1 && (types[0] === "integer" || types[0] === "number")) return numeric(schema, types[0], isRequired, given);
  if (types.length === 1 && types[0] === "string") return text(schema, isRequired, given);
  const isScalar = 0 < types.length && types.every((type) => ["string", "integer", "number", "boolean"].includes(type));
  return isScalar ? mixed(types, isRequired) : json(schema, isRequired);
}

function choice(values, isRequired, given) {
  const options = values.map((value, index) => h("option", { value: String(index), selected: value === given }, String(value)));
  const isOpen = !isRequired || !values.includes(given);
  if (isOpen && (!isRequired || 1 < values.length)) options.unshift(h("option", { value: "" }, isRequired ? "Choose" : "not given"));
  const element = h("select", { required: isRequired }, ...options);
  return { element, read: () => (element.value === "" ? undefined : values[Number(element.value)]) };
}

function numeric(schema, type, isRequired, given) {
  const element = h("input", {
    type: "number", required: isRequired, min: schema.minimum, max: schema.maximum, value: given,
    step: type === "integer" ? (schema.multipleOf ?? 1) : "any", inputmode: type === "integer" ? "numeric" : "decimal",
  });
  return { element, read: () => (element.value === "" ? undefined : Number(element.value)) };
}

const INPUTS = { date: "date", email: "email", uri: "url", url: "url", password: "password" };

function text(schema, isRequired, given) {
  const limits = { required: isRequired, minlength: schema.minLength, maxlength: schema.maxLength, value: given };
  const isLong = 200 < schema.maxLength || schema.format === "textarea";
  const element = isLong
    ? h("textarea", { rows: 3, ...limits })
    : h("input", { type: INPUTS[schema.format] ?? "text", placeholder: schema.examples?.[0], ...limits });
  // An empty text is sent only where one has to be.
  return { element, read: () => (element.value === "" && !isRequired ? undefined : element.value) };
}

function mixed(types, isRequired) {
  const element = h("input", { type: "text", required: isRequired });
  const read = () => {
    if (element.value === "") return undefined;
    const isNumber = (types.includes("number") || types.includes("integer")) && /^-?\d+(\.\d+)?$/.test(element.value);
    const isBoolean = types.includes("boolean") && /^(true|false)$/.test(element.value);
    if (isNumber || isBoolean || !types.includes("string")) return parse(element);
    return element.value;
  };
  return { element, read };
}

function json(schema, isRequired) {
  const value = schema.default === undefined ? "" : JSON.stringify(schema.default, null, 2);
  const element = h("textarea", { rows: 3, required: isRequired, value, placeholder: "JSON", spellcheck: "false" });
  return { element, read: () => (element.value.trim() === "" ? undefined : parse(element)) };
}

/** Reads a control as JSON. Numbers beyond what JavaScript can hold would be changed, so they are refused. */
export function parse(control) {
  try {
    return JSON.parse(control.value);
  } catch (cause) {
    throw new WrongInput(`This is not JSON: ${cause.message}`, control);
  }
}
