"use strict";
// Footage, and the commands: train, distil, export; and the clip.

const COLORS = ["#5cb8ff", "#58c98b", "#ffc14d", "#ff6b5e", "#c58bff", "#4fd6c9"];
const seconds = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
let lossesShown = -1, thumbsShown = "", playing = false;

// --- footage --------------------------------------------------------------------------------------------

function footage(now) {
  const { footage: f, tasks } = now, task = tasks.footage, check = tasks.check;
  const said = $("footage-said");
  if (f.total === null) {
    said.textContent = task?.state === "failed" ? task.error : task?.total ? `reading frame ${task.done} of ${task.total}` : "counting frames …";
  } else {
    const looked = f.checked < f.total ? `; ${f.checked} of them were read to see which cannot be` : "";
    said.replaceChildren(make("b", { textContent: `${f.total} frames` }), ` of ${f.title}${looked}. Naming looks at ${f.kept} of them, evenly spread; training uses all.`);
  }
  const running = [task, check].find((t) => t && (t.state === "running" || t.state === "waiting"));
  $("footage-bar").hidden = !running;
  if (running?.total) $("footage-bar").value = running.done / running.total;
  $("footage-next").hidden = f.total === null;
  $("unreadable").hidden = !f.unreadable.length;
  $("unreadable").firstElementChild.textContent = `${f.unreadable.length} ${f.unreadable.length === 1 ? "file" : "files"} could not be read, or not all of it; training leaves them out`;
  $("unreadable").lastElementChild.replaceChildren(...f.unreadable.map((line) => make("li", { textContent: line })));
  if (thumbsShown !== `${f.kept}`) {
    thumbsShown = `${f.kept}`;
    $("thumbs").replaceChildren(...f.names.map((name, i) => make("figure", {},
      make("img", { loading: "lazy", src: `media/frame/${i}.jpg?width=320`, alt: name }), make("figcaption", { textContent: name }))));
  }
}

// --- commands -------------------------------------------------------------------------------------------

function settings(kind) {
  const found = {};
  for (const field of document.querySelector(`.settings[data-job="${kind}"]`).elements) {
    if (field.tagName === "SELECT") found[field.name] = field.value;
    else if (field.value !== "") found[field.name] = Number(field.value);
  }
  return found;
}

const WORDS = {
  train: ["Train", "Train again", "training"], distill: ["Distil", "Distil again", "distilling"], export: ["Export", "Export again", "exporting"],
};
const NEXT = { train: ["name", "Go on: name"], distill: ["export", "Go on: export"], export: ["try", "Go on: try it"] };

function said(kind, job) {
  if (job.state === "none") return "not started";
  if (job.state === "running") return `${job.stage || "starting"}${job.total ? `: ${job.done} of ${job.total}` : ""} · ${seconds(job.seconds)}`;
  if (job.state === "done") return job.outdated ? "what it was made of has changed since: do it again" : `done in ${seconds(job.seconds)}`;
  if (job.state === "interrupted") return kind === "train" ? "interrupted; nothing that was saved is lost" : "interrupted; start it again";
  return job.code === 1 && kind === "export" ? "refused: the export does not compute what the model computes" : `failed (exit code ${job.code})`;
}

