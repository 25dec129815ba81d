// Shows what the host sends, and asks it for what the operator wants done.
//
// Whatever a plugin may have had a say in is put into the page as text. Drawings are the host's own: they are read as XML,
// and only what can be drawn of them is taken over.

const EVENTS = 200;
const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "rect", "line", "polyline", "polygon", "circle", "text"]);
const STEPS = ["settle", "stage", "vet", "probe", "observe", "open", "create", "drain", "save", "restore", "check",
  "publish", "record"];
const $ = (id) => document.getElementById(id);
const cards = new Map();
let started = 0; // which host this is

// ---- Small things -------------------------------------------------------------------------------------------------

function element(tag, text, classes) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

// What has not changed is left alone: a selection stays, and nothing is announced twice.
function say(where, text) {
  if (where.textContent !== text) where.textContent = text;
  return where;
}

function same(where, key) {
  const text = JSON.stringify(key);
  const unchanged = where.dataset.shown === text;
  where.dataset.shown = text;
  return unchanged;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e9) return (value / 1e9).toFixed(2) + " G";
  if (value >= 1e6) return (value / 1e6).toFixed(2) + " M";
  if (value >= 1e4) return (value / 1e3).toFixed(1) + " k";
  return value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

function duration(ns) {
  if (ns === null || ns === undefined) return "–";
  for (const [size, unit] of [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]]) {
    if (ns >= size) return (ns / size).toPrecision(3) + " " + unit;
  }
  return ns + " ns";
}

function bytes(count) {
  if (count === null || count === undefined) return "–";
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (count >= size) return (count / size).toFixed(1) + " " + unit;
  }
  return count + " B";
}

function age(sinceMs, nowMs) {
  const seconds = Math.max(0, Math.round((nowMs - sinceMs) / 1000));
  if (seconds < 120) return seconds + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min";
  return Math.floor(seconds / 3600) + " h";
}

function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

// ---- Drawings -----------------------------------------------------------------------------------------------------

function copied(from) {
  const made = document.createElementNS(SVG, from.localName);
  for (const { name, value } of from.attributes) {
    if (name !== "xmlns") made.setAttribute(name, value);
  }
  for (const child of from.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) {
      if (child.data.trim()) made.append(child.data.trim());
    } else if (DRAWN.has(child.localName)) {
      made.append(copied(child));
    }
  }
  return made;
}

function draw(figure, drawing) {
  const where = figure.querySelector(".chart");
  if (where.getAttribute("aria-label") !== drawing.words) where.setAttribute("aria-label", drawing.words);
  if (where.drawn === drawing.svg) return;
  where.drawn = drawing.svg;
  const read = new DOMParser().parseFromString(drawing.svg, "image/svg+xml").documentElement;
  if (read.localName === "svg") where.replaceChildren(copied(read));
  else where.textContent = drawing.words;
}

// ---- Plugins ------------------------------------------------------------------------------------------------------

function card(name) {
  let found = cards.get(name);
  if (found) return found;
  found = $("plugin").content.firstElementChild.cloneNode(true);
  found.dataset.plugin = name;
  found.setAttribute("aria-label", "Plugin " + name);
  for (const button of found.querySelectorAll("button")) {
    button.addEventListener("click", () => ask(button.dataset.action, name));
    button.setAttribute("aria-label", button.textContent + " " + name);
  }
  // By name, as they come from the host.
  const next = [...cards.keys()].sort().find((other) => other > name);
  $("plugins").insertBefore(found, next === undefined ? null : cards.get(next));
  cards.set(name, found);
  return found;
}

function isLoaded(plugin) {
  return plugin.generation !== null && plugin.generation !== undefined;
}

function badges(plugin, now) {
  const list = [];
  if (!isLoaded(plugin)) list.push(["not loaded", "bad"]);
  else {
    list.push(["generation " + plugin.generation, "good"], ["version " + plugin.version, ""]);
    if (plugin.since_ms) list.push(["for " + age(plugin.since_ms, now), "age"]);
  }
  if (plugin.state_version !== null && plugin.state_version !== undefined) {
    list.push(["state version " + plugin.state_version, ""]);
  }
  const size = image(plugin, plugin.generation);
  if (size) list.push([bytes(size) + " image", ""]);
  if (plugin.profile === "debug") list.push(["debug build", "warn"]);
  const waiting = plugin.lives.filter((life) => life.verdict === "lingering").length;
  if (waiting) list.push([waiting + " lingering", "warn"]);
  return list;
}

