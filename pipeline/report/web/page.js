// Starts the page: theme, curves, viewer, table of the configurations.

function currentTheme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen;
  return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function connectTheme(parts) {
  const button = document.getElementById("theme");
  const changed = () => {
    button.textContent = currentTheme() === "dark" ? "\u2600 light" : "\u263E dark";
    forgetThemeColours();
    for (const part of parts) part.refresh();
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = currentTheme() === "dark" ? "light" : "dark";
    changed();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  changed();
}

function connectLegend(curves) {
  for (const box of document.querySelectorAll("[data-run]")) {
    box.addEventListener("change", () => curves.toggle(Number(box.dataset.run), box.checked));
  }
}

function connectConfig() {
  const box = document.getElementById("all-keys");
  if (box === null) return;
  const table = document.getElementById("config");
  box.addEventListener("change", () => table.classList.toggle("all", box.checked));
}

async function start() {
  const curves = new Curves(document.querySelectorAll("[data-item]"));
  const parts = [curves];
  connectLegend(curves);
  connectConfig();
  const data = readJson("viewer-data");
  if (data !== null) {
    const viewer = new Viewer(document.getElementById("viewer"), data);
    parts.push(viewer);
    window.viewer = viewer;
    await viewer.ready();
  }
  connectTheme(parts);
  document.documentElement.dataset.readyMs = String(Math.round(performance.now()));
}

start();
