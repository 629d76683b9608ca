// Curves drawn by bokeh, each when it comes into view, in the colours of the theme.

class Curves {
  constructor(places) {
    this.plots = [];
    this.hidden = new Set();
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          observer.unobserve(entry.target);
          this.draw(entry.target);
        }
      },
      { rootMargin: "300px" },
    );
    const observe = () => places.forEach((place) => observer.observe(place));
    if (document.readyState !== "loading") observe();
    else document.addEventListener("DOMContentLoaded", observe); // bokeh's script comes last
  }

  async draw(place) {
    const item = readJson(place.dataset.item);
    const views = await Bokeh.embed.embed_item(item, place.id);
    for (const { model } of views) {
      if (model.type !== "Figure") continue; // bokeh adds an area for its own messages
      this.plots.push(model);
      this.paint(model);
      this.showRuns(model);
    }
    place.dataset.drawn = "true";
  }

  paint(plot) {
    const text = themeColour("text");
    const muted = themeColour("muted");
    plot.setv({
      background_fill_color: themeColour("panel"),
      border_fill_color: themeColour("panel"),
      outline_line_color: themeColour("grid"),
    });
    for (const axis of [...plot.below, ...plot.left]) {
      axis.setv({
        axis_label_text_color: text,
        major_label_text_color: text,
        axis_line_color: muted,
        major_tick_line_color: muted,
        minor_tick_line_color: muted,
      });
      axis.axis_label_text_font_style = "normal";
    }
    for (const grid of plot.center) {
      if ("grid_line_color" in grid) grid.grid_line_color = themeColour("grid");
    }
  }

  showRuns(plot) {
    for (const renderer of plot.renderers) {
      if (renderer.tags.length) renderer.visible = !this.hidden.has(renderer.tags[0]);
    }
  }

  toggle(run, on) {
    if (on) this.hidden.delete(run);
    else this.hidden.add(run);
    for (const plot of this.plots) this.showRuns(plot);
  }

  refresh() {
    for (const plot of this.plots) this.paint(plot);
  }
}