function figures(plugin) {
  const calls = plugin.figures ?? {};
  return [
    ["calls/s", number(calls.calls_per_s), ""],
    ["in flight", number(plugin.in_flight), ""],
    ["waiting", number(plugin.waiting), plugin.waiting ? "warn" : ""],
    ["p50", duration(calls.p50_ns), ""],
    ["p99", duration(calls.p99_ns), ""],
    ["errors", number(calls.errors), calls.errors ? "bad" : ""],
    ["panics", number(calls.panics), calls.panics ? "bad" : ""],
    ["state", bytes(plugin.state_bytes), ""],
  ];
}

function showFigures(where, list) {
  if (where.children.length !== list.length) {
    where.replaceChildren(...list.map(([name]) => {
      const pair = element("div");
      pair.append(element("dt", name), element("dd"));
      return pair;
    }));
  }
  list.forEach(([, value, kind], at) => {
    const shown = say(where.children[at].lastElementChild, value);
    if (shown.className !== kind) shown.className = kind;
  });
}

function image(plugin, generation) {
  return plugin.generations.find((one) => one.generation === generation)?.bytes;
}

function verdict(plugin, life) {
  const item = element("li");
  const head = element("span", undefined, "what");
  head.append(element("b", "generation " + life.generation), " ",
    element("span", "version " + life.version, "quiet"), " ",
    element("span", life.verdict, "tag " + life.verdict));
  item.append(head);
  if (life.since_ms) item.append(" ", element("time", clock(life.since_ms), "quiet"));
  const size = image(plugin, life.generation);
  if (size) item.append(element("span", " · " + bytes(size) + " in memory", "quiet"));
  if (life.reason) item.append(element("p", life.reason, "reason"));
  return item;
}

// All steps that are drawn, with what they took in the newest reload.
function showSteps(where, reloads) {
  const newest = new Map((reloads.at(-1)?.steps ?? []).map(({ step, ms }) => [step, ms]));
  const all = new Set(reloads.flatMap(({ steps }) => steps.map(({ step }) => step)));
  const list = [...all].sort((one, other) => place(one) - place(other)).map((step) => [step, newest.get(step)]);
  if (same(where, list)) return;
  where.replaceChildren(...list.map(([step, ms]) => {
    const item = element("li");
    item.append(element("i", undefined, "step-" + place(step)), step + " ",
      element("b", ms === undefined ? "–" : ms.toFixed(ms < 10 ? 2 : 1) + " ms"));
    return item;
  }));
}

function place(step) {
  const found = STEPS.indexOf(step);
  return found < 0 ? STEPS.length : found;
}

function show(plugin, now) {
  const where = card(plugin.name);
  const part = (selector) => where.querySelector(selector);
  say(part("h2"), plugin.name);
  const list = badges(plugin, now);
  if (!same(part(".badges"), list)) {
    part(".badges").replaceChildren(...list.map(([text, kind]) => element("span", text, "badge " + kind)));
  }
  part("[data-action=unload]").disabled = !isLoaded(plugin);
  part("[data-action=rollback]").disabled = !isLoaded(plugin) || !plugin.previous;
  part("[data-action=rollback]").title = plugin.previous ? "to version " + plugin.previous
    : "There is no build that served before.";
  where.dataset.odd = isOdd(plugin);
  say(part(".doing"), plugin.busy ?? "").hidden = !plugin.busy;
  showFigures(part(".figures"), figures(plugin));
  part(".refusal").hidden = !plugin.last_refusal;
  say(part(".refusal pre"), plugin.last_refusal ?? "");
  showSteps(part(".steps"), plugin.reloads);
  part("[data-chart=reloads]").hidden = plugin.reloads.length === 0;
  for (const figure of where.querySelectorAll("figure")) draw(figure, plugin.charts[figure.dataset.chart]);
  part(".old").hidden = plugin.lives.length === 0;
  if (!same(part(".verdicts"), [plugin.lives, plugin.generations])) {
    part(".verdicts").replaceChildren(...plugin.lives.map((life) => verdict(plugin, life)));
  }
}

function failure(build) {
  const item = element("li", undefined, "refusal");
  const name = build.plugin && build.plugin !== build.package ? `${build.package} (${build.plugin})` : build.package;
  const said = element("pre", build.diagnostics || build.what);
  said.tabIndex = 0;
  item.append(element("h3", name), said);
  return item;
}

