"use strict";
// A card for each cluster, names, divisions, proposals and points.

const NAMING = new Set(["name", "accept", "click", "unclick", "divide", "undo", "redo"]);
const ACCEPTED = 0.8;
const NO_CLICKS = { points: [], scores: { asked: { right: 0, count: 0 }, seen: { right: 0, count: 0 } }, doubts: [] };
const STAY = 6;  // names that are offered from the beginning; each further one that is used comes behind them
let naming = null, selected = null, filter = null, likeShown = null, loading = false, loadingClicks = false;
let divided = null;  // the cluster that is being divided
let pictures = {};  // of the cards, by cluster: what they show changes with divisions only

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

async function loadClusters(force = false) {
  if (loading || !state.ready.clusters) return;
  if (!force && naming && naming.fresh && naming.revision === state.revision) return;
  loading = true;
  try {
    const like = likeShown === null ? "" : `?like=${likeShown}`;
    let found;
    do found = await get(`api/clusters${like}`);
    while (naming && found.revision < naming.revision);  // an answer from before what was done meanwhile
    const before = naming;
    naming = { ...found, fresh: true, clicks: before ? before.clicks : NO_CLICKS };
    const changed = !before || before.clusters.length !== naming.clusters.length
      || before.clusters.some((c, i) => c.share !== naming.clusters[i].share);
    if (changed) pictures = {};
    showNaming(changed);
    if (before && divided !== null && naming.clusters.length > before.clusters.length) showParts();
    if (!before) {
      // The frame with the most to see: where the most clusters have their exemplars.
      const count = {};
      for (const c of naming.clusters) for (const f of c.frames) count[f] = (count[f] || 0) + 1;
      await showFrame(Number(Object.keys(count).sort((a, b) => count[b] - count[a])[0] || 0), true);
    } else await showFrame(viewer.frame, true);
    loadClicks();
  } catch (error) { console.info(error.message); }
  loading = false;
}

// What is said at the clicks takes a while: names do not wait for it.
async function loadClicks() {
  if (loadingClicks) return;
  loadingClicks = true;
  let revision = null;
  try {
    while (naming && revision !== naming.revision) {
      revision = naming.revision;
      naming.clicks = await get("api/clicks");
      score();
      draw();
    }
  } catch (error) { console.info(error.message); }
  loadingClicks = false;
}

// The parts of a division, where they are: the first has the number of the whole, the others are new.
function showParts() {
  for (const id of [divided, naming.clusters.length - 1]) $(`card-${id}`)?.classList.add("part");
  $(`card-${divided}`)?.scrollIntoView({ block: "center", behavior: "smooth" });
  divided = null;
}

function divideIt(cluster) {
  divided = cluster;
  return act({ do: "divide", cluster, parts: 2 });
}

function showNaming(changed) {
  $("undo").disabled = !state.named.undo;
  $("redo").disabled = !state.named.redo;
  legend();
  const names = [...naming.classes.map((c) => c.name), ...naming.suggested, "unsure"];
  $("names").replaceChildren(...[...new Set(names)].map((value) => make("option", { value })));
  cards(changed);
  score();
  spot();
  howFar();
  sayProposals();
  if (document.querySelector('.command[data-job="name"]').open) showCommand("name");
  const ready = acceptable();
  $("accept").hidden = !Object.keys(ready).length;
  $("accept").textContent = `Accept ${Object.keys(ready).length} of ${percent(ACCEPTED, 0)} and more`;
}

function dot(name) {
  const found = naming.classes.find((c) => c.name === name), mark = make("span", { className: "dot" });
  if (found) mark.style.background = `rgb(${found.color.join(",")})`;
  return mark;
}

function legend() {
  const open = naming.clusters.filter((c) => c.name === null);
  const rows = naming.classes.map((c) => [c.name, c.name, c.share, naming.clusters.filter((k) => k.name === c.name).length]);
  if (open.length) rows.unshift(["", "no name yet", open.reduce((sum, c) => sum + c.share, 0), open.length]);
  if (!rows.some(([key]) => key === filter)) filter = null;
  $("legend").replaceChildren(...rows.map(([key, title, share, count]) => {
    const item = make("button", { type: "button", title: `${count} clusters; press to see only these`, onclick: () => {
      filter = filter === key ? null : key;
      showNaming(false);
    } }, dot(key), title, make("small", { textContent: `${percent(share)} · ${count}` }));
    item.setAttribute("aria-pressed", filter === key);
    return make("li", {}, item);
  }));
}

// --- cards ----------------------------------------------------------------------------------------------

const doubt = (c) => (c.share === 0 ? -1 : c.agreement === null ? 0.35 : 1 - c.agreement);
const ORDERS = {
  share: (a, b) => b.share - a.share,
  height: (a, b) => (a.share ? a.height : 2) - (b.share ? b.height : 2),
  doubt: (a, b) => doubt(b) - doubt(a),
};