function showJob(kind, now) {
  const job = now.jobs[kind], box = document.querySelector(`.job[data-job="${kind}"]`);
  const running = job.state === "running", again = job.state !== "none";
  if (!box.children.length)
    box.append(
      make("div", { className: "row" }, make("span", { className: "said" }), make("button", { type: "button", className: "primary go" }),
        make("button", { type: "button", className: "resume", textContent: "Go on where it stopped" }),
        make("button", { type: "button", className: "stop", textContent: "Stop" }),
        make("button", { type: "button", className: "primary next", textContent: NEXT[kind][1] })),
      make("progress", { max: 1 }),
      make("pre"),
      make("details", {}, make("summary", { textContent: "the command" }), make("code")));
  const part = (name) => box.querySelector(name);
  part(".said").textContent = said(kind, job);
  part(".said").classList.toggle("refused", job.state === "failed");
  const ready = { train: now.footage.total !== null, distill: now.ready.model, export: now.ready.student || now.ready.model }[kind];
  const done = job.state === "done" && !job.outdated;
  part(".go").hidden = running;
  part(".go").disabled = !ready;
  part(".go").classList.toggle("primary", !done);
  part(".go").textContent = WORDS[kind][again ? 1 : 0];
  part(".go").onclick = () => start(kind, {});
  part(".resume").hidden = running || kind !== "train" || !now.ready.resumable || !again || job.state === "done";
  part(".resume").onclick = () => start(kind, { resume: true });
  part(".stop").hidden = !running;
  part(".stop").onclick = () => act({ do: "stop", job: kind });
  part(".next").hidden = job.state !== "done" || job.outdated;
  part(".next").dataset.go = NEXT[kind][0];
  part("progress").hidden = !running;
  if (job.total) part("progress").value = job.done / job.total;
  else part("progress").removeAttribute("value");
  const text = job.messages.join("\n");
  part("pre").hidden = !text;
  if (part("pre").textContent !== text) {
    part("pre").textContent = text;
    part("pre").scrollTop = part("pre").scrollHeight;
  }
  part("details").hidden = !job.command;
  part("code").textContent = job.command;
}

function start(kind, more) {
  if (kind === "train" && state.ready.model && !more.resume && state.named.named
    && !confirm("Train again? The names are kept and carried over to clusters that look alike.")) return;
  act({ do: "start", job: kind, settings: { ...settings(kind), ...more } });
}

async function train(now, before) {
  showJob("train", now);
  const job = now.jobs.train;
  const key = `${job.losses}${job.state}`;
  if (lossesShown !== key) {
    lossesShown = key;
    try { plot(await get("api/losses")); } catch (error) { console.info(error.message); }
    const running = job.state === "running";
    preview($("train-picture"), running ? "progress" : "model", now.ready.model || running);
    $("train-caption").textContent = running ? "frames, scores and prediction as training sees them now" : now.ready.model ? "frames and clusters of the trained model" : "";
  }
}

function preview(image, name, wanted) {
  if (!wanted) { image.hidden = true; return; }
  const next = new Image();
  next.onload = () => { image.src = next.src; image.hidden = false; };
  next.src = `media/picture/${name}.png?t=${Date.now()}`;
}

function plot(rows) {
  const canvas = $("losses"), pen = canvas.getContext("2d"), { width, height } = canvas;
  pen.clearRect(0, 0, width, height);
  canvas.parentElement.hidden = !rows.length;
  const keys = [...new Set(rows.flatMap(([, losses]) => Object.keys(losses)))];
  $("losses-legend").replaceChildren("losses, each between its least and its greatest:",
    ...keys.flatMap((key, i) => { const mark = make("i"); mark.style.background = COLORS[i % COLORS.length]; return [mark, key]; }));
  const last = rows.length ? rows[rows.length - 1][0] || 1 : 1;
  keys.forEach((key, i) => {
    const points = rows.filter(([, losses]) => key in losses).map(([at, losses]) => [at, losses[key]]);
    const least = Math.min(...points.map(([, v]) => v)), span = Math.max(...points.map(([, v]) => v)) - least || 1;
    pen.strokeStyle = COLORS[i % COLORS.length];
    pen.lineWidth = 2;
    pen.beginPath();
    points.forEach(([at, v], n) => {
      const x = 12 + (at / last) * (width - 24), y = height - 14 - ((v - least) / span) * (height - 28);
      n ? pen.lineTo(x, y) : pen.moveTo(x, y);
    });
    pen.stroke();
  });
}

function distill(now, before) {
  showJob("distill", now);
  const { clusters, named } = now.named, open = clusters - named;
  $("distill-names").textContent = open ? `${open} of ${clusters} clusters have no name yet: each would be a class of its own. Name them, or call them unsure.` : "";
  $("distill-names").className = open ? "warn" : "";
  if (now === before || before?.jobs.distill.state !== now.jobs.distill.state) preview($("distill-picture"), "student", now.ready.student);
}