// ---- Which of them are shown ---------------------------------------------------------------------------------------

const MANY = 8; // with more plugins than that one has to search
const OLD = new Set(["draining", "lingering", "leaked"]);

// Something that an operator would want to see.
function isOdd(plugin) {
  return !isLoaded(plugin) || Boolean(plugin.last_refusal || plugin.busy || plugin.waiting || plugin.figures?.panics) ||
    plugin.lives.some((life) => OLD.has(life.verdict));
}

function filter() {
  const [wanted, oddOnly] = [$("find").value.trim().toLowerCase(), $("odd").checked];
  $("filter").hidden = cards.size <= MANY && !wanted && !oddOnly;
  let shown = 0;
  for (const [name, where] of cards) {
    const isShown = name.toLowerCase().includes(wanted) && (!oddOnly || where.dataset.odd === "true");
    if (where.hidden === isShown) where.hidden = !isShown;
    shown += isShown;
  }
  say($("found"), shown < cards.size ? `${shown} of ${cards.size} plugins` : `${cards.size} plugins`);
}

$("find").addEventListener("input", filter);
$("odd").addEventListener("change", filter);
$("filter").addEventListener("submit", (event) => event.preventDefault());

function showState(state) {
  // Another host on this port, whose events are counted from 1 again.
  if (started && started !== state.started_ms) return location.reload();
  started = state.started_ms;
  say($("host"), state.state_dir + " · gate: " + state.gate + (state.watching.length
    ? " · follows " + state.watching.join(", ") : ""));
  const warnings = [...state.tainted];
  if (state.capture !== "works") warnings.push("capture " + state.capture);
  say($("taint"), warnings.join("\n")).hidden = warnings.length === 0;
  const failed = state.failed_builds ?? [];
  $("builds").hidden = failed.length === 0;
  if (!same($("builds"), failed)) $("builds").querySelector("ul").replaceChildren(...failed.map(failure));
  const names = new Set(state.plugins.map((plugin) => plugin.name));
  for (const [name, gone] of cards) {
    if (!names.has(name)) {
      gone.remove();
      cards.delete(name);
    }
  }
  for (const plugin of state.plugins) if (plugin.charts) show(plugin, state.at_ms);
  $("none").hidden = cards.size > 0;
  filter();
}

// ---- Events -------------------------------------------------------------------------------------------------------

function kind(event) {
  switch (event.event) {
    case "loaded": case "reloaded": case "proved": case "promoted": case "unloaded": return "good";
    case "refused": case "rolled-back": case "discarded": case "trouble": case "build-failed": return "bad";
    case "lingering": case "leaked": case "draining": case "missed": case "file-gone": case "removed": case "waiting": return "warn";
    default: return "";
  }
}

function showEvent(event, isNews) {
  const item = element("li", undefined, kind(event));
  item.append(element("time", clock(event.at_ms)), element("span", event.event, "tag"),
    element("span", event.text, "text"));
  item.firstElementChild.dateTime = new Date(event.at_ms).toISOString();
  item.dataset.sequence = event.sequence;
  $("events").prepend(item);
  while ($("events").children.length > EVENTS) $("events").lastElementChild.remove();
  if (isNews) say($("news"), event.text);
}

// ---- What is to be done -------------------------------------------------------------------------------------------

const ACTIONS = {
  reload: ["Reload", (name) => `The file of ${name} is looked at again, and takes over if it is accepted: with the ` +
    "state, when the calls in flight have finished."],
  rollback: ["Roll back", (name) => `The build of ${name} that served before takes over again, with the state if it ` +
    "can be handed back. The build that serves now is denied."],
  unload: ["Unload", (name) => `${name} is taken out of service: new calls fail from then on, those in flight finish, ` +
    "and its state is gone."],
};
let asked = 0;

function ask(action, name) {
  const [verb, what] = ACTIONS[action];
  const dialog = $("ask");
  asked += 1;
  say($("ask-title"), `${verb} ${name}?`);
  say($("ask-what"), what(name));
  $("ask-answer").hidden = true;
  $("ask-answer").className = "";
  say($("ask-close"), "Cancel");
  say($("ask-go"), verb);
  $("ask-go").hidden = false;
  $("ask-go").disabled = false;
  $("ask-go").className = action === "unload" ? "go danger" : "go";
  $("ask-go").onclick = () => perform(action, name, asked);
  dialog.showModal();
  $("ask-close").focus();
}