// What was divided stays side by side, where the whole was: sorted by what it is together.
function families() {
  const root = (c) => { while (c.parent !== null) c = naming.clusters[c.parent]; return c.id; };
  const found = {};
  for (const c of naming.clusters) (found[root(c)] ??= []).push(c);
  return Object.values(found).map((members) => {
    const share = members.reduce((sum, c) => sum + c.share, 0);
    const height = members.reduce((sum, c) => sum + c.share * c.height, 0) / (share || 1);
    const [worst] = [...members].sort(ORDERS.doubt);
    return { members, share, height, agreement: worst.agreement };
  });
}

function cards(changed) {
  const order = ORDERS[$("sort").value];
  const sorted = families().sort((a, b) => order(a, b) || a.members[0].id - b.members[0].id).flatMap((f) => f.members);
  const shown = sorted.filter((c) => filter === null || (c.name ?? "") === filter);
  const focus = document.activeElement?.closest?.(".card")?.id, typed = document.activeElement?.tagName === "INPUT" && document.activeElement.value;
  $("cards").replaceChildren(...shown.map((c) => card(c)));
  if (focus && $(focus)) {
    const input = $(focus).querySelector("input");
    input.focus({ preventScroll: true });
    if (typed && typed !== input.value && !changed) input.value = typed;
  }
}

function picture(kind, id, type) {
  pictures[id] ??= {};
  return pictures[id][kind] ??= make("img", { loading: "lazy", alt: kind === "heat" ? "where in the frame it lies" : `frames that show cluster ${id}`, src: `media/${kind}/${id}.${type}?r=${naming.revision}` });
}

function card(c) {
  const sheet = make("button", { type: "button", className: "sheet", title: "show it in this frame" }, picture("exemplars", c.id, "jpg"));
  sheet.addEventListener("click", (event) => {
    const box = sheet.getBoundingClientRect();
    const column = Math.floor((3 * (event.clientX - box.left)) / box.width), row = Math.floor((2 * (event.clientY - box.top)) / box.height);
    look(c.id, c.frames[Math.min(c.frames.length - 1, Math.max(0, 3 * row + column))] ?? c.frames[0]);
  });
  const input = make("input", { value: c.name ?? "", placeholder: `cluster ${c.id}: what is it?`, list: "names", maxLength: 40, autocomplete: "off" });
  input.setAttribute("aria-label", `Name of cluster ${c.id}`);
  // Enter makes a "change" too, unless the field was drawn anew under the typing.
  let sent = c.name ?? "";
  const commit = () => {
    if (input.value.trim() === sent) return;
    sent = input.value.trim();
    nameIt(c.id, sent || null);
  };
  input.addEventListener("change", commit);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    commit();
    nextUnnamed(c.id);
  });
  const divide = make("button", { type: "button", textContent: "Divide", title: `make two clusters of it (il2vseg name --divide ${c.id})`, onclick: () => divideIt(c.id) });
  const body = make("div", { className: "body" }, facts(c), make("div", { className: "given" }, input, divide), chips(c));
  if (c.name !== null) body.style.borderTopColor = dot(c.name).style.background;
  const element = make("article", { className: c.id === selected ? "card selected" : "card", id: `card-${c.id}` }, sheet, body);
  element.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse" && viewer.solo !== c.id) { viewer.solo = c.id; draw(); } });
  element.addEventListener("pointerleave", () => { viewer.solo = viewer.spot ? selected : null; draw(); });
  return element;
}

function facts(c) {
  const pure = c.share === 0 ? "not in these frames" : c.agreement === null ? "in one scene only"
    : c.mixed ? `probably mixed (${c.agreement.toFixed(2)})` : `pure ${c.agreement.toFixed(2)}`;
  const text = make("p", {}, make("b", { textContent: percent(c.share) }), ` of the pixels · cluster ${c.id}`,
    c.parent === null ? "" : ` (of ${c.parent})`, make("br"));
  text.append(make("span", { className: c.mixed ? "mixed" : "", textContent: pure, title: "how alike the cluster looks in different parts of the footage, at most 1" }));
  if (c.problem) text.append(make("br"), make("span", { className: "mixed", textContent: `no name taken over: ${c.problem}` }));
  return make("div", { className: "facts" }, picture("heat", c.id, "png"), text);
}

function chip(name, className, title, onclick, extra = "") {
  const button = make("button", { type: "button", className, title, onclick }, dot(name), name + extra);
  button.setAttribute("aria-pressed", className === "own");
  return button;
}

