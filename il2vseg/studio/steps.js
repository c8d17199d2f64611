"use strict";
// Footage, and the commands: train, distil, export; and the clip.

const COLORS = ["#5cb8ff", "#58c98b", "#ffc14d", "#ff6b5e", "#c58bff", "#4fd6c9"];
const seconds = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
let lossesShown = -1, thumbsShown = "", playing = false, playedAfter = Infinity;

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
  const found = {}, form = document.querySelector(`.settings[data-job="${kind}"]`);
  if (kind === "try") return { clip: Number($("clip").value) };
  for (const field of form ? form.elements : []) {
    if (field.disabled) continue;
    if (field.tagName === "SELECT") found[field.name] = field.value;
    else if (field.value !== "") found[field.name] = Number(field.value);
  }
  return found;
}

const WORDS = {
  train: ["Train", "Train again", "training"], distill: ["Distil", "Distil again", "distilling"], export: ["Export", "Export again", "exporting"],
};
const NEXT = { train: ["name", "Go on: name"], distill: ["export", "Go on: export"], export: ["try", "Go on: try it"] };

// What the stages of the commands are, for people.
const STAGES = {
  features: "describing the frames", targets: "1 of 2: the teacher looks at the frames", distill: "2 of 2: the student learns, step",
};

// How long a stage will still take, from how it went since this page first saw it.
const begun = {};
function left(key, stage, done, total) {
  const now = Date.now() / 1000, first = begun[key];
  if (!first || first.stage !== stage || done < first.done) { begun[key] = { stage, done, now }; return ""; }
  if (done - first.done < 3 || now - first.now < 3 || done >= total) return "";
  return ` · about ${seconds(((total - done) * (now - first.now)) / (done - first.done))} left${stage === "targets" ? " of this part" : ""}`;
}

function said(kind, job) {
  if (job.state === "none") return "not started";
  if (job.state === "running") return `${STAGES[job.stage] || job.stage || "starting"}${job.total ? ` ${job.done} of ${job.total}` : ""}${left(kind, job.stage, job.done, job.total)} · ${seconds(job.seconds)} so far`;
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
      make("details", { className: "command", open: true }, make("summary", { textContent: "the command" }), make("code")));
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
  // What was started, while it runs; else what a press would start.
  const command = part(".command");
  if (!running && command.dataset.job !== kind) { command.dataset.job = kind; if (step === kind) showCommand(kind); }
  if (running) { delete command.dataset.job; part("code").textContent = job.command; }
}

// How far the student agrees with its teacher: parity says nothing of that.
function agreement(kind, now, wanted) {
  const box = $(`step-${kind}`).querySelector(".agreement"), found = now.agreement, job = now.jobs.distill;
  box.hidden = !wanted || !found || job.state === "running" || job.outdated;
  if (box.hidden) return;
  const ious = Object.entries(found.per_class_iou).filter(([, iou]) => iou !== null).map(([name, iou]) => `${name} ${iou.toFixed(0)}`);
  box.className = found.low ? "agreement warn" : "agreement";
  box.replaceChildren(kind === "export" ? "That an export passed means that it computes what the student computes. " : "", make("b", { textContent: `The student agrees with its teacher on ${found.agreement.toFixed(1)} %` }),
    ` of ${found.frames} frame${found.frames === 1 ? "" : "s"} that it did not learn from (IoU in %: ${ious.join(", ")}).`,
    found.low ? " That is little: it will look worse than what you saw while naming. Distil again with more steps, unless it was thousands." : "");
}

function start(kind, more) {
  if (kind === "train" && state.ready.model && !more.resume && state.named.named
    && !confirm("Train again? The names are kept and carried over to clusters that look alike.")) return;
  act({ do: "start", job: kind, settings: { ...settings(kind), ...more } });
}

// Some methods cluster, and train nothing.
function showStepless(now) {
  const field = document.querySelector('.settings[data-job="train"] [name=steps]'), none = !now.takes_steps;
  if (field.disabled === none) return;
  field.disabled = none;
  field.placeholder = none ? "none" : "the method's";
  if (none) field.value = "";
  $("no-steps").hidden = !none;
  $("no-steps").textContent = `${now.method} takes no steps`;
  showCommand("train");
}

