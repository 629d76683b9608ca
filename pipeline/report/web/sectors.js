// Seconds of each run in each sector, the least in bold.

class SectorTable {
  constructor(table, viewer) {
    this.table = table;
    this.viewer = viewer;
    this.shownSector = -1;
    this.build();
  }

  build() {
    const { runs, timeline } = this.viewer;
    const count = Math.max(...runs.map((run) => run.sectors.length));
    const head = make("tr");
    head.append(make("th", "", "run"));
    this.heads = [];
    for (let i = 0; i < count; i += 1) {
      const cell = make("th", "number");
      const button = make("button", "sector", `S${i + 1}`);
      button.type = "button";
      button.title = `go to the start of sector ${i + 1}`;
      button.addEventListener("click", () => {
        const meters = this.viewer.data.track.sectors[i];
        timeline.seek(Math.max(this.viewer.reference.timeAt(meters), 0) || 0);
      });
      cell.append(button);
      head.append(cell);
      this.heads.push(cell);
    }
    head.append(make("th", "number", "total, s"));
    const body = make("tbody");
    for (const run of runs) body.append(this.row(run, count));
    const top = make("thead");
    top.append(head);
    this.table.replaceChildren(top, body);
  }

  row(run, count) {
    const { runs } = this.viewer;
    const row = make("tr");
    const name = make("th", "run-name", `${run.index + 1}  ${run.name}`);
    name.scope = "row";
    name.style.setProperty("--run", run.colour);
    row.append(name);
    for (let i = 0; i < count; i += 1) {
      const least = Math.min(...runs.map((other) => other.sectors[i] ?? Infinity));
      const value = run.sectors[i];
      const cell = make("td", "number", value === undefined ? "-" : value.toFixed(3));
      if (value !== undefined && value <= least + 1e-9) cell.classList.add("least");
      row.append(cell);
    }
    const fastest = Math.min(...runs.map((other) => other.finishMs));
    const total = make("td", "number", secondsText(run.finishMs));
    if (run.finishMs === fastest) total.classList.add("least");
    row.append(total);
    return row;
  }

  /** Mark the sector that the chosen run drives in. */
  draw(ms) {
    const { reference, data } = this.viewer;
    const meters = reference.at(ms).progress;
    let sector = 0;
    while (sector < this.heads.length - 1 && meters >= data.track.sectors[sector + 1]) sector += 1;
    if (sector === this.shownSector) return;
    this.shownSector = sector;
    this.heads.forEach((cell, i) => cell.classList.toggle("now", i === sector));
  }
}
