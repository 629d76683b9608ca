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

/** Device pixels of a CSS pixel, two at most: more cannot be told apart and cost time. */
function pixelRatio() {
  return Math.min(window.devicePixelRatio || 1, 2);
}

/**
 * Draw a canvas anew, of a size in CSS pixels.
 *
 * It shows a bitmap instead of a 2D context: browsers without a graphics card copy every 2D canvas
 * for every picture of the page, whether it has changed or not.
 */
function paintCanvas(canvas, width, height, ratio, paint) {
  const columns = Math.max(Math.round(width * ratio), 1);
  const rows = Math.max(Math.round(height * ratio), 1);
  const sheet = new OffscreenCanvas(columns, rows);
  const context = sheet.getContext("2d");
  context.scale(ratio, ratio);
  paint(context);
  if (canvas.width !== columns) canvas.width = columns;
  if (canvas.height !== rows) canvas.height = rows;
  canvas.style.width = `${columns / ratio}px`;
  canvas.style.height = `${rows / ratio}px`;
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(sheet.transferToImageBitmap());
}

/** Move an element by a CSS transform, unless it is there already. */
function moveElement(element, transform) {
  if (element.moved === transform) return;
  element.moved = transform;
  element.style.transform = transform;
}
