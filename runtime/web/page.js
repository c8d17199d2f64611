"use strict";
// The picture is composed here, from the frame and its class ids: opacity and hidden classes are this
// viewer's own, and the server still encodes every frame once for all viewers.

const $ = (id) => document.getElementById(id);
const view = $("view"), pen = view.getContext("2d");
const tint = document.createElement("canvas"), tintPen = tint.getContext("2d", { willReadFrequently: true });
const HISTORY = 240, STALE_S = 2.5, RETRY_MS = 1000;
const history = [];
let classes = [], hidden = new Set(), last = null;
let clock = { ahead: 0, within: Infinity };  // the device's clock less this one, and how well that is known
let failure = "", connection = null, took = 0, leftAt = -Infinity;

function stored(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(key);
    localStorage.setItem(key, value);
  } catch { /* private windows have no storage */ }
  return null;
}

// --- stream ---------------------------------------------------------------------------------------------

class Bytes {
  constructor(reader) { this.reader = reader; this.chunks = []; this.size = 0; }
  async take(count) {
    while (this.size < count) {
      const { done, value } = await this.reader.read();
      if (done) throw new Error("the stream ended");
      this.chunks.push(value);
      this.size += value.length;
    }
    const all = new Uint8Array(this.size);
    let at = 0;
    for (const chunk of this.chunks) { all.set(chunk, at); at += chunk.length; }
    this.chunks = [all.subarray(count)];
    this.size -= count;
    return all.subarray(0, count);
  }
}

// Older Safari takes no options; class ids survive without them where the PNG has no colour profile.
async function decoded(data, type, options) {
  const blob = new Blob([data], { type });
  try { return await createImageBitmap(blob, options); } catch { return createImageBitmap(blob); }
}

async function follow() {
  connection = new AbortController();
  await show(await fetch("stream", { cache: "no-store", signal: connection.signal }));
}

async function show(response) {
  if (!response.ok) throw new Error(await response.text());
  const bytes = new Bytes(response.body.getReader());
  for (;;) {
    const begun = performance.now();
    const length = new DataView((await bytes.take(4)).slice().buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(await bytes.take(length)));
    const jpeg = await bytes.take(head.jpeg), png = await bytes.take(head.png);
    const exact = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const [frame, labels] = await Promise.all([decoded(jpeg, "image/jpeg"), decoded(png, "image/png", exact)]);
    failure = "";
    tint.width = labels.width;
    tint.height = labels.height;
    tintPen.drawImage(labels, 0, 0);
    labels.close();
    const ids = tintPen.getImageData(0, 0, tint.width, tint.height);
    if (last) last.frame.close();
    last = { frame, ids, record: head.record, unix: head.unix };
    numbers(head.record);
    draw();
    took = (performance.now() - begun) / 1000;
  }
}

// Something between here and the device may keep pictures until they are old: a new connection leaves them
// there. Not where this line itself takes that long for one picture.
function leaveTheOld(newest) {
  const behind = last ? newest - last.unix : 0;
  if (behind <= STALE_S || took > behind / 2 || performance.now() - leftAt < 5000) return;
  leftAt = performance.now();
  connection.abort();
}

async function run() {
  for (;;) {
    try { await follow(); } catch (error) {
      failure = connection.signal.aborted ? "" : error.message;
      console.info(error.message);
    }
    await new Promise((done) => setTimeout(done, failure ? RETRY_MS : 0));
  }
}

// Seconds since the picture that is shown was taken.
function age() {
  return last ? Math.max(0, Date.now() / 1000 + clock.ahead - last.unix) : Infinity;
}

function showAge() {
  const seconds = age();
  $("age").textContent = seconds === Infinity ? "" : seconds < 60 ? `${seconds.toFixed(1)} s old` : `${Math.floor(seconds / 60)} min old`;
  $("age").classList.toggle("late", seconds > STALE_S);
}

// --- picture --------------------------------------------------------------------------------------------

