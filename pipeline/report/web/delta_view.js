// Seconds won and lost along the track, against a chosen run.
//
// The curves are drawn once; a picture moves a line and a dot for each run.

class DeltaView {
  constructor(root, runs, track) {
    this.root = root;
    this.runs = runs;
    this.lengthM = track.length;
    this.sectors = track.sectors;
    this.reference = runs[0];
    this.canvas = make("canvas", "delta-canvas");
    this.line = make("div", "delta-line");
    this.dots = runs.map((run) => {
      const dot = make("span", "delta-dot");
      dot.style.setProperty("--run", run.colour);
      return dot;
    });
    root.append(this.canvas, this.line, ...this.dots);
    this.axes = null;
    this.resize();
  }

  resize() {
    this.width = Math.max(this.root.clientWidth, 1);
    this.height = Math.max(this.root.clientHeight, 1);
    this.refresh();
  }

  /** Draw the curves anew with the next picture. */
  refresh() {
    this.axes = null;
  }

  setReference(run) {
    this.reference = run;
    this.refresh();
  }

  others() {
    return this.runs.filter((run) => run.shown && run !== this.reference);
  }

  /** Range of the seconds that are shown, zero included. */
  range() {
    let low = 0;
    let high = 0;
    for (const run of this.others()) {
      for (let i = 0; i < run.times.length; i += 1) {
        const delta = (run.times[i] - this.reference.times[i]) / 1000;
        if (delta < low) low = delta;
        if (delta > high) high = delta;
      }
    }
    const room = Math.max(0.08 * (high - low), 0.02);
    return [low - room, high + room];
  }

  place(meters, seconds) {
    const { left, right, top, bottom, low, high } = this.axes;
    return [
      left + (meters / this.lengthM) * (right - left),
      bottom - ((seconds - low) / (high - low)) * (bottom - top),
    ];
  }

  drawCurves() {
    const { canvas, width, height } = this;
    const [low, high] = this.range();
    this.axes = { left: 46, right: width - 10, top: 10, bottom: height - 24, low, high };
    paintCanvas(canvas, width, height, pixelRatio(), (context) => {
      context.fillStyle = themeColour("panel");
      context.fillRect(0, 0, width, height);
      this.drawGrid(context);
      for (const run of this.others()) this.drawCurve(context, run);
    });
    this.line.style.top = `${this.axes.top}px`;
    this.line.style.height = `${this.axes.bottom - this.axes.top}px`;
  }

  drawGrid(context) {
    const { left, right, top, bottom, low, high } = this.axes;
    context.lineWidth = 1;
    context.font = "11px sans-serif";
    context.fillStyle = themeColour("muted");
    context.textAlign = "right";
    context.textBaseline = "middle";
    const step = niceStep((high - low) / 6);
    for (let i = Math.ceil(low / step); i * step <= high; i += 1) {
      const y = this.place(0, i * step)[1];
      context.strokeStyle = themeColour(i === 0 ? "muted" : "grid");
      context.beginPath();
      context.moveTo(left, y);
      context.lineTo(right, y);
      context.stroke();
      const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
      const sign = i > 0 ? "+" : i < 0 ? "\u2212" : "";
      context.fillText(sign + Math.abs(i * step).toFixed(digits), left - 6, y);
    }
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    this.sectors.forEach((meters, i) => {
      const x = this.place(meters, 0)[0];
      context.strokeStyle = themeColour("grid");
      context.beginPath();
      context.moveTo(x, top);
      context.lineTo(x, bottom);
      context.stroke();
      if (i + 1 < this.sectors.length) {
        const next = this.place(this.sectors[i + 1], 0)[0];
        context.fillText(String(i + 1), (x + next) / 2, bottom + 16);
      }
    });
  }

  drawCurve(context, run) {
    context.strokeStyle = run.colour;
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    let open = false;
    for (let i = 0; i < run.times.length; i += 1) {
      const delta = (run.times[i] - this.reference.times[i]) / 1000;
      if (!Number.isFinite(delta)) continue;
      const meters = Math.min(i * run.gridM, this.lengthM);
      const [x, y] = this.place(meters, delta);
      if (open) context.lineTo(x, y);
      else context.moveTo(x, y);
      open = true;
    }
    context.stroke();
  }

  draw(ms) {
    if (this.axes === null) this.drawCurves();
    const x = this.place(this.reference.at(ms).progress, 0)[0];
    moveElement(this.line, `translate(${x.toFixed(2)}px, 0)`);
    for (const [i, run] of this.runs.entries()) {
      const isOther = run.shown && run !== this.reference;
      const delta = isOther ? run.behind(this.reference, ms) : NaN;
      const dot = this.dots[i];
      const isHidden = !Number.isFinite(delta);
      if (dot.hidden !== isHidden) dot.hidden = isHidden;
      if (isHidden) continue;
      const [px, py] = this.place(run.at(ms).progress, delta);
      moveElement(dot, `translate(${px.toFixed(2)}px, ${py.toFixed(2)}px)`);
    }
  }

  /** Time of the chosen run at a place of the curve, in pixels from its left. */
  timeAtPixel(x) {
    if (this.axes === null) this.drawCurves();
    const { left, right } = this.axes;
    const share = clamp((x - left) / (right - left), 0, 1);
    const ms = this.reference.timeAt(share * this.lengthM);
    return Number.isFinite(ms) ? ms : 0;
  }
}

/** The round number next above a value: 1, 2 or 5 times a power of ten. */
function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  const factor = [1, 2, 5, 10].find((each) => each * power >= value) || 10;
  return factor * power;
}
