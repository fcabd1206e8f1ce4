// The drawing of the timeline: what can be seen of it, and nothing else.
import type { Opened, Timeline } from "../answers";
import { count, duration, ending, niceStep, offset } from "../format";
import { type Kind, kindOf } from "../states";
import { colour } from "../theme";
import { AXIS, GROUP, LANE, type Row, type Rows, type Sight } from "./sight";

export interface Scene {
  sight: Sight;
  rows: Rows;
  data: Timeline;
  cursor: Row | null;
  focused: boolean;
  scroll: number;
  now: number;
  label: number; // width of the names
  width: number;
  height: number;
}

export type Pen = CanvasRenderingContext2D;

export function fitted(canvas: HTMLCanvasElement, width: number, height: number): Pen {
  const scale = devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d")!;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

export function draw(canvas: HTMLCanvasElement, scene: Scene): void {
  const pen = fitted(canvas, scene.width, scene.height);
  const plot = scene.width - scene.label;
  grid(pen, scene, plot);
  pen.save();
  pen.beginPath();
  pen.rect(0, AXIS, scene.width, scene.height - AXIS);
  pen.clip();
  const opened = scene.data.open;
  for (let group = 0; group < scene.rows.groups; group++) {
    const y = AXIS + scene.rows.top({ group, run: -1 }) - scene.scroll;
    if (y < scene.height && y + GROUP > AXIS) groupRow(pen, scene, group, y, plot);
  }
  if (scene.rows.open >= 0) {
    const first = Math.max(0, Math.floor((scene.scroll - (scene.rows.open + 1) * GROUP) / LANE));
    const last = Math.min(scene.rows.runs, first + Math.ceil((scene.height + GROUP) / LANE) + 1);
    runRows(pen, scene, opened, first, last, plot);
  }
  pen.restore();
  line(pen, scene.label - 0.5, 0, scene.label - 0.5, scene.height, "line");
}

function line(pen: Pen, x: number, y: number, toX: number, toY: number, name: string): void {
  pen.strokeStyle = colour(name);
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(toX, toY);
  pen.stroke();
}

const font = (pen: Pen, size = 12, weight = "") => {
  pen.font = `${weight} ${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
};

function grid(pen: Pen, { sight, label, width, height }: Scene, plot: number): void {
  pen.fillStyle = colour("panel");
  pen.fillRect(0, 0, width, AXIS);
  font(pen, 11);
  pen.fillStyle = colour("soft");
  pen.textAlign = "left";
  const step = niceStep((sight.length / plot) * 90);
  const first = Math.ceil((sight.from - sight.begin) / step);
  for (let mark = first; sight.begin + mark * step <= sight.to; mark++) {
    const x = Math.round(sight.x(sight.begin + mark * step, label, plot)) + 0.5;
    line(pen, x, AXIS, x, height, "grid");
    const said = offset(mark * step, step);
    if (x >= label && x + pen.measureText(said).width < width - 4) pen.fillText(said, x + 4, AXIS / 2);
    line(pen, x, AXIS - 6, x, AXIS, "line");
  }
  line(pen, 0, AXIS - 0.5, width, AXIS - 0.5, "line");
}

function ground(pen: Pen, scene: Scene, row: Row, y: number, height: number): void {
  const { cursor } = scene;
  const chosen = cursor && cursor.group === row.group && cursor.run === row.run;
  if (chosen) {
    pen.fillStyle = colour("chosen");
    pen.fillRect(0, y, scene.width, height);
  }
}

// As much of a text as fits.
export function cut(pen: Pen, text: string, width: number): string {
  if (pen.measureText(text).width <= width) return text;
  let length = Math.max(2, Math.floor((text.length * width) / pen.measureText(text).width));
  while (length > 2 && pen.measureText(ending(text, length)).width > width) length--;
  return ending(text, length);
}

// --- groups ---------------------------------------------------------------------------------------------------------

function groupRow(pen: Pen, scene: Scene, group: number, y: number, plot: number): void {
  ground(pen, scene, { group, run: -1 }, y, GROUP);
  const { columns } = scene.data.groups;
  const middle = y + GROUP / 2;
  font(pen, 12, "600");
  const total = count(columns.total[group]!);
  const room = pen.measureText(total).width + 14;
  pen.textAlign = "left";
  pen.fillStyle = colour("text");
  triangle(pen, 10, middle, group === scene.rows.open);
  pen.fillText(cut(pen, scene.data.groups.columns.group[group]!, scene.label - 24 - room), 20, middle);
  font(pen, 11);
  pen.fillStyle = colour("soft");
  pen.textAlign = "right";
  pen.fillText(total, scene.label - 8, middle);
  pen.save();
  pen.beginPath();
  pen.rect(scene.label, y, plot, GROUP);
  pen.clip();
  density(pen, scene, group, y + 3, GROUP - 6, plot);
  pen.restore();
  line(pen, 0, y + GROUP - 0.5, scene.width, y + GROUP - 0.5, "grid");
}

function triangle(pen: Pen, x: number, y: number, open: boolean): void {
  pen.beginPath();
  if (open) {
    pen.moveTo(x - 4, y - 2);
    pen.lineTo(x + 4, y - 2);
    pen.lineTo(x, y + 3);
  } else {
    pen.moveTo(x - 2, y - 4);
    pen.lineTo(x + 3, y);
    pen.lineTo(x - 2, y + 4);
  }
  pen.fill();
}

// From the bottom of a column to its top. What queues is a line below; what takes no time is a mark.
const STACK: Kind[] = ["completed", "running", "cancelled", "retried", "failed", "crashed", "cached", "blocked"];
const INSTANT = new Set<Kind>(["cached", "blocked", "failed", "crashed", "cancelled"]);

type Bins = Timeline["groups"]["bins"][number];

// Where there are many cells, each stands for several bins.
const lengthOf = ({ bin, groups }: Timeline) => bin * groups.joined;

// How many were at work at once in each bin, the height is shared by their states.
function density(pen: Pen, scene: Scene, group: number, y: number, height: number, plot: number): void {
  const { data, sight, label } = scene;
  const bins = data.groups.bins[group]!;
  const kinds = data.states.map(kindOf);
  const length = lengthOf(data);
  const most = mostAtOnce(bins, kinds, length);
  const filled = new Map<number, number>();
  // Whole pixels: there must be no seams between bins.
  const edge = (bin: number) => Math.round(sight.x(data.from + bin * length, label, plot));
  if (data.groups.columns.end[group] === null) goingOn(pen, scene, bins, y + height, (height - 4) / most);
  const order = Array.from(bins.bin, (_, cell) => cell).sort(
    (one, other) => STACK.indexOf(kinds[bins.state[one]!]!) - STACK.indexOf(kinds[bins.state[other]!]!),
  );
  for (const cell of order) {
    const kind = kinds[bins.state[cell]!]!;
    const x = edge(bins.bin[cell]!);
    const width = Math.max(1, edge(bins.bin[cell]! + 1) - x);
    if (x + width < label || x > label + plot) continue;
    pen.fillStyle = colour(kind);
    if (kind === "queued") {
      pen.fillRect(x, y + height, width, 2);
      continue;
    }
    const before = filled.get(bins.bin[cell]!) ?? 0;
    const least = INSTANT.has(kind) ? 4 : 1;
    const part = Math.max(least, (bins.busy[cell]! / length / most) * (height - 4));
    const top = Math.max(y, y + height - before - part);
    const bottom = y + height - Math.min(before, height - part);
    pen.fillRect(x, top, width, bottom - top);
    for (const lean of LEAN[kind] ?? []) hatched(pen, x, top, width, bottom - top, lean);
    filled.set(bins.bin[cell]!, before + part);
  }
}

// From the last bin in which something was running or queued until now: it is told again only when something has happened.
function goingOn(pen: Pen, { data, sight, label, width, now }: Scene, bins: Bins, ground: number, unit: number): void {
  const lastOf = (kind: Kind) => bins.bin.findLastIndex((_, cell) => data.states[bins.state[cell]!] === kind);
  const x = (time: number) => Math.round(sight.x(time, label, width - label));
  const [running, queued] = [lastOf("running"), lastOf("queued")];
  const begin = bins.bin[running];
  if (begin === undefined) return;
  const [from, to] = [x(data.from + begin * lengthOf(data)), x(Math.min(now, sight.to))];
  const part = bins.number[running]! * unit;
  pen.fillStyle = colour("running");
  pen.fillRect(from, ground - part, Math.max(0, to - from), part);
  hatched(pen, from, ground - part, Math.max(0, to - from), part, 0);
  if ((bins.bin[queued] ?? -1) < begin) return;
  pen.fillStyle = colour("queued");
  pen.fillRect(from, ground, Math.max(0, to - from), 2);
}

function mostAtOnce(bins: Bins, kinds: Kind[], length: number): number {
  const sums = new Map<number, number>();
  let most = 1e-9;
  for (let cell = 0; cell < bins.bin.length; cell++) {
    if (kinds[bins.state[cell]!] === "queued") continue;
    const sum = (sums.get(bins.bin[cell]!) ?? 0) + bins.busy[cell]! / length;
    sums.set(bins.bin[cell]!, sum);
    if (sum > most) most = sum;
  }
  return Math.max(most, 0.05);
}

// --- runs -----------------------------------------------------------------------------------------------------------

function runRows(pen: Pen, scene: Scene, opened: Opened | null, first: number, last: number, plot: number): void {
  const base = AXIS + (scene.rows.open + 1) * GROUP - scene.scroll;
  const have = opened && opened.group === scene.data.groups.columns.group[scene.rows.open] ? opened : null;
  for (let run = first; run < last; run++) {
    const y = base + run * LANE;
    ground(pen, scene, { group: scene.rows.open, run }, y, LANE);
    font(pen, 11.5);
    pen.textAlign = "left";
    const place = have ? run - have.first : -1;
    const title = have?.columns.title[place];
    pen.fillStyle = colour(title === undefined ? "soft" : "text");
    pen.fillText(cut(pen, title ?? "…", scene.label - 34), 28, y + LANE / 2);
  }
  if (!have) return;
  pen.save();
  pen.beginPath();
  pen.rect(scene.label, AXIS, plot, scene.height);
  pen.clip();
  const { row, kind, from, to } = have.segments;
  for (let place = 0; place < row.length; place++) {
    const run = have.first + row[place]!;
    if (run < first || run >= last) continue;
    const x = scene.sight.x(from[place]!, scene.label, plot);
    const end = scene.sight.x(to[place] ?? scene.now, scene.label, plot);
    if (end < scene.label - 12 || x > scene.label + plot) continue;
    const left = Math.max(x, scene.label - 20); // a bar of a million pixels is drawn slowly
    segment(pen, kindOf(kind[place]!), left, base + run * LANE + 4, Math.min(end, scene.width + 20) - left, LANE - 8);
  }
  pen.restore();
}

// What ran is a bar, what waited a line; each kind differs by its shape, too.
export function segment(pen: Pen, kind: Kind, x: number, y: number, width: number, height: number): void {
  pen.fillStyle = pen.strokeStyle = colour(kind);
  const middle = y + height / 2;
  if (kind === "queued" || kind === "pending") stroke(pen, x, middle, width, 1.5, [2, 3]);
  else if (kind === "waiting") stroke(pen, x, middle, width, 2, [6, 3]);
  else if (kind === "cached" && width < 2) diamond(pen, x, middle, height / 2);
  else if (kind === "blocked" && width < 2) {
    pen.lineWidth = 1.5;
    pen.strokeRect(x - 3.5, middle - 3.5, 7, 7);
  } else bar(pen, kind, x, y, Math.max(width, 2), height);
}

function bar(pen: Pen, kind: Kind, x: number, y: number, width: number, height: number): void {
  if (kind === "retried") {
    pen.fillRect(x, y + 2, width, height - 4);
    hatched(pen, x, y + 2, width, height - 4, -1);
    return;
  }
  pen.fillRect(x, y, width, height);
  for (const lean of LEAN[kind] ?? []) hatched(pen, x, y, width, height, lean);
  if (kind === "cancelled") {
    pen.fillStyle = colour("page");
    pen.fillRect(x + 1, y + height / 2 - 1, Math.max(0, width - 2), 2);
  }
  if (kind === "running") {
    pen.beginPath();
    pen.moveTo(x + width, y);
    pen.lineTo(x + width + 5, y + height / 2);
    pen.lineTo(x + width, y + height);
    pen.fill();
  }
}

function stroke(pen: Pen, x: number, y: number, width: number, thickness: number, dash: number[]): void {
  pen.beginPath();
  pen.setLineDash(dash);
  pen.lineWidth = thickness;
  pen.moveTo(x, y);
  pen.lineTo(x + Math.max(width, 1), y);
  pen.stroke();
  pen.setLineDash([]);
}

function diamond(pen: Pen, x: number, y: number, size: number): void {
  pen.beginPath();
  pen.moveTo(x, y - size);
  pen.lineTo(x + size, y);
  pen.lineTo(x, y + size);
  pen.lineTo(x - size, y);
  pen.fill();
}

const TILE = 6;
const tiles = new Map<string, CanvasPattern>();

// Which lines go across what is filled: `1` leans to the right, `-1` to the left, 0 lies flat.
const LEAN: Partial<Record<Kind, number[]>> = { failed: [1], crashed: [1, -1], retried: [-1], running: [0] };

// A pattern, so that neighbours fit together.
export function hatched(pen: Pen, x: number, y: number, width: number, height: number, lean: number): void {
  const name = `${colour("page")} ${lean}`;
  let tile = tiles.get(name);
  if (!tile) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = TILE * 4;
    const drawn = canvas.getContext("2d")!;
    drawn.scale(4, 4);
    drawn.strokeStyle = colour("page");
    drawn.lineWidth = lean ? 1.2 : 1;
    for (let at = -TILE; at <= 2 * TILE; at += lean ? TILE : TILE / 2) {
      drawn.moveTo(lean ? at : 0, lean ? (lean > 0 ? TILE : 0) : at + 1);
      drawn.lineTo(lean ? at + TILE : TILE, lean ? (lean > 0 ? 0 : TILE) : at + 1);
    }
    drawn.stroke();
    tile = pen.createPattern(canvas, "repeat")!;
    tile.setTransform(new DOMMatrix().scale(0.25));
    tiles.set(name, tile);
  }
  pen.fillStyle = tile;
  pen.fillRect(x, y, width, height);
}

// --- in words -------------------------------------------------------------------------------------------------------

// What is to be said about the place under the pointer.
export function told(scene: Scene, row: Row, x: number): string[] {
  const plot = scene.width - scene.label;
  const time = scene.sight.time(x, scene.label, plot);
  return row.run < 0 ? toldOfGroup(scene, row.group, x, time) : toldOfRun(scene, row.run, x, time);
}

function toldOfGroup({ data, sight, label }: Scene, group: number, x: number, time: number): string[] {
  const title = `${data.groups.columns.group[group]} · ${count(data.groups.columns.total[group]!)} runs`;
  if (x < label) return [title];
  const bins = data.groups.bins[group]!;
  const length = lengthOf(data);
  const bin = Math.floor((time - data.from) / length);
  const said = [];
  for (let cell = 0; cell < bins.bin.length; cell++) {
    if (bins.bin[cell] === bin) said.push(`${count(bins.number[cell]!)} ${data.states[bins.state[cell]!]}`);
  }
  const begin = duration(data.from + bin * length - sight.begin);
  return [title, `${duration(length)} from ${begin} on: ${said.join(", ") || "nothing"}`];
}

function toldOfRun({ data, rows, now, label }: Scene, run: number, x: number, time: number): string[] {
  const opened = data.open;
  if (!opened || opened.group !== data.groups.columns.group[rows.open]) return [];
  const place = run - opened.first;
  const title = opened.columns.title[place];
  if (title === undefined) return [];
  const lines = [`${title} · ${opened.columns.state[place]}`];
  if (x < label) return lines;
  const { row, kind, from, to } = opened.segments;
  for (let at = 0; at < row.length; at++) {
    const end = to[at] ?? now;
    if (row[at] === place && time >= from[at]! && time <= end) lines.push(`${kind[at]} ${duration(end - from[at]!)}`);
  }
  return lines;
}