function draw() {
  if (!last || !classes.length) return;
  const { frame, ids, record } = last;
  if (view.width !== frame.width || view.height !== frame.height) {
    view.width = frame.width;
    view.height = frame.height;
  }
  const palette = new Uint8ClampedArray(4 * 256), opacity = Math.round(2.55 * $("opacity").value);
  classes.forEach((c, i) => palette.set([...c.color, hidden.has(c.name) ? 0 : opacity], 4 * i));
  const colors = new Uint32Array(palette.buffer);
  const image = tintPen.createImageData(ids.width, ids.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[ids.data[4 * i]];
  tintPen.putImageData(image, 0, 0);
  pen.drawImage(frame, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(tint, 0, 0, view.width, view.height);
  if (record.marine) drawMarine(record.marine);
}

function drawMarine(marine) {
  const x = view.width / marine.size[1], y = view.height / marine.size[0];
  const line = Math.max(1.5, view.width / 480);
  pen.lineWidth = line;
  pen.font = `600 ${Math.max(12, view.width / 52)}px system-ui, sans-serif`;
  if (marine.horizon) {
    pen.strokeStyle = "#ffffffb0";
    pen.setLineDash([4 * line, 4 * line]);
    pen.beginPath();
    pen.moveTo(0, marine.horizon.left * y);
    pen.lineTo(view.width, marine.horizon.right * y);
    pen.stroke();
    pen.setLineDash([]);
  }
  for (const o of marine.obstacles) {
    const confirmed = o.track !== null;  // the others may be mistakes of a frame
    pen.lineWidth = confirmed ? line : line / 2;
    pen.strokeStyle = pen.fillStyle = !confirmed ? "#ffffffb0" : o.danger ? "#ff6b5e" : "#ffd23f";
    const [left, top, width, height] = o.box;
    pen.strokeRect(left * x, top * y, width * x, height * y);
    if (!confirmed) continue;
    const text = o.range_m === null ? `${o.track}` : `${o.track}: ${o.range_m.toFixed(0)} m`;
    pen.fillText(text, left * x, Math.max(14, top * y - 4));
  }
}

// --- numbers --------------------------------------------------------------------------------------------

function numbers(record) {
  history.push([record.latency_ms.total, record.fps]);
  if (history.length > HISTORY) history.shift();
  $("fps").textContent = record.fps.toFixed(1);
  $("latency").textContent = record.latency_ms.total.toFixed(0);
  $("dropped").textContent = record.dropped;
  for (const share of document.querySelectorAll("#legend .share"))
    share.textContent = `${(100 * (record.classes[share.dataset.name] || 0)).toFixed(1)} %`;
  graph();
  const marine = record.marine;
  $("marine").hidden = !marine;
  if (!marine) return;
  $("alarm").hidden = !marine.alarm;
  if (marine.alarm) $("alarm").textContent = "Obstacle in the danger zone";
  const rows = marine.obstacles.filter((o) => o.track !== null).slice(0, 8).map((o) => {
    const item = document.createElement("li");
    const side = o.bearing_deg < 0 ? "port" : "starboard";
    const bearing = o.bearing_deg === null ? "" : `${Math.abs(o.bearing_deg).toFixed(0)}° ${side}`;
    const range = o.range_m === null ? "range unknown" : `${o.range_m.toFixed(0)} m`;
    const nearest = o.nearest_s === null ? "" : `nearest in ${o.nearest_s.toFixed(0)} s, ${o.nearest_m.toFixed(0)} m`;
    item.textContent = [`${o.track}`, bearing, range, nearest].filter(Boolean).join(", ");
    return item;
  });
  $("obstacles").replaceChildren(...rows);
}

function graph() {
  const canvas = $("graph"), g = canvas.getContext("2d");
  g.clearRect(0, 0, canvas.width, canvas.height);
  [[0, "#58c98b"], [1, "#5cb8ff"]].forEach(([column, color]) => {
    const top = Math.max(1, ...history.map((row) => row[column])) * 1.1;
    g.strokeStyle = color;
    g.lineWidth = 1.5;
    g.beginPath();
    history.forEach((row, i) => {
      const x = ((HISTORY - history.length + i) / (HISTORY - 1)) * canvas.width, y = canvas.height * (1 - row[column] / top);
      i ? g.lineTo(x, y) : g.moveTo(x, y);
    });
    g.stroke();
  });
}

function legend() {
  hidden = new Set(JSON.parse(stored("hidden") || "[]"));
  $("legend").replaceChildren(...classes.map((c) => {
    const item = document.createElement("li"), label = document.createElement("label");
    const box = document.createElement("input"), swatch = document.createElement("span");
    const name = document.createElement("span"), share = document.createElement("span");
    box.type = "checkbox";
    box.checked = !hidden.has(c.name);
    box.addEventListener("change", () => {
      box.checked ? hidden.delete(c.name) : hidden.add(c.name);
      stored("hidden", JSON.stringify([...hidden]));
      draw();
    });
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${c.color.join(",")})`;
    name.className = "name";
    name.textContent = c.name;
    share.className = "share";
    share.dataset.name = c.name;
    label.append(box, swatch, name, share);
    item.append(label);
    return item;
  }));
}

async function status() {
  const source = $("source");
  try {
    const asked = Date.now() / 1000;
    const response = await fetch("api/status", { cache: "no-store" });
    if (!response.ok) throw new Error(await response.text());
    const state = await response.json();
    const answered = Date.now() / 1000, within = (answered - asked) / 2;
    // The quickest answer tells the clocks apart best; an old one counts for less, since clocks are set.
    clock.within += 0.01;
    if (within <= clock.within) clock = { ahead: state.time - (asked + answered) / 2, within };
    if (JSON.stringify(state.classes) !== JSON.stringify(classes)) {
      classes = state.classes;
      legend();
    }
    $("model").textContent = state.model;
    document.title = `${state.model} · IL2Vseg`;
    source.textContent = state.source.up ? state.source.name : "source lost";
    source.className = `status ${state.source.up ? "up" : "down"}`;
    leaveTheOld(state.unix);
    const old = age() > STALE_S && state.age_s !== null;
    notice(state.source.up ? (last && !old ? "" : failure || (last ? "The picture is old" : "No picture")) : state.source.reason);
    if (state.events.length) $("events").replaceChildren(...state.events.slice(-12).reverse().map((e) => {
      const item = document.createElement("li");
      item.textContent = `${new Date(1000 * e.time).toLocaleTimeString()} ${e.message}`;
      return item;
    }));
  } catch {
    source.textContent = "no connection";
    source.className = "status down";
    notice("No connection to the device");
  }
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

$("opacity").value = stored("opacity") || 45;
$("opacity").addEventListener("input", () => { stored("opacity", $("opacity").value); draw(); });
$("snapshot").addEventListener("click", () => view.toBlob((blob) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `il2vseg-${new Date().toISOString().replace(/[:.]/g, "-")}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}));
status();
setInterval(status, 1000);
setInterval(showAge, 200);
run();
