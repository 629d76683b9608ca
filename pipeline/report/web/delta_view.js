// Seconds won and lost along the track, against a chosen run.

class DeltaView {
  constructor(canvas, runs, track) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.runs = runs;
    this.lengthM = track.length;
    this.sectors = track.sectors;
    this.reference = runs[0];
    this.layer = null;
    this.resize();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.max(Math.round(box.width * this.ratio), 1);
    this.canvas.height = Math.max(Math.round(box.height * this.ratio), 1);
    this.refresh();
  }

  refresh() {
    this.layer = null;
    this.theme = null;
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

  drawLayer() {
    const { ratio } = this;
    const layer = document.createElement("canvas");
    layer.width = this.canvas.width;
    layer.height = this.canvas.height;
    const context = layer.getContext("2d", { alpha: false });
    const [low, high] = this.range();
    this.axes = {
      left: 46 * ratio,
      right: layer.width - 10 * ratio,
      top: 10 * ratio,
      bottom: layer.height - 24 * ratio,
      low,
      high,
    };
    context.fillStyle = themeColour("panel");
    context.fillRect(0, 0, layer.width, layer.height);
    this.drawGrid(context);
    for (const run of this.others()) this.drawCurve(context, run);
    this.layer = layer;
  }

  drawGrid(context) {
    const { ratio } = this;
    const { left, right, top, bottom, low, high } = this.axes;
    context.lineWidth = ratio;
    context.font = `${11 * ratio}px sans-serif`;
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
      context.fillText(sign + Math.abs(i * step).toFixed(digits), left - 6 * ratio, y);
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
        context.fillText(String(i + 1), (x + next) / 2, bottom + 16 * ratio);
      }
    });
  }

  drawCurve(context, run) {
    context.strokeStyle = run.colour;
    context.lineWidth = 2 * this.ratio;
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
    if (this.layer === null) this.drawLayer();
    const { context, ratio } = this;
    const { top, bottom } = this.axes;
    context.drawImage(this.layer, 0, 0);
    const x = this.place(this.reference.at(ms).progress, 0)[0];
    context.strokeStyle = themeColourCached(this, "text");
    context.lineWidth = ratio;
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, bottom);
    context.stroke();
    for (const run of this.others()) {
      const delta = run.behind(this.reference, ms);
      if (!Number.isFinite(delta)) continue;
      const [px, py] = this.place(run.at(ms).progress, delta);
      context.fillStyle = run.colour;
      context.beginPath();
      context.arc(px, py, 4 * ratio, 0, 2 * Math.PI);
      context.fill();
    }
  }

  /** Time of the chosen run at a place of the canvas, in CSS pixels from its left. */
  timeAtPixel(x) {
    if (this.layer === null) this.drawLayer();
    const { left, right } = this.axes;
    const share = clamp((x * this.ratio - left) / (right - left), 0, 1);
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