async function train(now, before) {
  showStepless(now);
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
  const caption = image.parentElement.querySelector("figcaption");
  const show = (yes) => { image.hidden = !yes; if (caption) caption.hidden = !yes; };
  if (!wanted) { show(false); return; }
  const next = new Image();
  next.onload = () => { image.src = next.src; show(true); };
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
  agreement("distill", now, now.ready.student);
  if (now === before || before?.jobs.distill.state !== now.jobs.distill.state) preview($("distill-picture"), "student", now.ready.student);
}

async function exporting(now, before) {
  showJob("export", now);
  const what = document.querySelector('.settings[data-job="export"] [name=what]');
  if (!now.ready.student && now.ready.model && what.dataset.touched !== "1") what.value = "model";
  const job = now.jobs.export;
  agreement("export", now, what.value === "student" && now.ready.student);
  const over = job.state === "done" || job.state === "failed";
  if (!over) $("parity").hidden = true;
  if (!over || !(now === before || before?.jobs.export.state !== job.state)) return;
  const report = await get("api/parity").catch(() => null);
  $("parity").hidden = !report;
  if (!report) return;
  const source = what.value === "student" ? "student" : "model";
  $("parity").querySelector("figcaption").textContent = `the frames where the export agrees least with the ${source}: frame, ${source}, export, difference`;
  const limit = report.limits, files = Object.entries(report.files);
  const head = ["file", `export = ${source}?`, "labels that agree", "scores differ at most by", `${source} / export`, "frames"];
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
  if ($("clip").children.length !== now.clips.length) {
    $("clip").replaceChildren(...now.clips.map((textContent, value) => make("option", { value, textContent })));
    showCommand("try");
  }
  const { trial, ready } = now, mine = trial.number > playedAfter;
  if (playing && mine && trial.state !== "running") playing = false;
  $("play").disabled = !ready.export;
  $("halt").hidden = !playing;
  for (const box of $("step-try").querySelectorAll(".command")) box.hidden = !ready.export;
  $("device").textContent = now.device;
  // Numbers belong to a picture: none of a clip that this page did not show, and none while pictures run ahead of
  // them.
  const { classes } = trial, shown = classes && mine && !$("trial").hidden, still = trial.state !== "running";
  $("trial-legend").hidden = !shown;
  $("trial-numbers").textContent = !ready.export ? "Export a model first." : mine && trial.error ? trial.error : !shown ? (playing ? "opening the clip …" : "")
    : `${still ? `${trial.state === "done" ? "the end" : "stopped"}: frame ${trial.index + 1}, ${trial.name} · ` : ""}${trial.ms.toFixed(0)} ms per frame on this computer; shown at 15 frames per second at most`;
  if (!shown) return;
  $("trial-legend").replaceChildren(...classes.map((c) => {
    const mark = make("span", { className: "dot" });
    mark.style.background = `rgb(${c.color.join(",")})`;
    return make("li", {}, mark, still ? `${c.name} ${percent(c.share)}` : c.name);
  }));
}

function play() {
  playing = true;
  playedAfter = state.trial.number;
  $("trial").hidden = false;
  $("trial").src = `media/trial/${$("clip").value}.mjpg?t=${Date.now()}`;
  poll();
}

// The last picture stays, with its numbers: the server ends the stream.
function halt() {
  playing = false;
  act({ do: "stop trial" });
}
$("play").addEventListener("click", play);
$("halt").addEventListener("click", halt);
$("clip").addEventListener("change", () => showCommand("try"));
$("trial").addEventListener("error", () => { if (playing) { playing = false; $("trial").hidden = true; poll(); } });
for (const form of document.querySelectorAll(".settings")) form.addEventListener("input", () => showCommand(form.dataset.job));
document.querySelector('.settings[data-job="export"] [name=what]').addEventListener("change", (event) => { event.target.dataset.touched = "1"; });

const SHOW = { footage, train, distill, export: exporting, try: trying };
watchers.push((now, before) => {
  if (!before)
    for (const [kind, values] of Object.entries(now.settings)) for (const [name, value] of Object.entries(values)) {
      const field = document.querySelector(`.settings[data-job="${kind}"] [name="${name}"]`);
      if (field && !field.disabled) field.value = value;
    }
  if (!before) showCommand(step);
  if (step !== "try" && playing) halt();
  SHOW[step]?.(now, before);
});