async function perform(action, name, asking) {
  const verb = ACTIONS[action][0];
  $("ask-go").disabled = true;
  say($("ask-close"), "Close");
  say($("ask-title"), `${verb} ${name}`);
  say($("ask-what"), "The host is at it …");
  let text, good = false, verdict = "It is not known whether it is done.";
  try {
    const answer = await fetch(`/plugins/${encodeURIComponent(name)}/${action}`, { method: "POST" });
    const said = await answer.json();
    good = answer.ok;
    verdict = good ? "It is done." : "It is refused.";
    text = good ? outcome(name, said) : said.error;
  } catch (error) {
    text = "The host has not answered: " + error.message;
  }
  say($("news"), text);
  if (asking !== asked) return; // another question is being asked
  say($("ask-what"), verdict);
  $("ask-answer").className = good ? "good" : "bad";
  $("ask-answer").hidden = false;
  say($("ask-answer"), text);
  $("ask-go").hidden = true;
  $("ask-close").focus();
}

function outcome(name, said) {
  switch (said?.outcome) {
    case undefined: return `${name} is unloaded: it serves no more.`;
    case "reloaded": return `Generation ${said.generation} of ${said.plugin} serves, after generation ${said.from}.`;
    case "loaded": return `Generation ${said.generation} of ${said.plugin} serves.`;
    case "unchanged": return `Unchanged: generation ${said.generation} of ${said.plugin} is this build.`;
    default: return JSON.stringify(said);
  }
}

$("ask").addEventListener("close", () => { asked += 1; });

// ---- The host -----------------------------------------------------------------------------------------------------

let source = null;
let heard = 0; // the last event
let resume = 0; // the last one that the host remembers
let drawnAt = 0; // how wide the drawings are asked for
let again = null;

// What a drawing has of the window: as wide as the page is, without what the style sheet puts around it.
function width() {
  const page = document.querySelector("main").clientWidth;
  const card = document.querySelector("main .card");
  const inner = card ? parseFloat(getComputedStyle(card).paddingLeft) + parseFloat(getComputedStyle(card).paddingRight) + 2
    : window.innerWidth < 560 ? 26 : 50;
  return Math.max(240, Math.floor((page - inner) / 8) * 8);
}

function connect() {
  clearTimeout(again);
  source?.close();
  drawnAt = width();
  const isNew = heard > 0;
  source = new EventSource(`/events?width=${drawnAt}&after=${resume}`);
  let live = isNew;
  source.addEventListener("event", ({ data, lastEventId }) => {
    const event = JSON.parse(data);
    resume = Number(lastEventId) || resume;
    if (event.sequence <= heard && event.event !== "missed") return;
    heard = Math.max(heard, event.sequence);
    showEvent(event, live);
  });
  source.addEventListener("state", ({ data }) => {
    live = true;
    reachable();
    showState(JSON.parse(data));
  });
  source.addEventListener("error", lost);
}

function reachable() {
  $("gone").hidden = true;
  say($("link"), "live").dataset.link = "live";
  document.body.classList.remove("stale");
}

async function lost() {
  const own = source;
  say($("link"), "not reachable").dataset.link = "gone";
  document.body.classList.add("stale");
  let text = "The host is not reachable. What is shown is from before; this page asks again every second.";
  if (own.readyState === EventSource.CLOSED) {
    // It does not ask again by itself when it was turned away.
    own.close();
    clearTimeout(again);
    again = setTimeout(connect, 2000);
    text = await refusal() ?? text;
  }
  if (source === own && $("link").dataset.link === "gone") say($("gone"), text).hidden = false;
}

async function refusal() {
  try {
    const answer = await fetch("/plugins", { cache: "no-store" });
    if (answer.status === 401) {
      return "The host has been started again, and has a new token: open the address that it has printed.";
    }
    return answer.ok ? "The host answers, but sends nothing: are too many pages open?" : null;
  } catch {
    return null;
  }
}

// A page that nobody sees does not keep a connection: a browser has only six for a host.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") connect();
  else {
    clearTimeout(again);
    source?.close();
    say($("link"), "paused").dataset.link = "connecting";
  }
});

let resized = null;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (width() !== drawnAt) connect(); }, 200);
});

connect();
