"use strict";
// The field of a battle at any time; times count steps.

const battle = JSON.parse(document.getElementById("battle").textContent);
const { style, camera, frames, units, types, agents } = battle;
const steps = frames.length - 1;
const AFTERMATH_STEPS = 1; // the outcome fades in while the last attacks fade out
const end = steps + AFTERMATH_STEPS;
const $ = (id) => document.getElementById(id);
const agentOf = new Map(agents.map((agent, n) => [agent.unit, n]));
const crowded = units.length > style.crowd;
const PLAY = "M7 4v16l13-8z", PAUSE = "M6 5h4v14H6zM14 5h4v14h-4z";
const ATTACK_STEPS = { shot: 0.4, melee: 0.5, laser: 0.7, blast: 1.2, heal: 1 }; // how long each stays visible
const FLASH_STEPS = 0.4; // of whom it hits
const MARK_STEPS = 6; // how long the place of a death is marked
const FIRE = [255, 120, 60];
const [X, Y, HEADING, HP, SHIELD, TARGET] = [0, 1, 2, 3, 4, 5]; // columns of a frame's rows; the dead have three

let time = 0, watched = 0, playing = false, hovered = null, pinned = null, last = 0, isStale = true;

const rgb = ([r, g, b], opacity = 1) => `rgb(${r} ${g} ${b} / ${opacity})`;
const mix = (a, b, share) => a.map((v, i) => Math.round(v + (b[i] - v) * share));
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
const WHITE = [255, 255, 255];
const typeOf = (i) => types[units[i].type];
const isAlive = (i, t) => frames[0][i].length > 3 && (battle.deaths[i] === null || t < battle.deaths[i]);
const healthColour = (s) =>
  s < 0.5 ? mix(style.health[0], style.health[1], 2 * s) : mix(style.health[1], style.health[2], 2 * s - 1);

// --- what happens at a time -------------------------------------------------------------------------------------

function momentAt(time) {
  const t = Math.min(Math.floor(time), steps - 1);
  const rows = frames[t].map((row, i) => {
    const death = battle.deaths[i] ?? Infinity;
    const passed = Math.min((Math.min(time, steps) - t) / clamp(death - t, 1e-6, 1), 1);
    const next = frames[t + 1][i], tau = 2 * Math.PI;
    const turn = ((((next[HEADING] - row[HEADING] + Math.PI) % tau) + tau) % tau) - Math.PI;
    const between = (k) => (row[k] ?? 0) + ((next[k] ?? 0) - (row[k] ?? 0)) * passed;
    const alive = isAlive(i, time);
    return {
      x: between(X), y: between(Y), heading: row[HEADING] + turn * Math.min(passed * 2.5, 1), alive,
      hp: alive ? between(HP) : 0, shield: alive ? between(SHIELD) : 0, target: row[TARGET] ?? -1,
    };
  });
  const attacks = battle.attacks
    .map(([kind, start, attacker, targets]) => {
      return { kind, attacker, targets, age: (time - start) / ATTACK_STEPS[kind] };
    })
    .filter(({ age }) => age >= 0 && age < 1);
  return { time, rows, attacks };
}

/** What an own unit does in the step that a time is in, and what else it might have done; null for all others.
 * How strongly an option is drawn (its weight) is its probability, or where its value lies between the unit's extremes.
 */
function decisionOf(i, time) {
  const n = agentOf.get(i), t = Math.floor(time);
  if (n === undefined || t >= steps || frames[t][i].length <= 3) return null;
  const action = battle.actions[t][n], offer = battle.scores ? battle.scores[t][n] : [action, null], options = [];
  for (let k = 0; k < offer.length; k += 2) {
    options.push({
      name: agents[n].actions[offer[k]], target: agents[n].targets[offer[k] - battle.moves] ?? -1,
      score: offer[k + 1], way: WAYS[offer[k]], isChosen: offer[k] === action,
    });
  }
  const scores = options.map(({ score }) => score), low = Math.min(...scores), high = Math.max(...scores);
  for (const option of options) {
    const place = high > low ? (option.score - low) / (high - low) : 1;
    option.weight = battle.kind === "probability" ? option.score : place;
  }
  return { options, chosen: options.find((option) => option.isChosen) };
}
const WAYS = { 2: [0, 1], 3: [0, -1], 4: [1, 0], 5: [-1, 0] };

