// The road from above with the cars on it.
//
// Road and paths are drawn into a scene larger than the view, which is drawn anew only when the
// zoom changes or the view leaves it: each picture copies it and adds the cars.

const SCENE_MARGIN = 0.35;
const ZOOM_RANGE = [0.1, 40];
const FOLLOW_METERS = 110;

class MapView {
  constructor(canvas, track, runs, actions) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.track = readTrack(track);
    this.runs = runs;
    this.actions = actions;
    this.topSpeed = Math.max(...runs.map((run) => run.speed.reduce((a, b) => Math.max(a, b), 1)));
    this.mode = "speed";
    this.follow = null;
    this.paths = new Map();
    this.scene = null;
    this.view = { x: 0, y: 0, scale: 1 };
    this.resize();
    this.fit();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(Math.round(box.width * ratio), 1);
    const height = Math.max(Math.round(box.height * ratio), 1);
    this.ratio = ratio;
    if (width === this.canvas.width && height === this.canvas.height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.scene = null;
  }

  /** Draw the scene anew with the next picture. */
  refresh() {
    this.scene = null;
    this.paths.clear();
    this.theme = null;
  }

  fit() {
    const { low, high } = this.track;
    const scale = Math.min(
      this.canvas.width / (high[0] - low[0] + 30),
      this.canvas.height / (high[1] - low[1] + 30),
    );
    this.follow = null;
    this.view = { x: (low[0] + high[0]) / 2, y: (low[1] + high[1]) / 2, scale };
    this.scene = null;
  }

  followRun(run) {
    this.follow = run;
    if (run !== null) {
      this.view.scale = Math.max(this.view.scale, this.canvas.width / FOLLOW_METERS / 2);
      this.scene = null;
    }
  }

  /** Zoom by a factor about a place on the canvas, in CSS pixels; null is its middle. */
  zoom(factor, at = null) {
    const scale = clamp(
      this.view.scale * factor,
      ZOOM_RANGE[0] * this.ratio,
      ZOOM_RANGE[1] * this.ratio,
    );
    if (at !== null && this.follow === null) {
      const [dx, dy] = this.offset(at);
      this.view.x += dx / this.view.scale - dx / scale;
      this.view.y += dy / this.view.scale - dy / scale;
    }
    this.view.scale = scale;
    this.scene = null;
  }

  pan(dx, dy) {
    this.follow = null;
    this.view.x -= (dx * this.ratio) / this.view.scale;
    this.view.y -= (dy * this.ratio) / this.view.scale;
  }

  offset(at) {
    return [
      at[0] * this.ratio - this.canvas.width / 2,
      at[1] * this.ratio - this.canvas.height / 2,
    ];
  }

  draw(ms) {
    if (this.follow !== null) {
      const place = this.follow.at(ms);
      this.view.x = place.x;
      this.view.y = place.y;
    }
    const { view, canvas, context } = this;
    if (!this.covers()) this.drawScene();
    const scene = this.scene;
    const left = (view.x - scene.x) * view.scale + (scene.canvas.width - canvas.width) / 2;
    const top = (view.y - scene.y) * view.scale + (scene.canvas.height - canvas.height) / 2;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(scene.canvas, -Math.round(left), -Math.round(top));
    const order = this.runs.filter((run) => run.shown && run !== this.follow);
    if (this.follow !== null) order.push(this.follow);
    for (const run of order) this.drawCar(run, run.at(ms));
    this.drawScale();
  }

  covers() {
    const { scene, view, canvas } = this;
    if (scene === null || scene.scale !== view.scale) return false;
    const roomX = (scene.canvas.width - canvas.width) / 2;
    const roomY = (scene.canvas.height - canvas.height) / 2;
    return (
      Math.abs(view.x - scene.x) * view.scale <= roomX &&
      Math.abs(view.y - scene.y) * view.scale <= roomY
    );
  }

  drawScene() {
    const { view, canvas } = this;
    const reuse = this.scene !== null;
    const layer = reuse ? this.scene.canvas : document.createElement("canvas");
    if (!reuse) {
      layer.width = Math.round(canvas.width * (1 + 2 * SCENE_MARGIN));
      layer.height = Math.round(canvas.height * (1 + 2 * SCENE_MARGIN));
    }
    const context = layer.getContext("2d", { alpha: false });
    this.scene = { canvas: layer, x: view.x, y: view.y, scale: view.scale };
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = themeColour("ground");
    context.fillRect(0, 0, layer.width, layer.height);
    const { scale } = view;
    context.setTransform(
      scale,
      0,
      0,
      scale,
      layer.width / 2 - view.x * scale,
      layer.height / 2 - view.y * scale,
    );
    this.drawRoad(context, this.ratio / scale);
    for (const run of this.runs) if (run.shown) this.drawPath(context, run);
  }

  /** Draw the road; `pixel` is a CSS pixel in metres. */
  drawRoad(context, pixel) {
    const { track } = this;
    context.lineJoin = "round";
    context.fillStyle = themeColour("verge");
    context.fill(track.verge);
    context.fillStyle = themeColour("road");
    context.fill(track.road);
    for (const patch of track.patches) {
      context.fillStyle = themeColour("patch-" + patch.kind);
      context.fill(patch.path);
    }
    context.strokeStyle = themeColour("edge");
    context.lineWidth = Math.max(0.4, pixel);
    context.stroke(track.lines);
    context.lineWidth = Math.max(0.7, 1.5 * pixel);
    track.marks.forEach((mark, i) => {
      const isEnd = i === 0 || i === track.marks.length - 1;
      context.strokeStyle = themeColour(isEnd ? "text" : "mark");
      context.stroke(mark.path);
      if (isEnd) return;
      const size = 12 * pixel;
      context.font = `${size}px sans-serif`;
      context.fillStyle = themeColour("mark");
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(String(i + 1), mark.label[0], mark.label[1]);
    });
  }

