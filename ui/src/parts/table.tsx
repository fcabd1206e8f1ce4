// A long table of which only the rows on the screen exist. It scrolls with the page; to a screen reader it is a table
// with all its rows. j and k walk over the links of its rows.
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { useKeys } from "../keys";

export interface Head {
  head: string;
  width?: string; // what the column takes; one without takes the rest
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
  more?: (() => void) | null; // load the next page; null: there is none
  order?: Order;
  onOrder?: (order: Order) => void;
  empty: ComponentChildren;
}

const HEIGHT = 30;

export function Table({ caption, heads, rows, total, more, order, onOrder, empty }: TableProps) {
  const table = useRef<HTMLTableElement>(null);
  const [margin, setMargin] = useState(0);
  const cursor = useRef(-1);
  useLayoutEffect(() => {
    const top = Math.round((table.current?.getBoundingClientRect().top ?? 0) + scrollY);
    if (top !== margin) setMargin(top);
  });
  const virtual = useWindowVirtualizer({
    count: rows,
    estimateSize: () => HEIGHT,
    overscan: 12,
    scrollMargin: margin + HEIGHT,
  });
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? -1;
  useEffect(() => {
    if (more && last >= rows - 20) more();
  }, [more, last, rows]);

  const walk = (step: number) => {
    const at = document.activeElement?.closest("tr[data-row]")?.getAttribute("data-row");
    const next = Math.min(Math.max((at ? Number(at) : cursor.current) + step, 0), rows - 1);
    if (next < 0) return;
    cursor.current = next;
    virtual.scrollToIndex(next);
    const focus = () => table.current?.querySelector<HTMLElement>(`tr[data-row="${next}"] a`)?.focus();
    focus();
    requestAnimationFrame(() => requestAnimationFrame(focus));
  };
  useKeys({ j: () => walk(1), k: () => walk(-1) });

  const above = items.length ? items[0]!.start - margin - HEIGHT : 0;
  const below = items.length ? virtual.getTotalSize() - (items.at(-1)!.end - margin - HEIGHT) : 0;
  return (
    <>
      <table class="list" ref={table} aria-rowcount={(total ?? (more ? -2 : rows)) + 1} aria-label={caption}>
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

const classes = (head: Head) => `${head.number ? "number " : ""}${head.wide ? "wide" : ""}`;

const Space = ({ height }: { height: number }) => (
  <tr aria-hidden="true" class="space" style={{ height: `${height}px` }} />
);

function HeadCell({ head, order, onOrder }: { head: Head; order?: Order; onOrder?: (order: Order) => void }) {
  const style = { "--width": head.width ?? "auto" }; // narrow screens share the width out anew
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
