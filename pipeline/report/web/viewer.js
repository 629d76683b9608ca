// The viewer of driven runs: clock, map, cards, curve of seconds, sectors, and their controls.

const NUMBERS_MS = 45;
/* While it plays, numbers change 20 times a second: their layout costs most of a picture. */

class Viewer {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.parts = new Map();
    this.runs = data.runs.map((run, index) => new Replay(run, data, index));
    this.reference = this.runs[0];
    this.timeline = new Timeline(Math.max(...this.runs.map((run) => run.finishMs)));
    this.map = new MapView(this.part("map"), data.track, this.runs, data.actions);
    this.delta = new DeltaView(this.part("delta"), this.runs, data.track);
    this.cards = this.runs.map((run) => new RunCard(run, this));
    this.part("cards").append(...this.cards.map((card) => card.element));
    this.sectors = new SectorTable(this.part("sectors"), this);
    this.pictures = 0;
    this.isScheduled = false;
    this.numbersAt = -Infinity;
    this.scrub = this.part("scrub");
    this.scrub.max = String(this.timeline.endMs);
    this.scrub.step = String(data.tick_ms);
    this.timeline.onChange(() => this.wake());
    this.fillSelects();
    this.showLegend();
    connectButtons(this);
    connectKeys(this);
    connectPointers(this);
    new ResizeObserver(() => this.resize()).observe(root);
    this.lastFrame = null;
    this.wake();
  }

  part(name) {
    if (!this.parts.has(name)) {
      this.parts.set(name, this.root.querySelector(`[data-part="${name}"]`));
    }
    return this.parts.get(name);
  }

  /** Wait until the frames of all runs can be drawn. */
  async ready() {
    await Promise.all(this.runs.map((run) => run.load()));
    this.cards.forEach((card) => (card.frame = -1));
    this.draw(performance.now());
  }

  /** Draw a picture soon. */
  wake() {
    if (this.isScheduled) return;
    this.isScheduled = true;
    requestAnimationFrame((now) => this.tick(now));
  }

  tick(now) {
    this.isScheduled = false;
    const { timeline } = this;
    if (timeline.playing && this.lastFrame !== null) {
      timeline.advance(Math.min(now - this.lastFrame, 1000));
    }
    this.lastFrame = timeline.playing ? now : null;
    this.draw(now);
    if (timeline.playing) this.wake();
  }

  draw(now) {
    const { ms, playing } = this.timeline;
    const hasNumbers = !playing || now - this.numbersAt >= NUMBERS_MS;
    this.pictures += 1;
    this.map.draw(ms);
    this.delta.draw(ms);
    for (const card of this.cards) {
      if (card.run.shown) card.draw(ms, this.reference, hasNumbers);
    }
    if (!hasNumbers) return;
    this.numbersAt = now;
    this.drawNumbers();
  }

  drawNumbers() {
    const { ms, endMs, playing, speed } = this.timeline;
    this.sectors.draw(ms);
    this.scrub.value = String(ms);
    this.setText("clock", `${secondsText(ms)} / ${secondsText(endMs)} s`);
    this.setText("play", playing ? "\u23F8 pause" : "\u25B6 play");
    const shownSpeed = String(speed);
    if (this.part("speed").value !== shownSpeed) this.part("speed").value = shownSpeed;
  }

  setText(name, text) {
    const element = this.part(name);
    if (element.textContent !== text) element.textContent = text;
  }

  fillSelects() {
    const options = (select, entries) => {
      for (const [value, text] of entries) {
        const option = make("option", "", text);
        option.value = value;
        select.append(option);
      }
    };
    const names = this.runs.map((run) => [String(run.index), `${run.index + 1}  ${run.name}`]);
    options(this.part("speed"), SPEEDS.map((speed) => [String(speed), `${speed}\u00D7`]));
    options(this.part("reference"), names);
    options(this.part("follow"), [["", "nobody"], ...names]);
  }

  follow(run) {
    this.map.followRun(run);
    this.part("follow").value = run === null ? "" : String(run.index);
    this.cards.forEach((card) => card.element.classList.toggle("followed", card.run === run));
    this.wake();
  }

  fit() {
    this.follow(null);
    this.map.fit();
    this.wake();
  }

  show(run, on) {
    run.shown = on;
    const card = this.cards[run.index];
    card.element.classList.toggle("hidden-run", !on);
    card.box.checked = on;
    this.map.refresh();
    this.delta.refresh();
    this.wake();
  }

  setReference(run) {
    this.reference = run;
    this.part("reference").value = String(run.index);
    this.delta.setReference(run);
    this.sectors.shownSector = -1;
    this.wake();
  }

  setMode(mode) {
    this.map.mode = mode;
    this.map.refresh();
    this.part("mode").value = mode;
    this.showLegend();
    this.wake();
  }

  /** Say what the colours of the paths mean. */
  showLegend() {
    const legend = this.part("colours");
    legend.replaceChildren();
    if (this.map.mode === "speed") {
      const bar = make("span", "gradient");
      const stops = SPEED_STOPS.map((stop) => `rgb(${stop.join(",")})`);
      bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
      const top = `${Math.round(3.6 * this.map.topSpeed)} km/h`;
      legend.append(make("span", "", "0"), bar, make("span", "", top));
    }
    if (this.map.mode !== "action") return;
    const used = new Set(this.runs.flatMap((run) => Array.from(run.actions)));
    this.data.actions.forEach((action, i) => {
      if (!used.has(i)) return;
      const entry = make("span", "swatch", action.name);
      entry.style.setProperty("--run", actionColour(action.keys));
      legend.append(entry);
    });
  }

  /** Draw everything anew, such as in another theme. */
  refresh() {
    this.map.refresh();
    this.delta.refresh();
    this.wake();
  }

  resize() {
    this.map.resize();
    if (this.map.follow === null && !this.touched) this.map.fit();
    this.delta.resize();
    this.wake();
  }
}
