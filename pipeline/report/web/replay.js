// One driven run: where its car is, what it presses and what it sees at a time.

class Replay {
  constructor(data, viewer, index) {
    this.index = index;
    this.name = data.name;
    this.origin = data.origin;
    this.colour = data.colour;
    this.finishMs = data.race_time_ms;
    this.tickMs = viewer.tick_ms;
    this.gridM = viewer.grid_m;
    this.lengthM = viewer.track.length;
    this.last = data.ticks - 1;
    this.x = floatsOf(data.x);
    this.y = floatsOf(data.y);
    this.heading = floatsOf(data.heading);
    this.speed = floatsOf(data.speed);
    this.actions = bytesOf(data.actions);
    this.progress = floatsOf(data.progress);
    this.times = floatsOf(data.times);
    this.sectors = data.sectors;
    this.sheet = data.sheet;
    this.frameMs = data.frame_ms;
    this.shown = true;
    this.picture = null;
  }

  /** Decode the frames beside the page. Decoded ones stay: an image's may be dropped and redone. */
  async load() {
    const png = new Blob([bytesOf(this.sheet.png)], { type: "image/png" });
    this.sheet.png = "";
    this.picture = await createImageBitmap(png);
  }

  /** Tick at or before a time, and how far it is to the next one, in [0, 1]. */
  tickAt(ms) {
    if (ms >= this.finishMs) return [this.last, 0];
    const tick = Math.max(Math.floor(ms / this.tickMs), 0);
    const start = tick * this.tickMs;
    const end = tick + 1 === this.last ? this.finishMs : start + this.tickMs;
    return [tick, clamp((ms - start) / (end - start), 0, 1)];
  }

  /** Place, heading (radians), speed (m/s), progress (m) and action at a time. */
  at(ms) {
    const [tick, share] = this.tickAt(ms);
    const next = Math.min(tick + 1, this.last);
    const between = (array) => array[tick] + share * (array[next] - array[tick]);
    let turn = this.heading[next] - this.heading[tick];
    turn -= 2 * Math.PI * Math.round(turn / (2 * Math.PI));
    return {
      x: between(this.x),
      y: between(this.y),
      heading: this.heading[tick] + share * turn,
      speed: between(this.speed),
      progress: between(this.progress),
      action: this.actions[tick],
    };
  }

  /** Time in ms at a place along the road; NaN before the car's own start. */
  timeAt(meters) {
    if (meters >= this.lengthM) return this.finishMs;
    const last = this.times.length - 1;
    const place = Math.max(meters, 0);
    const low = clamp(Math.floor(place / this.gridM), 0, last - 1);
    const width = low + 1 === last ? this.lengthM - low * this.gridM : this.gridM;
    const share = (place - low * this.gridM) / width;
    return this.times[low] + share * (this.times[low + 1] - this.times[low]);
  }

  /** Seconds behind another run at the place that this one has reached at a time. */
  behind(other, ms) {
    const now = Math.min(ms, this.finishMs);
    if (now >= this.finishMs) return (this.finishMs - other.finishMs) / 1000;
    return (now - other.timeAt(this.at(now).progress)) / 1000;
  }

  frameAt(ms) {
    if (ms >= this.finishMs) return this.sheet.count - 1;
    return clamp(Math.floor(ms / this.frameMs), 0, this.sheet.count - 1);
  }

  drawFrame(context, number) {
    const { columns, width, height } = this.sheet;
    const left = (number % columns) * width;
    const top = Math.floor(number / columns) * height;
    context.drawImage(this.picture, left, top, width, height, 0, 0, width, height);
  }
}
