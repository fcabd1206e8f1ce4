// Pages of a table joined to one, in columns.
export type Columns = Record<string, unknown[]>;

export interface Held {
  columns: Columns;
  next: string | null;
}

export function joined(one: Held, other: Held): Held {
  const columns: Columns = {};
  for (const name of Object.keys(one.columns)) columns[name] = one.columns[name]!.concat(other.columns[name]!);
  return { columns, next: other.next };
}

// The first page again: what was loaded behind its last row stays, so that no row gets lost between the two.
export function refreshed(old: Held, page: Held): Held {
  if (page.next === null) return page;
  const fresh = new Set(page.columns.id);
  const from = old.columns.id!.indexOf(page.columns.id!.at(-1)) + 1;
  const columns: Columns = {};
  for (const name of Object.keys(page.columns)) {
    const behind = old.columns[name]!.slice(from).filter((_, row) => !fresh.has(old.columns.id![from + row]));
    columns[name] = page.columns[name]!.concat(behind);
  }
  const more = columns.id!.length > page.columns.id!.length;
  return { columns, next: more ? old.next : page.next };
}
