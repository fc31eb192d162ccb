// Around the field: score, timeline, controls, and what the algorithm thinks of the actions.

const shown = () => hovered ?? pinned;

// --- score and timeline -------------------------------------------------------------------------------------------

function drawScore({ rows }) {
  const canvas = $("score"), c = canvas.getContext("2d"), { width, height } = canvas, unit = height / 34;
  c.clearRect(0, 0, width, height);
  c.font = `700 ${14 * unit}px system-ui, sans-serif`;
  c.textBaseline = "middle";
  for (const team of [0, 1]) {
    const members = [...units.keys()].filter((i) => units[i].team === team);
    const full = members.reduce((sum, i) => sum + typeOf(i).hp + typeOf(i).shield, 0);
    const left = members.reduce((sum, i) => sum + rows[i].hp + rows[i].shield, 0) / full;
    const side = team ? 1 : -1, inner = width / 2 + side * 8 * unit, outer = team ? width - 14 * unit : 14 * unit;
    const length = Math.abs(outer - inner) - 60 * unit;
    c.fillStyle = rgb(style.team[team]);
    c.textAlign = team ? "right" : "left";
    c.fillText(`${members.filter((i) => rows[i].alive).length}/${members.length}`, outer, height / 2 + unit);
    for (const [share, colour] of [[1, style.dark[team]], [left, style.team[team]]]) {
      c.fillStyle = rgb(colour);
      c.beginPath();
      const start = Math.min(inner, inner + side * length * share);
      c.roundRect(start, height / 2 - 6 * unit, length * share, 12 * unit, 3 * unit);
      c.fill();
    }
  }
}

/** Health of both teams and deaths, as far as they have been watched: what comes is not told. */
function drawTimeline() {
  const canvas = $("timeline"), c = canvas.getContext("2d"), { width, height } = canvas, unit = height / 52;
  const x = (t) => (t / end) * width, y = (share) => height - 12 * unit - share * (height - 24 * unit);
  c.clearRect(0, 0, width, height);
  for (const team of [1, 0]) {
    c.beginPath();
    teamHealth.forEach((shares, t) => { if (t <= watched) c.lineTo(x(t), y(shares[team])); });
    c.strokeStyle = rgb(style.team[team]);
    c.lineWidth = 2 * unit;
    c.stroke();
  }
  battle.deaths.forEach((death, i) => {
    if (death === null || death > watched) return;
    const row = units[i].team ? height - 5 * unit : 5 * unit, arm = 2.6 * unit;
    c.strokeStyle = rgb(style.team[units[i].team]);
    c.lineWidth = 1.4 * unit;
    c.beginPath();
    for (const slope of [1, -1]) {
      c.moveTo(x(death) - arm, row - slope * arm);
      c.lineTo(x(death) + arm, row + slope * arm);
    }
    c.stroke();
  });
  c.fillStyle = "rgb(255 255 255 / 0.08)";
  c.fillRect(0, 0, x(time), height);
  c.fillStyle = "#fff";
  c.fillRect(clamp(x(time) - unit, 0, width - 2 * unit), 0, 2 * unit, height);
}

// --- what the algorithm thinks --------------------------------------------------------------------------------------

const LONGEST_CHART = 12; // actions; the lowest of more share a row
const isValue = battle.kind === "value";
const [lowest, highest] = isValue ? extremes() : [0, 1]; // of the scale, one for the whole battle
const scoreText = (score) => (isValue ? String(Number(score.toPrecision(3))) : `${(100 * score).toFixed(1)} %`);
const onScale = (score) => `${(100 * (score - lowest)) / (highest - lowest)}%`;

