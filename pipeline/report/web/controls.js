// Buttons, keys, mouse and touch of the viewer.

const ACTION_STEP_MS = 50;
const ZOOM_STEP = 1.5;

function connectButtons(viewer) {
  const { timeline, data } = viewer;
  const on = (name, event, action) => viewer.part(name).addEventListener(event, action);
  on("play", "click", () => timeline.play(!timeline.playing));
  on("back", "click", () => timeline.step(-1, data.tick_ms));
  on("forward", "click", () => timeline.step(1, data.tick_ms));
  on("speed", "change", (event) => timeline.setSpeed(Number(event.target.value)));
  on("scrub", "input", (event) => timeline.seek(Number(event.target.value)));
  on("mode", "change", (event) => viewer.setMode(event.target.value));
  on("reference", "change", (event) => viewer.setReference(viewer.runs[event.target.value]));
  on("follow", "change", (event) => viewer.follow(viewer.runs[event.target.value] ?? null));
  on("closer", "click", () => zoomBy(viewer, ZOOM_STEP));
  on("farther", "click", () => zoomBy(viewer, 1 / ZOOM_STEP));
  on("fit", "click", () => viewer.fit());
}

function zoomBy(viewer, factor, at = null) {
  viewer.touched = true;
  viewer.map.zoom(factor, at);
  viewer.wake();
}

/** Connect the keys; they work unless a text field, a list or another control has the focus. */
function connectKeys(viewer) {
  const { timeline, data } = viewer;
  const step = (event, count) =>
    timeline.step(count, event.shiftKey ? ACTION_STEP_MS : data.tick_ms);
  const modes = ["speed", "action", "run"];
  const keys = {
    " ": () => timeline.play(!timeline.playing),
    ArrowLeft: (event) => step(event, -1),
    ArrowRight: (event) => step(event, 1),
    Home: () => timeline.seek(0),
    End: () => timeline.seek(timeline.endMs),
    ",": () => timeline.changeSpeed(-1),
    ".": () => timeline.changeSpeed(1),
    "+": () => zoomBy(viewer, ZOOM_STEP),
    "=": () => zoomBy(viewer, ZOOM_STEP),
    "-": () => zoomBy(viewer, 1 / ZOOM_STEP),
    0: () => viewer.fit(),
    c: () => viewer.setMode(modes[(modes.indexOf(viewer.map.mode) + 1) % modes.length]),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    const inViewer = viewer.root.contains(target) || target === document.body;
    if (!inViewer || !isInView(viewer.root)) return;
    const kind = target.tagName;
    const isScrub = target === viewer.scrub;
    if (!isScrub && ["INPUT", "SELECT", "TEXTAREA"].includes(kind)) return;
    if (kind === "BUTTON" && event.key === " ") return; // it presses the button
    const run = /^[1-8]$/.test(event.key) ? viewer.runs[Number(event.key) - 1] : undefined;
    const action = run ? () => viewer.follow(run) : keys[event.key];
    if (!action) return;
    event.preventDefault();
    action(event);
  });
}

function isInView(element) {
  const box = element.getBoundingClientRect();
  return box.bottom > 0 && box.top < window.innerHeight;
}

function connectPointers(viewer) {
  connectMap(viewer);
  const canvas = viewer.part("delta");
  const seek = (event) => {
    const box = canvas.getBoundingClientRect();
    viewer.timeline.playing = false;
    viewer.timeline.seek(viewer.delta.timeAtPixel(event.clientX - box.left));
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    seek(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) seek(event);
  });
}

/** Drag with one pointer to move the map, with two to zoom; scroll to zoom once it has the focus. */
function connectMap(viewer) {
  const canvas = viewer.part("map");
  const pointers = new Map();
  const placeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    pointers.set(event.pointerId, placeOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = pointers.get(event.pointerId);
    const now = placeOf(event);
    viewer.touched = true;
    if (pointers.size === 2) pinch(viewer, pointers, event.pointerId, before, now);
    else if (Math.hypot(now[0] - before[0], now[1] - before[1]) > 0) {
      if (viewer.map.follow !== null) viewer.follow(null);
      viewer.map.pan(now[0] - before[0], now[1] - before[1]);
    }
    pointers.set(event.pointerId, now);
    viewer.wake();
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      zoomBy(viewer, Math.exp(-0.0015 * event.deltaY), placeOf(event));
    },
    { passive: false },
  );
  canvas.addEventListener("dblclick", (event) => zoomBy(viewer, ZOOM_STEP, placeOf(event)));
}

function pinch(viewer, pointers, moved, before, now) {
  const other = [...pointers].find(([id]) => id !== moved)[1];
  const apart = (point) => Math.max(Math.hypot(point[0] - other[0], point[1] - other[1]), 1);
  const middle = (point) => [(point[0] + other[0]) / 2, (point[1] + other[1]) / 2];
  const [from, to] = [middle(before), middle(now)];
  if (viewer.map.follow === null) viewer.map.pan(to[0] - from[0], to[1] - from[1]);
  viewer.map.zoom(apart(now) / apart(before), to);
}
