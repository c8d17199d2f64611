"use strict";
// The state of the project, asked for every second; steps; and what a person does, sent with the revision that
// the page showed. If another tab was quicker, the server refuses and the page shows the new state.

const $ = (id) => document.getElementById(id);
const STEPS = [["footage", "Footage"], ["train", "Train"], ["name", "Name"], ["distill", "Distil"],
  ["export", "Export"], ["try", "Try"]];
const POLL_MS = 1000;
let state = null, step = null, noticeTimer = 0, polling = 0;
const watchers = [];  // called with (state, the state before) after every answer

function make(kind, attributes = {}, ...content) {
  const element = document.createElement(kind);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...content.filter((part) => part !== null && part !== undefined));
  return element;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => { $("notice").hidden = true; }, 7000);
}

async function get(path) {
  const response = await fetch(path, { cache: "no-store" });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

// Do something, after what was asked for before; true if it was done.
let queue = Promise.resolve();
function act(action) {
  const done = queue.then(() => send(action));
  queue = done;
  return done;
}

async function send(action) {
  try {
    const response = await fetch("api/act", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ revision: shownRevision(action), action }),
    });
    if (!response.ok) {
      notice(await response.text());
      await poll();
      if (step === "name") await loadClusters(true);
      return false;
    }
    // What was done is the only change since: the next request may build on it.
    const { revision } = await response.json();
    state.revision = Math.max(state.revision, revision);
    if (naming !== null && NAMING.has(action.do)) Object.assign(naming, { revision, fresh: false });
  } catch {
    notice("The studio does not answer. Was it ended? Start it again: nothing is lost.");
    return false;
  }
  await poll();
  return true;
}

// Names are changed on the clusters that are shown, everything else on the state.
function shownRevision(action) {
  return naming !== null && NAMING.has(action.do) ? naming.revision : state.revision;
}

async function poll() {
  const mine = ++polling;
  try {
    const found = await get("api/state");
    if (mine !== polling) return;  // a newer answer is under way
    const before = state;
    state = found;
    $("link").textContent = "here";
    $("link").className = "status up";
    if (step === null) open(location.hash.slice(1) || furthest(), false);
    showSteps();
    for (const watch of watchers) watch(state, before);
  } catch (error) {
    $("link").textContent = "no answer; start the studio again, nothing is lost";
    $("link").className = "status down";
    console.info(error.message);
  }
}

// The step that a person who comes back wants to see.
function furthest() {
  const { ready, jobs, naming_only: only } = state;
  if (only) return "name";
  for (const kind of ["train", "distill", "export"]) if (jobs[kind].state === "running") return kind;
  if (!ready.model) return jobs.train.state === "none" ? "footage" : "train";
  if (ready.export) return "try";
  if (ready.student) return "export";
  return "name";
}

function stateOf(name) {
  const { ready, jobs, named, tasks, footage } = state;
  if (name === "footage") return footage.total !== null ? "done" : tasks.footage?.state === "failed" ? "failed" : "running";
  if (name === "name") {
    if (tasks.clusters?.state === "failed") return "failed";
    return named.clusters && named.named === named.clusters ? "done" : "";
  }
  if (name === "try") return ready.tried ? "done" : "";
  const job = jobs[name];
  if (job.state === "running") return "running";
  if (job.state === "failed" || job.state === "interrupted") return "failed";
  if (job.outdated) return "outdated";
  return { train: ready.model, distill: ready.student, export: ready.export }[name] ? "done" : "";
}

function showSteps() {
  $("project").textContent = state.project;
  const shown = state.naming_only ? STEPS.filter(([name]) => name === "name") : STEPS;
  const nav = $("steps");
  if (nav.children.length !== shown.length)
    nav.replaceChildren(...shown.map(([name, title], i) => make("button",
      { type: "button", id: `nav-${name}`, onclick: () => open(name) },
      make("span", { className: "mark", textContent: i + 1 }), title)));
  for (const [name] of shown) {
    const kind = stateOf(name), button = $(`nav-${name}`);
    button.className = kind;
    button.title = { outdated: "something before this step has changed since", failed: "this step has failed or was interrupted" }[kind] || "";
    if (name === step) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  }
}

function open(name, remember = true) {
  step = STEPS.some(([known]) => known === name) ? name : furthest();
  for (const [known] of STEPS) $(`step-${known}`).hidden = known !== step;
  if (remember) location.hash = step;
  showSteps();
  $(`nav-${step}`)?.scrollIntoView({ inline: "center", block: "nearest" });
  scrollTo(0, 0);
  for (const watch of watchers) watch(state, state);
  showCommand(step);
}

// The command of a step, ready to be pasted, also before it is started.
let commandAsked = 0;
async function showCommand(kind) {
  const box = document.querySelector(`.command[data-job="${kind}"]`);
  if (!box) return;
  const mine = ++commandAsked;
  let text;
  try { text = (await get(`api/command/${kind}?settings=${encodeURIComponent(JSON.stringify(settings(kind)))}`)).command; } catch (error) { text = error.message; }
  if (mine === commandAsked) box.querySelector("code").textContent = text;
}

addEventListener("hashchange", () => { if (state && location.hash.slice(1) !== step) open(location.hash.slice(1), false); });
addEventListener("click", (event) => {
  const button = event.target.closest("[data-go]");
  if (button) open(button.dataset.go);
});

async function run() {
  for (;;) {
    await poll();
    await new Promise((done) => setTimeout(done, document.hidden ? 5 * POLL_MS : POLL_MS));
  }
}
addEventListener("load", run);