/** The least and the greatest value of any living unit's action in the battle, and 0. */
function extremes() {
  let least = 0, most = 0;
  battle.scores.forEach((offers, t) => offers.forEach((offer, n) => {
    if (frames[t][agents[n].unit].length <= 3) return;
    const values = offer.filter((_, k) => k % 2);
    [least, most] = [Math.min(least, ...values), Math.max(most, ...values)];
  }));
  return most > least ? [least, most] : [0, 1];
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function headingRow() {
  const row = element("div", "option heading");
  row.append(element("span", "label", "action"), element("span"), element("span", "score", battle.kind));
  return row;
}

function chartRow({ name, score, isChosen }, className = "") {
  const row = element("div", `option ${isChosen ? "chosen" : ""} ${className}`);
  const label = element("span", "label", name), track = element("span", "track"), bar = element("div", "bar");
  label.title = name;
  bar.style.left = onScale(Math.min(score, 0));
  bar.style.width = onScale(lowest + Math.abs(score));
  track.append(bar);
  if (lowest < 0) {
    const zero = element("div", "zero");
    zero.style.left = onScale(0);
    track.append(zero);
  }
  row.append(label, track, element("span", "score", scoreText(score)));
  return row;
}

function chartRows(options) {
  if (options.length <= LONGEST_CHART) return options.map((option) => chartRow(option));
  const ranked = [...options].sort((a, b) => b.isChosen - a.isChosen || b.score - a.score);
  const kept = new Set(ranked.slice(0, LONGEST_CHART - 1));
  const others = ranked.filter((option) => !kept.has(option));
  const rest = isValue
    ? { name: `best of ${others.length} others`, score: others[0].score }
    : { name: `${others.length} others`, score: others.reduce((sum, { score }) => sum + score, 0) };
  return [...options.filter((option) => kept.has(option)).map((option) => chartRow(option)), chartRow(rest, "rest")];
}

const TOLD = {
  probability: "how likely each of its actions is", value: "the value of each of its actions", null: "what it does",
};

function showUnit({ time, rows }) {
  const i = shown(), name = $("name"), state = $("state"), chart = $("chart");
  name.className = i === null ? "" : ["ally", "enemy"][units[i].team];
  if (i === null) {
    name.textContent = battle.kind ? "What does the policy think?" : "What does a unit do?";
    state.textContent = `Point at a blue unit, or tap it, to see ${TOLD[battle.kind]} at this step.`;
    chart.replaceChildren();
    return;
  }
  const { alive, hp, shield, target } = rows[i], type = typeOf(i), decision = decisionOf(i, time);
  name.textContent = units[i].name;
  const shields = type.shield ? ` · ${Math.ceil(shield)}/${type.shield} shield` : "";
  const health = `${Math.ceil(hp)}/${type.hp} health${shields}`;
  const aim = target >= 0 ? `aims at ${units[target].name}` : "aims at nobody";
  const does = units[i].team ? ` · ${aim}` : decision && !battle.kind ? ` · ${decision.chosen.name}` : "";
  state.textContent = alive ? health + does : "dead";
  const key = `${i} ${Math.floor(time)} ${alive}`;
  if (chart.dataset.key === key && chart.hasChildNodes()) return;
  chart.dataset.key = key;
  chart.replaceChildren(...(alive && decision && battle.kind ? [headingRow(), ...chartRows(decision.options)] : []));
}

const members = new Map(); // rows of the team's list by unit
for (const { unit } of agents) {
  const row = element("li", "member"), name = element("span", "name", units[unit].name);
  row.tabIndex = 0;
  row.append(name, element("span", "action"), element("span", "score"));
  row.addEventListener("mouseenter", () => hover(unit));
  row.addEventListener("mouseleave", () => hover(null));
  row.addEventListener("click", () => pin(unit));
  row.addEventListener("keydown", ({ key }) => { if (key === "Enter") pin(unit); });
  members.set(unit, row);
}
$("team").append(...members.values());

function showTeam({ time, rows }) {
  for (const [unit, row] of members) {
    const decision = rows[unit].alive ? decisionOf(unit, time) : null;
    const [, action, score] = row.children;
    action.textContent = decision ? decision.chosen.name : rows[unit].alive ? "survived" : "dead";
    score.textContent = decision && battle.kind ? scoreText(decision.chosen.score) : "";
    row.classList.toggle("dead", !rows[unit].alive);
    row.classList.toggle("shown", unit === shown());
    row.classList.toggle("pinned", unit === pinned);
  }
}

// --- pointing at units --------------------------------------------------------------------------------------------

function hover(i) {
  if (hovered !== i) isStale = true;
  hovered = i;
}

function pin(i) {
  pinned = pinned === i ? null : i;
  isStale = true;
}

/** The living unit under a pointer; a finger need not hit as well as a mouse. */
function unitAt(event) {
  const box = field.getBoundingClientRect(), cells = camera.width / box.width;
  const x = camera.left + (event.clientX - box.left) * cells, y = camera.top - (event.clientY - box.top) * cells;
  const slack = (event.pointerType === "touch" ? 16 : 5) * cells;
  const near = momentAt(time).rows
    .map((row, i) => ({ i, alive: row.alive, gap: Math.hypot(row.x - x, row.y - y) - typeOf(i).radius }))
    .filter(({ alive, gap }) => alive && gap < slack);
  return near.length ? near.reduce((a, b) => (b.gap < a.gap ? b : a)).i : null;
}

/** Scrolls the team, and nothing else, to a unit that was pointed at on the field. */
function reveal(i) {
  const team = $("team"), row = members.get(i);
  if (row === undefined) return;
  const low = row.offsetTop + row.offsetHeight - team.clientHeight;
  team.scrollTop = clamp(team.scrollTop, low, row.offsetTop);
}

field.addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch") return;
  hover(unitAt(event));
  reveal(hovered);
  field.classList.toggle("over", hovered !== null);
});
field.addEventListener("pointerleave", () => hover(null));
field.addEventListener("click", (event) => {
  const i = unitAt(event);
  if (event.pointerType === "touch") hovered = null;
  pin(i === null ? pinned : i); // beside all units: let go
  reveal(pinned);
});