async function exporting(now, before) {
  showJob("export", now);
  const what = document.querySelector('.settings[data-job="export"] [name=what]');
  if (!now.ready.student && now.ready.model && what.dataset.touched !== "1") what.value = "model";
  const job = now.jobs.export;
  const over = job.state === "done" || job.state === "failed";
  if (!over) $("parity").hidden = true;
  if (!over || !(now === before || before?.jobs.export.state !== job.state)) return;
  const report = await get("api/parity").catch(() => null);
  $("parity").hidden = !report;
  if (!report) return;
  const limit = report.limits, files = Object.entries(report.files);
  const head = ["file", "", "labels that agree", "scores differ at most by", "model / export", "frames"];
  $("parity").querySelector("table").replaceChildren(make("tr", {}, ...head.map((textContent) => make("th", { textContent }))),
    ...files.map(([file, r]) => make("tr", {}, make("td", { textContent: file }),
      make("td", { className: r.passed ? "passed" : "refused", textContent: r.passed ? "passed" : r.failures.join("; ") }),
      make("td", { textContent: `${(100 * r.label_agreement).toFixed(3)} % (≥ ${(100 * r.limits.label_agreement).toFixed(1)} %)` }),
      make("td", { textContent: `${r.max_score_difference.toExponential(1)}${limit.max_score_difference ? ` (≤ ${limit.max_score_difference.toExponential(0)})` : ""}` }),
      make("td", { textContent: `${r.reference_ms.toFixed(0)} / ${r.candidate_ms.toFixed(0)} ms` }), make("td", { textContent: r.frames }))));
  $("parity-picture").src = `media/picture/${report.passed ? "parity" : "rejected"}.png?t=${Date.now()}`;
}

// --- the clip -------------------------------------------------------------------------------------------

function trying(now) {
  if ($("clip").children.length !== now.clips.length)
    $("clip").replaceChildren(...now.clips.map((textContent, value) => make("option", { value, textContent })));
  $("play").disabled = !now.ready.export;
  $("halt").hidden = !playing;
  $("device").textContent = now.ready.export ? "On the device: il2vseg run --model the folder “export” of this project --camera 0" : "Export a model first.";
  const { record, classes } = now.trial;
  if (!record) return;
  $("trial-legend").replaceChildren(...classes.map((c) => {
    const mark = make("span", { className: "dot" });
    mark.style.background = `rgb(${c.color.join(",")})`;
    return make("li", {}, mark, `${c.name} ${percent(record.classes[c.name] || 0)}`);
  }));
  $("trial-numbers").textContent = `${record.latency_ms.total.toFixed(0)} ms per frame`;
}

function play() {
  playing = true;
  $("trial").hidden = false;
  $("trial").src = `media/trial/${$("clip").value}.mjpg?t=${Date.now()}`;
  poll();
}

function halt() {
  playing = false;
  $("trial").removeAttribute("src");
  $("trial").hidden = true;
  act({ do: "stop trial" });
}
$("play").addEventListener("click", play);
$("halt").addEventListener("click", halt);
$("trial").addEventListener("error", () => { if (playing) { playing = false; notice("the clip cannot be played; is the export whole?"); } });
document.querySelector('.settings[data-job="export"] [name=what]').addEventListener("change", (event) => { event.target.dataset.touched = "1"; });

const SHOW = { footage, train, distill, export: exporting, try: trying };
watchers.push((now, before) => {
  if (!before)
    for (const [kind, values] of Object.entries(now.settings)) for (const [name, value] of Object.entries(values)) {
      const field = document.querySelector(`.settings[data-job="${kind}"] [name="${name}"]`);
      if (field) field.value = value;
    }
  if (step !== "try" && playing) halt();
  SHOW[step]?.(now, before);
});
