// Colours: of the theme, of speeds and of actions.

const SPEED_STOPS = [
  [74, 95, 208],
  [37, 176, 200],
  [92, 196, 90],
  [240, 180, 41],
  [228, 65, 47],
];
const SPEED_LEVELS = 24;

const themeColours = new Map();
const colourProbe = document.body.appendChild(make("span"));
colourProbe.hidden = true;

/** Colour of the theme that is shown, by the name of its variable; looked up once for each theme. */
function themeColour(name) {
  if (!themeColours.has(name)) {
    colourProbe.style.color = `var(--${name})`;
    themeColours.set(name, getComputedStyle(colourProbe).color);
  }
  return themeColours.get(name);
}

function forgetThemeColours() {
  themeColours.clear();
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

const PATH_TICKS = 4;

/**
 * Split a run's path into pieces of one colour: a map of colours to paths in metres.
 *
 * Within a colour every fourth tick has a point: chords of 40 ms differ from the curve by
 * centimetres and are drawn in a quarter of the time.
 */
function colouredPaths(run, mode, topSpeed, actions) {
  const paths = new Map();
  const colourAt = (tick) => {
    if (mode === "action") return actionColour(actions[run.actions[tick]].keys);
    if (mode === "run") return run.colour;
    const level = Math.floor((SPEED_LEVELS * run.speed[tick]) / topSpeed);
    return speedColour(Math.min(level, SPEED_LEVELS - 1) / (SPEED_LEVELS - 1));
  };
  let path = null;
  let colour = null;
  for (let tick = 0; tick <= run.last; tick += 1) {
    const next = tick < run.last ? colourAt(tick) : null;
    const isTurn = next !== colour;
    if (path !== null && (isTurn || tick % PATH_TICKS === 0)) path.lineTo(run.x[tick], run.y[tick]);
    if (!isTurn || next === null) continue;
    if (!paths.has(next)) paths.set(next, new Path2D());
    path = paths.get(next);
    path.moveTo(run.x[tick], run.y[tick]);
    colour = next;
  }
  return paths;
}
