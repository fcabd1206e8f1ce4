// The lines of a log that the page holds: as many as it can show quickly, and where there are more.
import type { LineColumns } from "../answers";

const MOST = 20_000;

export const NONE: LineColumns = {
  seq: [],
  time: [],
  level: [],
  logger: [],
  message: [],
  run_id: [],
  title: [],
  name: [],
};

export interface Window {
  columns: LineColumns;
  before: number | null;
  after: number | null; // null: the lines reach to the end of the log
}

type Names = keyof LineColumns;

function each(make: (name: Names) => unknown[]): LineColumns {
  return Object.fromEntries(Object.keys(NONE).map((name) => [name, make(name as Names)])) as unknown as LineColumns;
}

export function behind(held: Window, columns: LineColumns, after: number | null): Window {
  const last = held.columns.seq.at(-1) ?? -1;
  const skip = columns.seq.findIndex((seq) => seq > last);
  if (skip < 0) return { ...held, after };
  const all = each((name) => [...held.columns[name], ...columns[name].slice(skip)]);
  const extra = all.seq.length - MOST;
  if (extra <= 0) return { columns: all, before: held.before, after };
  const kept = each((name) => all[name].slice(extra));
  return { columns: kept, before: kept.seq[0]!, after };
}

export function inFront(held: Window, columns: LineColumns, before: number | null): Window {
  const all = each((name) => [...columns[name], ...held.columns[name]]);
  if (all.seq.length <= MOST) return { columns: all, before, after: held.after };
  const kept = each((name) => all[name].slice(0, MOST));
  return { columns: kept, before, after: kept.seq.at(-1)! };
}

// By how many places the lines that were there have moved: up if some in front of them were given up.
export function moved(old: Window, now: Window): number {
  const [first, last] = [old.columns.seq[0], old.columns.seq.at(-1)];
  const stayed = last !== undefined && now.columns.seq.includes(last) ? last : first;
  const place = stayed === undefined ? -1 : now.columns.seq.indexOf(stayed);
  return place < 0 ? 0 : place - old.columns.seq.indexOf(stayed!);
}
