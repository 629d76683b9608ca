// The road from above with the cars on it.
//
// Road and paths are drawn into a scene larger than the view. A picture moves elements and draws
// nothing: the scene while a car is followed, and a body and a number for each car. The scene is
// drawn again when the zoom, the theme or the paths change, or when the view leaves it.

const SCENE_MARGIN = 0.35;
const AHEAD = 0.8;
const ZOOM_RANGE = [0.1, 40];
const FOLLOW_METERS = 110;
const SCALE_BAR_PX = 90;

class MapView {
  constructor(root, track, runs, actions) {
    this.root = root;
    this.track = readTrack(track);
    this.runs = runs;
    this.actions = actions;
    this.topSpeed = Math.max(...runs.map((run) => run.speed.reduce((a, b) => Math.max(a, b), 1)));
    this.mode = "speed";
    this.follow = null;
    this.paths = new Map();
    this.canvas = make("canvas", "scene");
    this.cars = runs.map((run) => new CarSprite(run));
    this.scaleBar = make("div", "scale-bar");
    root.append(this.canvas, ...this.cars.flatMap((car) => car.parts()), this.scaleBar);
    this.scene = null;
    this.view = { x: 0, y: 0, scale: 1 };
    this.resize();
    this.fit();
  }

  resize() {
    this.width = Math.max(this.root.clientWidth, 1);
    this.height = Math.max(this.root.clientHeight, 1);
    this.ratio = pixelRatio();
    this.scene = null;
  }

  /** Draw the scene anew with the next picture. */
  refresh() {
    this.scene = null;
    this.paths.clear();
  }

  fit() {
    const { low, high } = this.track;
    const scale = Math.min(
      this.width / (high[0] - low[0] + 30),
      this.height / (high[1] - low[1] + 30),
    );
    this.follow = null;
    this.view = { x: (low[0] + high[0]) / 2, y: (low[1] + high[1]) / 2, scale };
  }

  followRun(run) {
    this.follow = run;
    if (run !== null) this.view.scale = Math.max(this.view.scale, this.width / FOLLOW_METERS / 2);
    for (const car of this.cars) car.raise(car.run === run);
  }

  /** Zoom by a factor about a place of the view, in pixels from its corner; null is its middle. */
  zoom(factor, at = null) {
    const scale = clamp(this.view.scale * factor, ...ZOOM_RANGE);
    if (at !== null && this.follow === null) {
      const [dx, dy] = [at[0] - this.width / 2, at[1] - this.height / 2];
      this.view.x += dx / this.view.scale - dx / scale;
      this.view.y += dy / this.view.scale - dy / scale;
    }
    this.view.scale = scale;
  }

  pan(dx, dy) {
    this.follow = null;
    this.view.x -= dx / this.view.scale;
    this.view.y -= dy / this.view.scale;
  }

  draw(ms) {
    const { view, follow } = this;
    if (follow !== null) {
      const place = follow.at(ms);
      view.x = place.x;
      view.y = place.y;
    }
    if (!this.covers()) this.drawScene(follow === null ? null : follow.at(ms).heading);
    const { scene, ratio } = this;
    const shift = (meters) => Math.round(meters * view.scale * ratio) / ratio; // whole pixels
    moveElement(this.canvas, `translate(${shift(scene.x - view.x)}px, ${shift(scene.y - view.y)}px)`);
    for (const car of this.cars) {
      const place = car.run.at(ms);
      const x = (place.x - view.x) * view.scale + this.width / 2;
      const y = (place.y - view.y) * view.scale + this.height / 2;
      car.move(x, y, place.heading);
    }
  }

  covers() {
    const { scene, view, width, height } = this;
    if (scene === null || scene.scale !== view.scale) return false;
    return (
      Math.abs(view.x - scene.x) * view.scale <= SCENE_MARGIN * width &&
      Math.abs(view.y - scene.y) * view.scale <= SCENE_MARGIN * height
    );
  }

  /** Draw the scene about the view, most of it ahead of a car that heads there (radians). */
  drawScene(heading) {
    const { view, canvas, ratio } = this;
    const { scale } = view;
    const ahead = heading === null ? 0 : (AHEAD * SCENE_MARGIN) / scale;
    const x = view.x + ahead * this.width * Math.cos(heading);
    const y = view.y + ahead * this.height * Math.sin(heading);
    const [width, height] = [this.width, this.height].map((side) => side * (1 + 2 * SCENE_MARGIN));
    canvas.style.left = `${-SCENE_MARGIN * this.width}px`;
    canvas.style.top = `${-SCENE_MARGIN * this.height}px`;
    this.scene = { x, y, scale };
    paintCanvas(canvas, width, height, ratio, (context) => {
      context.fillStyle = themeColour("ground");
      context.fillRect(0, 0, width, height);
      context.translate(width / 2, height / 2);
      context.scale(scale, scale);
      context.translate(-x, -y);
      this.drawRoad(context, 1 / scale);
      for (const run of this.runs) if (run.shown) this.drawPath(context, run);
    });
    for (const car of this.cars) car.paint(scale, ratio);
    this.showScale();
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
    context.lineWidth = clamp(2.2 / this.view.scale, 0.35, 6);
    context.lineCap = "round";
    for (const [colour, path] of this.paths.get(key)) {
      context.strokeStyle = colour;
      context.stroke(path);
    }
  }

  /** Show a bar of a round number of metres in the corner. */
  showScale() {
    const { scale } = this.view;
    const most = SCALE_BAR_PX / scale;
    const power = 10 ** Math.floor(Math.log10(most));
    const meters = power * (most / power >= 5 ? 5 : most / power >= 2 ? 2 : 1);
    this.scaleBar.style.width = `${meters * scale}px`;
    this.scaleBar.textContent = `${meters} m`;
  }
}

/** A car: a body that turns, and the number of its run above it. */
class CarSprite {
  constructor(run) {
    this.run = run;
    this.body = make("canvas", "car");
    this.label = make("span", "car-label", String(run.index + 1));
  }

  parts() {
    return [this.body, this.label];
  }

  /** Put it above the other cars, or not. */
  raise(onTop) {
    for (const part of this.parts()) part.style.zIndex = onTop ? "2" : "1";
  }

  /** Draw the body for a zoom in pixels per metre. */
  paint(scale, ratio) {
    const { run, body } = this;
    const size = Math.max(1.3 * scale, 6);
    const half = Math.ceil(1.5 * size + 2);
    this.lift = 1.6 * size + 6;
    body.style.left = body.style.top = `${-half}px`;
    for (const part of this.parts()) part.hidden = !run.shown;
    paintCanvas(body, 2 * half, 2 * half, ratio, (context) => {
      context.translate(half, half);
      context.moveTo(1.5 * size, 0);
      context.lineTo(-size, 0.8 * size);
      context.lineTo(-0.6 * size, 0);
      context.lineTo(-size, -0.8 * size);
      context.closePath();
      context.fillStyle = run.colour;
      context.strokeStyle = themeColour("car-edge");
      context.lineWidth = 1.5;
      context.fill();
      context.stroke();
    });
  }

  /** Move to a place of the view in pixels, turned by an angle in radians. */
  move(x, y, heading) {
    if (this.body.hidden) return;
    const [left, top] = [x.toFixed(2), y.toFixed(2)];
    moveElement(this.body, `translate(${left}px, ${top}px) rotate(${heading.toFixed(4)}rad)`);
    moveElement(this.label, `translate(${left}px, ${(y - this.lift).toFixed(2)}px)`);
  }
}
