// A long table of which only the rows on the screen exist. It scrolls with the page; to a screen reader it is a table
// with all its rows. j and k walk over the links of its rows.
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { useKeys } from "../keys";
import { useTop } from "./basics";

export interface Head {
  head: string;
  width?: string; // what the column takes; one without takes the rest
  narrow?: string; // likewise, on narrow screens
  number?: boolean;
  wide?: boolean; // left out on narrow screens
  sort?: string;
  cell: (row: number) => ComponentChildren;
}

export interface Order {
  sort: string;
  direction: "asc" | "desc";
}

interface TableProps {
  caption: string;
  heads: Head[];
  rows: number;
  total?: number; // with those that are not loaded; unknown if left out
  hasMore?: boolean; // there are rows that are not loaded
  onSee?: (first: number, last: number) => void; // these rows are drawn
  order?: Order;
  onOrder?: (order: Order) => void;
  empty: ComponentChildren;
}

const HEIGHT = 30;

export function Table(props: TableProps) {
  const { caption, heads, rows, total, hasMore, order, onOrder, empty } = props;
  const table = useRef<HTMLTableElement>(null);
  const { virtual, items, above, below } = useDrawn(table, props);
  useWalk(table, rows, (row) => virtual.scrollToIndex(row));
  return (
    <>
      <table class="list" ref={table} aria-rowcount={(total ?? (hasMore ? -2 : rows)) + 1} aria-label={caption}>
        <thead>
          <tr aria-rowindex={1}>
            {heads.map((head) => (
              <HeadCell key={head.head} head={head} order={order} onOrder={onOrder} />
            ))}
          </tr>
        </thead>
        <tbody>
          {above > 0 && <Space height={above} />}
          {items.map(({ index }) => (
            <tr key={index} aria-rowindex={index + 2} data-row={index}>
              {heads.map((head) => (
                <td key={head.head} class={classes(head)}>
                  {head.cell(index)}
                </td>
              ))}
            </tr>
          ))}
          {below > 0 && <Space height={below} />}
        </tbody>
      </table>
      {rows === 0 && <p class="empty">{empty}</p>}
    </>
  );
}

// Which rows are drawn, and how high is what is above and below them.
function useDrawn(table: RefObject<HTMLTableElement>, { rows, onSee }: TableProps) {
  const margin = useTop(table) + HEIGHT;
  const virtual = useWindowVirtualizer({
    count: rows,
    estimateSize: () => HEIGHT,
    overscan: 12,
    scrollMargin: margin,
  });
  const items = virtual.getVirtualItems();
  const [first, last] = [items[0], items.at(-1)];
  useEffect(() => {
    if (first && last) onSee?.(first.index, last.index);
  });
  const above = first ? first.start - margin : 0;
  const below = last ? virtual.getTotalSize() - (last.end - margin) : 0;
  return { virtual, items, above, below };
}

// j and k: over the links of the rows, also of those that are not drawn yet.
function useWalk(table: RefObject<HTMLTableElement>, rows: number, show: (row: number) => void): void {
  const cursor = useRef(-1);
  const walk = (step: number) => {
    const at = document.activeElement?.closest("tr[data-row]")?.getAttribute("data-row");
    const next = Math.min(Math.max((at ? Number(at) : cursor.current) + step, 0), rows - 1);
    if (next < 0) return;
    cursor.current = next;
    show(next);
    // the key may have been pressed again by then
    const focus = () =>
      cursor.current === next && table.current?.querySelector<HTMLElement>(`tr[data-row="${next}"] a`)?.focus();
    focus();
    requestAnimationFrame(() => requestAnimationFrame(focus));
  };
  useKeys({ j: () => walk(1), k: () => walk(-1) });
}

const classes = (head: Head) => `${head.number ? "number " : ""}${head.wide ? "wide" : ""}`;

const Space = ({ height }: { height: number }) => (
  <tr aria-hidden="true" class="space" style={{ height: `${height}px` }} />
);

function HeadCell({ head, order, onOrder }: { head: Head; order?: Order; onOrder?: (order: Order) => void }) {
  const style = { "--width": head.width ?? "auto", "--narrow": head.narrow ?? "auto" };
  if (!head.sort || !onOrder) {
    return (
      <th scope="col" class={classes(head)} style={style}>
        {head.head}
      </th>
    );
  }
  const mine = order?.sort === head.sort;
  const up = mine && order.direction === "asc";
  return (
    <th scope="col" class={classes(head)} style={style} aria-sort={mine ? (up ? "ascending" : "descending") : "none"}>
      <button type="button" onClick={() => onOrder({ sort: head.sort!, direction: up ? "desc" : "asc" })}>
        {head.head}
        <span aria-hidden="true" class="arrow">
          {mine ? (up ? " ▲" : " ▼") : ""}
        </span>
      </button>
    </th>
  );
}
