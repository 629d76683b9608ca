// Colours: of the theme, of speeds and of actions.

const SPEED_STOPS = [
  [74, 95, 208],
  [37, 176, 200],
  [92, 196, 90],
  [240, 180, 41],
  [228, 65, 47],
];
const SPEED_LEVELS = 24;

function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

/** Colour of a share in [0, 1] of the highest speed. */
function speedColour(share) {
  const place = clamp(share, 0, 1) * (SPEED_STOPS.length - 1);
  const low = Math.min(Math.floor(place), SPEED_STOPS.length - 2);
  const parts = SPEED_STOPS[low].map((part, i) =>
    Math.round(part + (place - low) * (SPEED_STOPS[low + 1][i] - part)),
  );
  return `rgb(${parts.join(",")})`;
}

/** Colour of an action: hue by gas and brake, lightness by steering. */
function actionColour(keys) {
  const [gas, brake, left, right] = keys;
  const hue = gas && brake ? 285 : gas ? 140 : brake ? 5 : 215;
  const saturation = gas || brake ? 65 : 12;
  const lightness = left ? 36 : right ? 66 : 50;
  return `hsl(${hue} ${saturation}% ${lightness}%)`;
}

/** Split a run's path into pieces of one colour: a map of colours to paths in metres. */
function colouredPaths(run, mode, topSpeed, actions) {
  const paths = new Map();
  const colourAt = (tick) => {
    if (mode === "action") return actionColour(actions[run.actions[tick]].keys);
    if (mode === "run") return run.colour;
    const level = Math.floor((SPEED_LEVELS * run.speed[tick]) / topSpeed);
    return speedColour(Math.min(level, SPEED_LEVELS - 1) / (SPEED_LEVELS - 1));
  };
  let open = null;
  for (let tick = 0; tick < run.last; tick += 1) {
    const colour = colourAt(tick);
    if (!paths.has(colour)) paths.set(colour, new Path2D());
    const path = paths.get(colour);
    if (colour !== open) path.moveTo(run.x[tick], run.y[tick]);
    path.lineTo(run.x[tick + 1], run.y[tick + 1]);
    open = colour;
  }
  return paths;
}