  drawPath(context, run) {
    const key = `${this.mode} ${run.index}`;
    if (!this.paths.has(key)) {
      this.paths.set(key, colouredPaths(run, this.mode, this.topSpeed, this.actions));
    }
    context.lineWidth = clamp((2.2 * this.ratio) / this.view.scale, 0.35, 6);
    context.lineCap = "round";
    for (const [colour, path] of this.paths.get(key)) {
      context.strokeStyle = colour;
      context.stroke(path);
    }
  }

  drawCar(run, place) {
    const { context, view, canvas, ratio } = this;
    const size = Math.max(1.3 * view.scale, 6 * ratio);
    context.setTransform(
      1,
      0,
      0,
      1,
      (place.x - view.x) * view.scale + canvas.width / 2,
      (place.y - view.y) * view.scale + canvas.height / 2,
    );
    context.rotate(place.heading);
    context.beginPath();
    context.moveTo(1.5 * size, 0);
    context.lineTo(-size, 0.8 * size);
    context.lineTo(-0.6 * size, 0);
    context.lineTo(-size, -0.8 * size);
    context.closePath();
    context.fillStyle = run.colour;
    context.strokeStyle = themeColourCached(this, "car-edge");
    context.lineWidth = 1.5 * ratio;
    context.fill();
    context.stroke();
    context.rotate(-place.heading);
    context.font = `bold ${11 * ratio}px sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = themeColourCached(this, "text");
    context.fillText(String(run.index + 1), 0, -1.6 * size - 6 * ratio);
  }

  /** Draw a bar of a round number of metres in the corner. */
  drawScale() {
    const { context, canvas, ratio, view } = this;
    const most = (90 * ratio) / view.scale;
    const power = 10 ** Math.floor(Math.log10(most));
    const meters = power * (most / power >= 5 ? 5 : most / power >= 2 ? 2 : 1);
    const width = meters * view.scale;
    const left = 12 * ratio;
    const bottom = canvas.height - 12 * ratio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.strokeStyle = context.fillStyle = themeColourCached(this, "text");
    context.lineWidth = 1.5 * ratio;
    context.beginPath();
    context.moveTo(left, bottom - 5 * ratio);
    context.lineTo(left, bottom);
    context.lineTo(left + width, bottom);
    context.lineTo(left + width, bottom - 5 * ratio);
    context.stroke();
    context.font = `${11 * ratio}px sans-serif`;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillText(`${meters} m`, left + 5 * ratio, bottom - 5 * ratio);
  }
}

/** Colour of the theme, looked up once for each theme: each picture needs a few. */
function themeColourCached(view, name) {
  if (!view.theme) view.theme = new Map();
  if (!view.theme.has(name)) view.theme.set(name, themeColour(name));
  return view.theme.get(name);
}

/** Build the paths of a track from its arrays. */
function readTrack(data) {
  const [leftEdge, rightEdge] = data.edges.map(floatsOf);
  const [leftWall, rightWall] = data.walls.map(floatsOf);
  const along = floatsOf(data.along);
  const lines = new Path2D();
  for (const side of [leftEdge, rightEdge]) addLine(lines, side, false);
  const all = [leftWall, rightWall];
  const low = [Infinity, Infinity];
  const high = [-Infinity, -Infinity];
  for (const side of all) {
    side.forEach((value, i) => {
      low[i % 2] = Math.min(low[i % 2], value);
      high[i % 2] = Math.max(high[i % 2], value);
    });
  }
  return {
    verge: band(leftWall, rightWall),
    road: band(leftEdge, rightEdge),
    lines,
    patches: data.patches.map((patch) => {
      const path = new Path2D();
      addLine(path, floatsOf(patch.outline), true);
      return { kind: patch.kind, path };
    }),
    marks: data.sectors.map((meters) => crossing(meters, along, leftEdge, rightEdge)),
    low,
    high,
  };
}

function addLine(path, points, closed) {
  path.moveTo(points[0], points[1]);
  for (let i = 2; i < points.length; i += 2) path.lineTo(points[i], points[i + 1]);
  if (closed) path.closePath();
}

/** Build the area between two sides, piece by piece: a road may pass over itself. */
function band(left, right) {
  const path = new Path2D();
  const piece = 40;
  for (let i = 0; i < left.length - 2; i += piece) {
    const end = Math.min(i + piece + 2, left.length);
    const outline = [];
    for (let k = i; k < end; k += 2) outline.push(left[k], left[k + 1]);
    for (let k = end - 2; k >= i; k -= 2) outline.push(right[k], right[k + 1]);
    addLine(path, outline, true);
  }
  return path;
}

/** Build a line across the road at some metres along it, and the place of its label. */
function crossing(meters, along, left, right) {
  let row = 0;
  while (row < along.length - 2 && along[row + 1] < meters) row += 1;
  const share = clamp((meters - along[row]) / (along[row + 1] - along[row]), 0, 1);
  const point = (side) =>
    [0, 1].map((i) => side[2 * row + i] + share * (side[2 * row + 2 + i] - side[2 * row + i]));
  const [a, b] = [point(left), point(right)];
  const path = new Path2D();
  path.moveTo(a[0], a[1]);
  path.lineTo(b[0], b[1]);
  const label = [0, 1].map((i) => b[i] + 0.45 * (b[i] - a[i]));
  return { path, label };
}