// --- time ---------------------------------------------------------------------------------------------------------

function setTime(to) {
  time = clamp(to, 0, end);
  watched = Math.max(watched, time);
  isStale = true;
}

function setPlaying(to) {
  if (to && time >= end) setTime(0);
  playing = to;
  $("playing").setAttribute("d", playing ? PAUSE : PLAY);
  $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
}

function stepBy(by) {
  setPlaying(false);
  setTime(by > 0 ? Math.min(Math.floor(time + 1e-6) + 1, end) : Math.ceil(Math.min(time, steps + 1) - 1e-6) - 1);
}

function changeSpeed(by) {
  const speed = $("speed");
  speed.selectedIndex = clamp(speed.selectedIndex + by, 0, speed.length - 1);
}

const KEYS = {
  " ": () => setPlaying(!playing),
  ArrowRight: () => stepBy(1),
  ArrowLeft: () => stepBy(-1),
  ArrowUp: () => changeSpeed(1),
  ArrowDown: () => changeSpeed(-1),
  Home: () => setTime(0),
  End: () => setTime(end),
  a: () => { $("intents").checked = !$("intents").checked; isStale = true; },
  Escape: () => { pinned = null; isStale = true; },
};

document.addEventListener("keydown", (event) => {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey || event.target === $("speed")) return;
  event.preventDefault(); // a focused button or slider would act too
  act();
});

$("play").addEventListener("click", () => setPlaying(!playing));
$("back").addEventListener("click", () => stepBy(-1));
$("forth").addEventListener("click", () => stepBy(1));
$("intents").addEventListener("change", () => { isStale = true; });
$("scrubber").max = end;
$("scrubber").addEventListener("input", ({ target }) => { setPlaying(false); setTime(Number(target.value)); });

// --- all together -------------------------------------------------------------------------------------------------

function fit() {
  for (const id of ["score", "field", "timeline"]) {
    const canvas = $(id), sharpness = Math.min(devicePixelRatio, 2.5);
    canvas.width = Math.round(canvas.clientWidth * sharpness);
    const height = id === "field" ? (canvas.clientWidth * camera.height) / camera.width : canvas.clientHeight;
    canvas.height = Math.round(height * sharpness);
  }
  isStale = true;
}

function draw() {
  const moment = momentAt(time), step = Math.min(Math.floor(time + 1e-6), steps);
  drawField(moment);
  drawScore(moment);
  drawTimeline();
  showUnit(moment);
  showTeam(moment);
  const clock = `step ${step} of ${steps} · ${(Math.min(time, steps) * battle.step_seconds).toFixed(1)} s`;
  $("clock").textContent = clock;
  $("outcome").hidden = watched <= steps;
  $("scrubber").value = time;
  $("scrubber").setAttribute("aria-valuetext", clock);
}

function tick(now) {
  if (playing) {
    setTime(time + ((now - last) / 1000 / battle.step_seconds) * Number($("speed").value));
    if (time >= end) setPlaying(false);
  }
  last = now;
  if (isStale) {
    isStale = false;
    draw();
  }
  requestAnimationFrame(tick);
}

function legendEntry(name, { shape }) {
  const entry = element("li", "", name.replaceAll("_", " ")), svg = document.createElementNS(SVG, "svg");
  const polygon = document.createElementNS(SVG, "polygon");
  svg.setAttribute("viewBox", "-1.3 -1.3 2.6 2.6");
  polygon.setAttribute("points", shape.map(([a, b]) => `${a},${-b}`).join(" "));
  svg.append(polygon);
  entry.prepend(svg);
  return entry;
}
const SVG = ["http:", "www.w3.org/2000/svg"].join("//"); // a namespace, which nothing is loaded from

$("legend").append(element("li", "ally", "blue: allies"), element("li", "enemy", "orange: enemies"));
$("legend").append(...Object.entries(types).map(([name, type]) => legendEntry(name, type)));
document.documentElement.style.setProperty("--aspect", camera.width / camera.height);
$("scenario").textContent = battle.scenario;
$("title").textContent = battle.title;
$("outcome").textContent = `${battle.outcome} after ${(steps * battle.step_seconds).toFixed(1)} s`;
$("outcome").className = battle.outcome;
new ResizeObserver(fit).observe($("field"));
fit();
setPlaying(!matchMedia("(prefers-reduced-motion: reduce)").matches);
requestAnimationFrame((now) => { last = now; tick(now); });
