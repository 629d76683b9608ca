// The road of a track as paths in metres, seen from above.

/** Build the paths of a track from its arrays. */
function readTrack(data) {
  const [leftEdge, rightEdge] = data.edges.map(floatsOf);
  const [leftWall, rightWall] = data.walls.map(floatsOf);
  const along = floatsOf(data.along);
  const lines = new Path2D();
  for (const side of [leftEdge, rightEdge]) addLine(lines, side, false);
  const all = [leftWall, rightWall];
  const low = [Infinity, Infinity];
  const high = [-Infinity, -Infinity];
  for (const side of all) {
    side.forEach((value, i) => {
      low[i % 2] = Math.min(low[i % 2], value);
      high[i % 2] = Math.max(high[i % 2], value);
    });
  }
  return {
    verge: band(leftWall, rightWall),
    road: band(leftEdge, rightEdge),
    lines,
    patches: data.patches.map((patch) => {
      const path = new Path2D();
      addLine(path, floatsOf(patch.outline), true);
      return { kind: patch.kind, path };
    }),
    marks: data.sectors.map((meters) => crossing(meters, along, leftEdge, rightEdge)),
    low,
    high,
  };
}

function addLine(path, points, closed) {
  path.moveTo(points[0], points[1]);
  for (let i = 2; i < points.length; i += 2) path.lineTo(points[i], points[i + 1]);
  if (closed) path.closePath();
}

/** Build the area between two sides, piece by piece: a road may pass over itself. */
function band(left, right) {
  const path = new Path2D();
  const piece = 40;
  for (let i = 0; i < left.length - 2; i += piece) {
    const end = Math.min(i + piece + 2, left.length);
    const outline = [];
    for (let k = i; k < end; k += 2) outline.push(left[k], left[k + 1]);
    for (let k = end - 2; k >= i; k -= 2) outline.push(right[k], right[k + 1]);
    addLine(path, outline, true);
  }
  return path;
}

/** Build a line across the road at some metres along it, and the place of its label. */
function crossing(meters, along, left, right) {
  let row = 0;
  while (row < along.length - 2 && along[row + 1] < meters) row += 1;
  const share = clamp((meters - along[row]) / (along[row + 1] - along[row]), 0, 1);
  const point = (side) =>
    [0, 1].map((i) => side[2 * row + i] + share * (side[2 * row + 2 + i] - side[2 * row + i]));
  const [a, b] = [point(left), point(right)];
  const path = new Path2D();
  path.moveTo(a[0], a[1]);
  path.lineTo(b[0], b[1]);
  const label = [0, 1].map((i) => b[i] + 0.45 * (b[i] - a[i]));
  return { path, label };
}
