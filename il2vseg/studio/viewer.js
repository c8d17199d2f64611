"use strict";
// One frame with its clusters painted in. The server sends cluster numbers; colours, opacity and what is
// highlighted are this page's own, so naming repaints at once.

const viewer = { frame: 0, picture: null, ids: null, shown: -1, solo: null, spot: null, asked: null, request: 0 };
const paint = document.createElement("canvas"), paintPen = paint.getContext("2d", { willReadFrequently: true });
const UNNAMED_ALPHA = 0.5, FAINT = 0.35;

async function bitmap(path, options) {
  const response = await fetch(path, { cache: "no-store" });
  if (!response.ok) throw new Error(await response.text());
  const blob = await response.blob();
  try { return await createImageBitmap(blob, options); } catch { return createImageBitmap(blob); }
}

// Fetch the frame, and what its pixels are.
async function showFrame(number, again = false) {
  const count = state.footage.kept;
  if (!count || naming === null) return;
  viewer.frame = Math.max(0, Math.min(count - 1, number));
  $("frame").max = count - 1;
  $("frame").value = viewer.frame;
  $("frame-name").textContent = `${viewer.frame + 1} of ${count}: ${state.footage.names[viewer.frame]}`;
  const mine = ++viewer.request, wanted = viewer.frame;
  const same = viewer.shown === wanted;
  // What a point was of belongs to its frame: so does showing its cluster alone.
  if (!same && viewer.spot) { viewer.spot = viewer.solo = null; $("spot").hidden = true; }
  if (same && !again) return draw();
  try {
    const exact = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const [picture, labels] = await Promise.all([
      same ? viewer.picture : bitmap(`media/frame/${wanted}.jpg?width=960`),
      bitmap(`media/labels/${wanted}.png`, exact),
    ]);
    if (mine !== viewer.request) return;
    paint.width = labels.width;
    paint.height = labels.height;
    paintPen.drawImage(labels, 0, 0);
    viewer.ids = paintPen.getImageData(0, 0, paint.width, paint.height);
    viewer.picture = picture;
    viewer.shown = wanted;
    draw();
  } catch (error) { notice(error.message); }
}

function colorOf(cluster) {
  const found = naming.classes.find((c) => c.name === cluster.name);
  return found ? found.color : cluster.color;
}

// Says which cluster stands out, so that the others do not seem lost.
function sayAlone(shown) {
  const cluster = shown && naming.clusters[viewer.solo];
  $("alone").hidden = !cluster;
  if (!cluster) return;
  let here = 0;
  for (let i = 0; i < viewer.ids.data.length && !here; i += 4) here = viewer.ids.data[i] === cluster.id;
  // While the mouse rests on a card there is nothing to press: it ends with that.
  const hovered = matchMedia("(hover: hover)").matches && document.querySelector(".card:hover");
  const all = hovered ? null : make("button", { type: "button", textContent: "show all", onclick: showAll });
  $("alone").replaceChildren(dot(cluster.name), here ? `cluster ${cluster.id} · ${cluster.name ?? "no name yet"} · others faint` : `cluster ${cluster.id} is not in this frame`, ...(all ? [all] : []));
}

function showAll() {
  viewer.spot = viewer.solo = null;
  spot();
  draw();
}

function draw() {
  const { picture, ids } = viewer;
  if (!picture || !naming) return;
  const view = $("view"), pen = view.getContext("2d");
  if (view.width !== picture.width || view.height !== picture.height) {
    view.width = picture.width;
    view.height = picture.height;
  }
  pen.drawImage(picture, 0, 0);
  sayAlone(!viewer.asked && viewer.solo !== null);
  if (viewer.asked) return drawAsked(pen);
  const palette = new Uint8ClampedArray(4 * 256), opacity = 2.55 * $("opacity").value;
  for (const cluster of naming.clusters) {
    const alone = viewer.solo === null || viewer.solo === cluster.id;
    const weight = viewer.solo === cluster.id ? 1.25 : cluster.name === null ? UNNAMED_ALPHA : 1;
    palette.set([...colorOf(cluster), alone ? opacity * weight : opacity * FAINT], 4 * cluster.id);
  }
  const colors = new Uint32Array(palette.buffer);
  const image = paintPen.createImageData(ids.width, ids.height), pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[ids.data[4 * i]];
  paintPen.putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(paint, 0, 0, view.width, view.height);
  drawPoints(pen);
}

function ring(pen, x, y, color, cross = false) {
  const { width, height } = $("view"), r = width / 60;
  for (const [style, line] of [["#000", width / 160], [color, width / 320]]) {
    pen.strokeStyle = style;
    pen.lineWidth = line;
    pen.beginPath();
    pen.arc(x * width, y * height, r, 0, 7);
    if (cross) for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x * width + dx * r, y * height + dy * r);
      pen.lineTo(x * width + 2.5 * dx * r, y * height + 2.5 * dy * r);
    }
    pen.stroke();
  }
}

function drawPoints(pen) {
  for (const point of naming.clicks.points)
    if (point.frame === viewer.shown) ring(pen, point.x, point.y, point.said === point.name ? "#58c98b" : "#ff6b5e");
  if (viewer.spot) ring(pen, viewer.spot.x, viewer.spot.y, "#fff", true);
}

function drawAsked(pen) {
  if (viewer.asked.frame === viewer.shown) ring(pen, viewer.asked.x, viewer.asked.y, "#fff", true);
}

// The cluster at a point of the frame, x and y between 0 and 1; null on the own vessel.
function clusterAt(x, y) {
  const { ids } = viewer;
  const column = Math.min(ids.width - 1, Math.floor(x * ids.width)), row = Math.min(ids.height - 1, Math.floor(y * ids.height));
  const id = ids.data[4 * (row * ids.width + column)];
  return naming.clusters[id] || null;
}

$("view").addEventListener("click", (event) => {
  if (!viewer.ids || viewer.asked) return;
  const box = $("view").getBoundingClientRect();
  const x = Math.min(0.9999, Math.max(0, (event.clientX - box.left) / box.width));
  const y = Math.min(0.9999, Math.max(0, (event.clientY - box.top) / box.height));
  const cluster = clusterAt(x, y);
  if (!cluster) return;
  viewer.spot = { x, y, frame: viewer.shown };
  select(cluster.id, false);
});
$("opacity").addEventListener("input", draw);
function turn(number) {
  viewer.solo = null;
  showFrame(number);
}
$("frame").addEventListener("input", () => turn(Number($("frame").value)));
$("previous").addEventListener("click", () => turn(viewer.frame - 1));
$("next").addEventListener("click", () => turn(viewer.frame + 1));