const teamHealth = frames.map((rows) => [0, 1].map((team) => {
  let left = 0, full = 0;
  rows.forEach((row, i) => {
    if (units[i].team !== team) return;
    left += (row[HP] ?? 0) + (row[SHIELD] ?? 0);
    full += typeOf(i).hp + typeOf(i).shield;
  });
  return left / full;
}));

// --- the field ----------------------------------------------------------------------------------------------------

const field = $("field"), ctx = field.getContext("2d");
const ground = new Image();
ground.onload = () => { isStale = true; };
ground.src = battle.field;
let scale = 1; // pixels of the canvas per cell

const at = (x, y) => [(x - camera.left) * scale, (camera.top - y) * scale];

function path(points) {
  ctx.beginPath();
  points.forEach(([x, y], k) => (k ? ctx.lineTo(...at(x, y)) : ctx.moveTo(...at(x, y))));
}

function area(points, colour, opacity = 1) {
  path(points);
  ctx.fillStyle = rgb(colour, opacity);
  ctx.fill();
}

function line(points, width, colour, opacity = 1) {
  path(points);
  ctx.lineWidth = Math.max(1, width * scale);
  ctx.strokeStyle = rgb(colour, opacity);
  ctx.stroke();
}

function beam(a, b, width, colour, opacity) {
  line([a, b], 3 * width, colour, 0.3 * opacity);
  line([a, b], width, colour, opacity);
}

function disc(x, y, radius, colour, opacity, width = 0) {
  ctx.beginPath();
  ctx.arc(...at(x, y), radius * scale, 0, 2 * Math.PI);
  if (width) {
    ctx.lineWidth = Math.max(1, width * scale);
    ctx.strokeStyle = rgb(colour, opacity);
    ctx.stroke();
  } else {
    ctx.fillStyle = rgb(colour, opacity);
    ctx.fill();
  }
}

function placed(points, x, y, heading, size) {
  const cos = Math.cos(heading) * size, sin = Math.sin(heading) * size;
  return points.map(([a, b]) => [x + a * cos - b * sin, y + a * sin + b * cos]);
}

function drawDeaths({ time, rows }) {
  rows.forEach(({ x, y }, i) => {
    const age = time - (battle.deaths[i] ?? Infinity), { radius } = typeOf(i), { team } = units[i];
    if (!(age >= 0 && age < MARK_STEPS)) return;
    const colour = mix(style.team[team], style.ground, 0.35), arm = radius / 2;
    const opacity = 0.75 * (1 - age / MARK_STEPS);
    line([[x - arm, y - arm], [x + arm, y + arm]], 0.1, colour, opacity);
    line([[x - arm, y + arm], [x + arm, y - arm]], 0.1, colour, opacity);
    if (age < 1) disc(x, y, radius * (0.7 + age), style.light[team], 1 - age, 0.12 * (1 - age));
  });
}

function drawUnits({ rows, attacks }) {
  const flash = rows.map(() => 0), lunge = rows.map(() => 0);
  for (const { kind, attacker, targets, age } of attacks) {
    const shine = 1 - (age * ATTACK_STEPS[kind]) / FLASH_STEPS;
    if (kind !== "heal") targets.forEach((v) => { flash[v] = Math.max(flash[v], shine); });
    if (kind === "melee") lunge[attacker] = 0.22 * Math.sin(Math.PI * age);
  }
  const order = [...rows.keys()].filter((i) => rows[i].alive);
  order.sort((i, j) => typeOf(i).air - typeOf(j).air || rows[j].y - rows[i].y);
  for (const i of order) {
    const { heading } = rows[i];
    drawUnit(i, rows[i].x + Math.cos(heading) * lunge[i], rows[i].y + Math.sin(heading) * lunge[i], heading, flash[i]);
  }
}

