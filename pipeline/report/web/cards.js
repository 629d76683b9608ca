// One card for each run: what its driver sees, keys, speed, time and delta.

const KEY_SIGNS = { accelerate: "\u25B2", brake: "\u25BC", left: "\u25C0", right: "\u25B6" };

class RunCard {
  constructor(run, viewer) {
    this.run = run;
    this.keyNames = viewer.data.keys;
    this.actions = viewer.data.actions;
    this.element = make("article", "card");
    this.element.style.setProperty("--run", run.colour);
    this.element.append(this.head(viewer), this.body());
    this.frame = -1;
    this.action = -1;
    this.texts = new Map();
  }

  head(viewer) {
    const head = make("div", "card-head");
    this.followButton = make("button", "card-name", `${this.run.index + 1}  ${this.run.name}`);
    this.followButton.type = "button";
    this.followButton.title = `follow ${this.run.name} (${this.run.origin})`;
    this.followButton.addEventListener("click", () => viewer.follow(this.run));
    const show = make("label", "card-show", "show");
    this.box = make("input");
    this.box.type = "checkbox";
    this.box.checked = true;
    this.box.addEventListener("change", () => viewer.show(this.run, this.box.checked));
    show.prepend(this.box);
    head.append(this.followButton, show);
    return head;
  }

  body() {
    const body = make("div", "card-body");
    this.canvas = make("canvas", "frame");
    const { width, height } = this.run.sheet;
    this.canvas.width = width;
    this.canvas.height = height;
    this.sheet = new OffscreenCanvas(width, height);
    this.context = this.sheet.getContext("2d");
    this.shown = this.canvas.getContext("bitmaprenderer");
    const numbers = make("div", "numbers");
    this.time = make("output", "time");
    this.delta = make("output", "delta");
    this.speed = make("output", "speed");
    const keys = make("div", "keys");
    this.keys = this.keyNames.map((name) => {
      const key = make("span", "key " + name, KEY_SIGNS[name] || name);
      key.title = name;
      keys.append(key);
      return key;
    });
    numbers.append(this.time, this.delta, this.speed, keys);
    body.append(this.canvas, numbers);
    return body;
  }

  setText(element, text) {
    if (this.texts.get(element) === text) return;
    this.texts.set(element, text);
    element.textContent = text;
  }

  /** Show frame, keys and, where they are due, the numbers of a time. */
  draw(ms, reference, hasNumbers) {
    const { run } = this;
    const frame = run.frameAt(ms);
    if (frame !== this.frame && run.picture !== null) {
      run.drawFrame(this.context, frame);
      this.shown.transferFromImageBitmap(this.sheet.transferToImageBitmap());
      this.frame = frame;
    }
    const place = run.at(ms);
    if (place.action !== this.action) {
      this.action = place.action;
      const held = this.actions[place.action].keys;
      this.keys.forEach((key, i) => key.classList.toggle("held", held[i] === 1));
    }
    if (hasNumbers) this.drawNumbers(ms, place.speed, reference);
  }

  drawNumbers(ms, speed, reference) {
    const { run } = this;
    const done = ms >= run.finishMs;
    const time = secondsText(Math.min(ms, run.finishMs));
    this.setText(this.time, done ? `${time} s \u2691` : `${time} s`);
    this.setText(this.speed, `${Math.round(speed * 3.6)} km/h`);
    const isReference = run === reference;
    const delta = isReference ? NaN : run.behind(reference, ms);
    this.setText(this.delta, isReference ? "reference" : deltaText(delta));
    const state = isReference || !Number.isFinite(delta) ? "" : delta > 0 ? "lost" : "won";
    if (this.delta.dataset.state !== state) this.delta.dataset.state = state;
  }
}