// Names to choose from, each at its place as long as the page is open.
const places = [];
function offered() {
  const used = new Set(naming.classes.map((c) => c.name));
  for (const name of [...naming.suggested.slice(0, STAY), ...used]) if (name !== "unsure" && !places.includes(name)) places.push(name);
  return places.filter((name, i) => i < STAY || used.has(name)).map((name) => [name, used.has(name) ? "" : "idea"]);
}

function chips(c) {
  const row = make("div", { className: "chips" }), p = c.proposal;
  if (p && p.name !== c.name)
    row.append(chip(p.name, "proposal", Object.entries(p.shares).map(([n, s]) => `${n} ${percent(s, 0)}`).join(", "), () => nameIt(c.id, p.name), ` ${percent(p.agreement, 0)}`));
  for (const [name, kind] of [...offered(), ["unsure", "idea"]]) {
    row.append(chip(name, name === c.name ? "own" : kind, name === "unsure" ? "holds several things: it teaches the student nothing" : "", () => nameIt(c.id, name === c.name ? null : name)));
  }
  return row;
}

function nextUnnamed(after) {
  const all = [...document.querySelectorAll(".card")], at = all.findIndex((e) => e.id === `card-${after}`);
  const next = [...all.slice(at + 1), ...all.slice(0, at)].find((e) => !e.querySelector("input").value);
  if (next) {
    next.querySelector("input").focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }
}

function nameIt(cluster, name) {
  // At once on this page; the answer of the server follows.
  const found = naming.clusters[cluster];
  if (naming.classes.some((c) => c.name === name)) { found.name = name; draw(); }
  return act({ do: "name", clusters: [cluster], name });
}

function look(cluster, frame) {
  viewer.spot = null;
  viewer.solo = cluster;
  selected = cluster;
  for (const e of document.querySelectorAll(".card")) e.classList.toggle("selected", e.id === `card-${cluster}`);
  showFrame(frame);
}

// --- a point in the frame -------------------------------------------------------------------------------

function select(cluster, scroll) {
  selected = viewer.solo = cluster;
  for (const e of document.querySelectorAll(".card")) e.classList.toggle("selected", e.id === `card-${cluster}`);
  if (scroll || matchMedia("(min-width: 60rem)").matches) $(`card-${cluster}`)?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  spot();
  draw();
}

function spot() {
  const at = viewer.spot;
  $("spot").hidden = !at || at.frame !== viewer.shown;
  if ($("spot").hidden) return;
  const c = clusterAt(at.x, at.y);
  if (!c) return;
  const go = make("button", { type: "button", textContent: "its card", onclick: () => { filter = null; showNaming(false); select(c.id, true); } });
  const whole = make("div", { className: "chips" }, ...[...offered(), ["unsure", "idea"]].map(([name, kind]) =>
    chip(name, name === c.name ? "own" : kind, "", () => nameIt(c.id, name === c.name ? null : name))),
    make("button", { type: "button", textContent: "divide it", onclick: () => divideIt(c.id) }));
  const other = offered().filter(([name]) => name !== c.name && name !== "unsure");
  const here = make("div", { className: "chips" }, ...other.map(([name, kind]) =>
    chip(name, kind, "keep as a point of truth", async () => {
      if (await act({ do: "click", frame: at.frame, x: at.x, y: at.y, name, asked: false })) showAll();
    })));
  const close = make("button", { type: "button", textContent: "✕", title: "close", onclick: showAll });
  $("spot").replaceChildren(make("h3", {}, dot(c.name), `${c.name ?? "no name yet"} · cluster ${c.id} · ${percent(c.share)}`, go, close),
    make("h4", { textContent: "The whole cluster is" }), whole,
    make("h4", { textContent: "Only here it is wrong: it is" }), here);
}

// --- proposals, points, undo ----------------------------------------------------------------------------

// What a named model says of the clusters, beside the names that they have.
function sayProposals() {
  const asked = naming.clusters.filter((c) => c.proposal), task = state.tasks.proposals;
  const title = likeShown === null ? "" : state.like[likeShown], said = [];
  if (task && (task.state === "running" || task.state === "waiting"))
    said.push(`${title} looks at the frames: ${task.done} of ${task.total || state.footage.kept}${left("proposals", title, task.done, task.total)}`);
  else if (task?.state === "failed" && title) said.push(task.error);
  else if (asked.length) {
    const same = asked.filter((c) => c.proposal.name === c.name), open = asked.filter((c) => c.name === null);
    const parts = [[same.length, "as you did"], [asked.length - same.length - open.length, "otherwise"], [open.length, "that have no name yet"]];
    said.push(`${title} names ${asked.length} of ${naming.clusters.length} clusters: `, parts.filter(([count]) => count).map(([count, what]) => `${count} ${what}`).join(", "), ".",
      same.length < asked.length ? " Those names are dashed and green on their cards; press one to take it over." : "");
  }
  $("proposed").hidden = !said.length;
  $("proposed").textContent = said.join("");
}