function drawUnit(i, x, y, heading, flash) {
  const type = typeOf(i), { team } = units[i], size = type.radius;
  const [right, up] = type.air ? [0.22, -0.42] : [0.05, -0.1];
  area(placed(type.shape, x + right, y + up, heading, size), [0, 0, 0], 0.35);
  if (type.barrel) {
    const barrel = placed([[0.5, 0], [1.5, 0]], x, y, heading, size);
    line(barrel, 0.26, style.dark[team]);
    line(barrel, 0.12, style.light[team]);
  }
  area(placed(type.shape, x, y, heading, size), style.dark[team]);
  area(placed(type.shape, x, y, heading, size - 0.09), mix(style.team[team], WHITE, 0.6 * flash));
  const [nose] = placed([[0.12, 0]], x, y, heading, size);
  area(placed(type.shape, ...nose, heading, size * 0.42), type.kamikaze ? style.acid : style.light[team]);
}

function drawAttack({ rows }, { kind, attacker, targets, age }) {
  const type = typeOf(attacker), light = style.light[units[attacker].team], { x, y } = rows[attacker];
  if (kind === "blast") {
    const radius = type.blast_radius * Math.min(0.45 + age, 1);
    disc(x, y, radius, style.acid, 0.4 * (1 - age));
    disc(x, y, radius, style.acid, 1 - age, 0.16 * (1 - age));
    return;
  }
  const target = rows[targets[0]], far = Math.max(Math.hypot(target.x - x, target.y - y), 1e-9);
  const way = [(target.x - x) / far, (target.y - y) / far], across = [-way[1], way[0]];
  const along = (p, v, length) => [p[0] + v[0] * length, p[1] + v[1] * length];
  const start = along([x, y], way, type.radius), middle = [target.x, target.y];
  const rim = along(middle, way, -0.7 * typeOf(targets[0]).radius);
  if (kind === "shot") {
    beam(start, rim, 0.05 + type.damage / 220, light, 1 - 0.7 * age);
    const spark = [...Array(8).keys()].map((k) => [(k % 2 ? 0.35 : 1) * Math.cos((k * Math.PI) / 4),
      (k % 2 ? 0.35 : 1) * Math.sin((k * Math.PI) / 4)]);
    area(placed(spark, ...rim, 0, 0.3 * (1 - age)), light, 1 - age);
  } else if (kind === "melee") {
    const swing = 0.5 - 0.2 * age;
    line([along(along(rim, across, -swing), way, -0.15), along(rim, way, 0.15),
      along(along(rim, across, swing), way, -0.15)], 0.13, light, 1 - age);
  } else if (kind === "laser") {
    const edge = along(middle, across, -type.beam_width / 2);
    const reached = along(edge, across, type.beam_width * Math.min(age * 1.6, 1));
    beam(edge, reached, 0.16, FIRE, 1 - age);
    beam(start, reached, 0.1, light, 1 - 0.8 * age);
  } else {
    beam(start, middle, 0.1, style.heal, 0.7 - 0.15 * Math.cos(4 * Math.PI * age));
  }
}

function drawBars({ rows }) {
  const pixel = field.width / style.width;
  rows.forEach(({ x, y, alive, hp, shield }, i) => {
    if (!alive) return;
    const type = typeOf(i), health = clamp(hp / type.hp, 0, 1);
    const bars = [[health, healthColour(health), 3]];
    if (type.shield) bars.push([clamp(shield / type.shield, 0, 1), style.shield, 2]);
    if (crowded && i !== shown() && Math.min(...bars.map(([share]) => share)) > 0.999) return;
    const half = type.radius * 0.9 * scale, [cx, cy] = at(x, y);
    let low = cy - type.radius * 1.1 * scale - 2 * pixel;
    for (const [share, colour, height] of bars) {
      const top = low - height * pixel;
      ctx.fillStyle = rgb(style.panel);
      ctx.fillRect(cx - half - pixel, top - pixel, 2 * (half + pixel), height * pixel + 2 * pixel);
      ctx.fillStyle = rgb(colour);
      ctx.fillRect(cx - half, top, Math.max(2 * half * share, pixel), height * pixel);
      low = top - pixel;
    }
  });
}

