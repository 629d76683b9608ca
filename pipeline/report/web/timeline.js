// The clock of the viewer.

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];

class Timeline {
  constructor(endMs) {
    this.endMs = endMs;
    this.ms = 0;
    this.speed = 1;
    this.playing = false;
    this.listeners = [];
  }

  onChange(listener) {
    this.listeners.push(listener);
  }

  changed() {
    for (const listener of this.listeners) listener();
  }

  play(on) {
    if (on && this.ms >= this.endMs) this.ms = 0;
    this.playing = on;
    this.changed();
  }

  seek(ms) {
    if (!Number.isFinite(ms)) return;
    this.ms = clamp(ms, 0, this.endMs);
    if (this.ms >= this.endMs) this.playing = false;
    this.changed();
  }

  /** Stop and go to the next or previous multiple of a step. */
  step(count, stepMs) {
    this.playing = false;
    const now = this.ms / stepMs;
    const whole = Math.round(now);
    const at = Math.abs(now - whole) < 1e-6 ? whole : count > 0 ? Math.floor(now) : Math.ceil(now);
    this.seek((at + count) * stepMs);
  }

  setSpeed(speed) {
    this.speed = clamp(speed, SPEEDS[0], SPEEDS[SPEEDS.length - 1]);
    this.changed();
  }

  changeSpeed(count) {
    let nearest = 0;
    SPEEDS.forEach((speed, i) => {
      if (Math.abs(speed - this.speed) < Math.abs(SPEEDS[nearest] - this.speed)) nearest = i;
    });
    this.setSpeed(SPEEDS[clamp(nearest + count, 0, SPEEDS.length - 1)]);
  }

  /** Go on by some real milliseconds. */
  advance(realMs) {
    if (this.playing) this.seek(this.ms + realMs * this.speed);
  }
}
