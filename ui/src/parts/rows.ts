// Tables of which the rows are held in columns, stretch by stretch. Pure: no requests, no page.
export type Columns = Record<string, unknown[]>;

export interface Held {
  columns: Columns;
  next: string | null;
}

export const PAGE = 200; // rows of an answer
const MARGIN = 60; // rows above those that are seen
const SOON = 20; // rows before the end of what is held

// `page`: what is behind the first `start` rows, asked for anew. Each row is there once, where it is now; what was
// loaded behind the page stays. Returns also where the page begins: rows can have come into it from above.
export function refreshed(old: Held, page: Held, start: number): { held: Held; start: number } {
  const ids = old.columns.id!;
  const fresh = new Set(page.columns.id);
  const isOld = (_: unknown, row: number) => !fresh.has(ids[row]);
  const last = page.next === null ? -1 : ids.indexOf(page.columns.id!.at(-1), start);
  const behind = last < 0 ? ids.length : last + 1;
  const moved = ids.some((id, row) => (row < start || row >= behind) && fresh.has(id));
  const columns: Columns = {};
  let above = start;
  for (const name of Object.keys(page.columns)) {
    const column = old.columns[name]!;
    let [head, tail] = [start === column.length ? column : column.slice(0, start), column.slice(behind)];
    if (moved) {
      head = head.filter(isOld);
      tail = tail.filter((_, row) => isOld(_, behind + row));
    }
    above = head.length;
    columns[name] = head.concat(page.columns[name]!, tail);
  }
  const isLast = columns.id!.length === above + page.columns.id!.length;
  return { held: { columns, next: isLast ? page.next : old.next }, start: above };
}

// Where the stretch that is asked for next is to begin, if the rows from `first` to `last` are looked at; null: nothing
// is to be asked for. `lasting`: what is held does not change any more.
export function nextStart(
  { first, last, start }: { first: number; last: number; start: number },
  { rows, hasMore, lasting }: { rows: number; hasMore: boolean; lasting: boolean },
): number | null {
  const ends = hasMore && last >= rows - SOON;
  if (lasting) return ends ? rows : null;
  const covered = first >= start && last < start + PAGE && !ends;
  const better = Math.max(0, first - MARGIN);
  return covered || better === start ? null : better;
}

// What an answer calls `next` whose last row is this one: what it is sorted by, and its id.
export function placeOf(columns: Columns, row: number, sort: string): string {
  const value = columns[sort]![row] ?? (sort === "duration" ? -1 : null);
  const bytes = new TextEncoder().encode(JSON.stringify([value, columns.id![row]]));
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");
}
