// Reads what the page carries: JSON in script elements, arrays as base64 in it.

function readJson(id) {
  const element = document.getElementById(id);
  return element === null ? null : JSON.parse(element.textContent);
}

function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

function floatsOf(text) {
  return new Float32Array(bytesOf(text).buffer);
}

/** Create an element with a class and a text; the text is never parsed as HTML. */
function make(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

/** Milliseconds as seconds with three decimals. */
function secondsText(ms) {
  return (ms / 1000).toFixed(3);
}

/** Seconds with a sign: plus is behind. */
function deltaText(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const sign = seconds < 0 ? "\u2212" : "+";
  return sign + Math.abs(seconds).toFixed(3);
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