// How many are named, and what comes next.
function howFar() {
  const { clusters } = naming, count = clusters.filter((c) => c.name !== null).length, done = count === clusters.length;
  $("named").className = done ? "done" : "";
  $("named").firstElementChild.textContent = done ? `All ${count} clusters have a name.` : `${count} of ${clusters.length} clusters have a name.`;
  $("named").lastElementChild.hidden = !done || state.naming_only;
}

function acceptable() {
  const found = {};
  for (const c of naming.clusters)
    if (c.name === null && c.proposal && c.proposal.agreement >= ACCEPTED) found[c.id] = c.proposal.name;
  return found;
}

function score() {
  const { asked, seen } = naming.clicks.scores, said = [];
  const range = (s) => `${s.right} of ${s.count} (${(100 * s.interval[0]).toFixed(0)} to ${(100 * s.interval[1]).toFixed(0)} %)`;
  if (asked.count) said.push(`Random points: ${range(asked)} are right, with 95 % confidence.`);
  if (seen.count) said.push(`Mistakes that you pointed at: ${seen.right} of ${seen.count} are right now.`);
  $("score-said").className = said.length ? "scored" : "quiet";
  $("score-said").textContent = said.join(" ") || "The page asks about points drawn at random; a few dozen tell how good the names are. They never train the model.";
  $("doubts").replaceChildren(...naming.clicks.doubts.slice(0, 5).map((d) => {
    const [name] = Object.keys(d.names);
    const does = () => (d.mixed ? divideIt(d.cluster) : act({ do: "name", clusters: [d.cluster], name }));
    return make("li", {}, `Cluster ${d.cluster}: ${d.advice}`, make("button", { type: "button", textContent: d.mixed ? "Divide" : "Name it so", onclick: does }),
      make("button", { type: "button", textContent: "Show", onclick: () => look(d.cluster, naming.clicks.points.find((p) => p.cluster === d.cluster).frame) }));
  }));
}

async function askPoint() {
  viewer.asked = { frame: Math.floor(Math.random() * state.footage.kept), x: Math.random(), y: Math.random() };
  viewer.spot = null;
  await showFrame(viewer.asked.frame);
  if (!viewer.asked) return;
  const end = () => { viewer.asked = null; $("ask").hidden = true; draw(); };
  const answer = async (name) => { if (await act({ do: "click", ...viewer.asked, name, asked: true })) askPoint(); else end(); };
  const names = offered().map(([name, kind]) => chip(name, kind, "", () => answer(name)));
  $("ask").replaceChildren("What is in the circle?", make("span", { className: "chips" }, ...names,
    make("button", { type: "button", textContent: "cannot tell", onclick: askPoint }),
    make("button", { type: "button", textContent: "enough", onclick: end })));
  $("ask").hidden = false;
  draw();
}

$("check").addEventListener("click", askPoint);
$("undo").addEventListener("click", () => act({ do: "undo" }));
$("redo").addEventListener("click", () => act({ do: "redo" }));
$("sort").addEventListener("change", () => showNaming(false));
$("propose").addEventListener("click", () => { likeShown = Number($("like").value); act({ do: "like", model: likeShown }); });
$("accept").addEventListener("click", () => act({ do: "accept", names: acceptable() }));
document.querySelector('.command[data-job="name"]').addEventListener("toggle", () => showCommand("name"));
$("hint").open = matchMedia("(min-width: 40rem)").matches;
addEventListener("keydown", (event) => {
  if (step === "name" && (event.ctrlKey || event.metaKey) && event.key === "z" && event.target.tagName !== "INPUT") {
    event.preventDefault();
    act({ do: event.shiftKey ? "redo" : "undo" });
  }
});

watchers.push((now, before) => {
  const { ready, tasks } = now, task = tasks.clusters;
  if (!ready.clusters) { naming = null; viewer.shown = -1; }
  $("naming").hidden = !naming;
  $("name-wait").hidden = !!naming;
  $("name-wait").textContent = !ready.model ? "There is no model yet: train one first."
    : task?.state === "failed" ? task.error
    : task?.total ? `Looking at the clusters: frame ${task.done} of ${task.total}` : "Opening the model …";
  if (!$("like").children.length) $("like").replaceChildren(...now.like.map((name, value) => make("option", { value, textContent: `like ${name}` })));
  const p = tasks.proposals;
  const looking = p && (p.state === "running" || p.state === "waiting");
  $("propose").disabled = looking;
  if (naming) sayProposals();
  if (step !== "name") return;
  const proposed = p?.state === "done" && before?.tasks.proposals?.state !== "done" && likeShown !== null;
  loadClusters(proposed).then(() => { $("naming").hidden = !naming; $("name-wait").hidden = !!naming; });
});