/** What a unit means to do: an arrow for a move, a line to whom it aims at, a square for standing still. */
function drawIntent({ rows }, i, option, opacity, reach = 1) {
  const { x, y } = rows[i], { radius } = typeOf(i);
  if (option.way) {
    const heading = Math.atan2(option.way[1], option.way[0]), size = 0.62 * reach;
    const root = [x + option.way[0] * (radius + 0.22), y + option.way[1] * (radius + 0.22)];
    area(placed([[size, 0], [0, 0.3], [0, -0.3]], ...root, heading, 1), WHITE, opacity);
  } else if (option.target >= 0) {
    const other = rows[option.target], colour = units[option.target].team ? WHITE : style.heal;
    ctx.setLineDash([0.25 * scale, 0.2 * scale]);
    line([[x, y], [other.x, other.y]], 0.09 * reach, colour, opacity);
    ctx.setLineDash([]);
  } else {
    const low = y - radius - 0.3, half = 0.17 * reach;
    area(placed([[-1, -1], [1, -1], [1, 1], [-1, 1]], x, low, 0, half), WHITE, opacity);
  }
}

function drawIntents(moment) {
  if (!$("intents").checked) return;
  for (const { unit } of agents) {
    const decision = moment.rows[unit].alive && unit !== shown() ? decisionOf(unit, moment.time) : null;
    if (decision) drawIntent(moment, unit, decision.chosen, decision.chosen.target >= 0 ? 0.28 : 0.6, 0.8);
  }
}

/** The unit that is looked at, with all that it might do, the likelier or the better the stronger. */
function drawShown(moment) {
  const i = shown();
  if (i === null || !moment.rows[i].alive) return;
  const { x, y, target } = moment.rows[i];
  disc(x, y, typeOf(i).radius * 1.35, WHITE, 0.95, 0.1);
  const decision = decisionOf(i, moment.time);
  for (const option of decision?.options ?? []) {
    const { weight, target, isChosen } = option;
    if (weight >= 0.01) drawIntent(moment, i, option, 0.2 + 0.8 * weight, 0.7 + 0.9 * weight);
    const isLikely = battle.kind === "probability" && weight >= LEAST_NAMED;
    if (target >= 0 && (isChosen || isLikely)) label(moment, target, 1);
  }
  if (!decision && target >= 0) drawIntent(moment, i, { target }, 0.8);
  label(moment, i, -1);
}

const LEAST_NAMED = 0.2; // probability from which on a target that is not chosen has its name above it

/** A unit's name, above (side 1) or below it (-1). */
function label({ rows }, i, side) {
  const size = clamp(0.017 * field.width, 10 * devicePixelRatio, 15 * devicePixelRatio), text = units[i].name;
  ctx.font = `600 ${size}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  const bars = side > 0 ? (12 * field.width) / style.width : -1.15 * size; // above those
  const width = ctx.measureText(text).width, [px, py] = at(rows[i].x, rows[i].y + side * typeOf(i).radius * 1.35);
  const cx = clamp(px, width / 2 + 6, field.width - width / 2 - 6), cy = clamp(py - bars, 1.2 * size, field.height - 6);
  ctx.fillStyle = rgb(style.panel, 0.72);
  ctx.fillRect(cx - width / 2 - 4, cy - size, width + 8, 1.3 * size);
  ctx.fillStyle = rgb(style.light[units[i].team]);
  ctx.fillText(text, cx, cy);
}

function drawOutcome({ time, rows }) {
  if (time <= steps) return;
  const opacity = clamp((time - steps) / AFTERMATH_STEPS, 0, 1), size = 0.071 * field.width;
  const left = rows.filter(({ alive }) => alive);
  const above = left.reduce((sum, { y }) => sum + camera.top - y, 0) / Math.max(left.length, 1) > camera.height / 2;
  const middle = field.height * (above ? 0.22 : 0.78);
  ctx.fillStyle = rgb(style.panel, 0.7 * opacity);
  ctx.fillRect(0, middle - 0.9 * size, field.width, 1.8 * size);
  ctx.fillStyle = rgb(style.outcome[battle.outcome], opacity);
  ctx.font = `700 ${size}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.fillText(battle.outcome, field.width / 2, middle + 0.35 * size);
}

function drawField(moment) {
  scale = field.width / camera.width;
  ctx.lineJoin = "round";
  if (ground.complete) ctx.drawImage(ground, 0, 0, field.width, field.height);
  drawDeaths(moment);
  drawIntents(moment);
  drawUnits(moment);
  moment.attacks.forEach((attack) => drawAttack(moment, attack));
  drawBars(moment);
  drawShown(moment);
  drawOutcome(moment);
}
