// The timeline in words: the table behind the canvas, what the row is called that the keyboard has chosen, the legend.
import { useLayoutEffect, useRef } from "preact/hooks";
import type { Header, Timeline } from "../answers";
import { count, duration } from "../format";
import { type Kind, kindOf, numbersAt, words } from "../states";
import { painted } from "../theme";
import { fitted, segment } from "./draw";
import type { Row } from "./sight";

export function inWords(header: Header, data: Timeline, row: Row, opened: number): string {
  if (row.run >= 0) {
    const place = row.run - (data.open?.first ?? 0);
    return `${data.open?.columns.title[place] ?? "being read"}, ${data.open?.columns.state[place] ?? ""}`;
  }
  const name = data.groups.columns.group[row.group]!;
  return `${name}: ${groupWords(header, name)}${row.group === opened ? ", open" : ""}`;
}

function groupWords(header: Header, group: string): string {
  const numbers = numbersAt(header.groups.fates, header.groups.columns.group.indexOf(group));
  return numbers ? words(numbers) : "";
}

// The table behind the canvas, for those who do not see it.
export function InWords({ header, data }: { header: Header; data: Timeline }) {
  const { columns } = data.groups;
  const start = header.run.started ?? header.run.created;
  const after = (time: number | null | undefined) => (time ? `${duration(time - start)} after the start` : "not yet");
  return (
    <div class="hidden">
      <table>
        <caption>The timeline as a table</caption>
        <thead>
          <tr>
            <th scope="col">Task</th>
            <th scope="col">Runs</th>
            <th scope="col">States</th>
            <th scope="col">First start</th>
            <th scope="col">Last end</th>
          </tr>
        </thead>
        <tbody>
          {columns.group.map((group, row) => (
            <tr key={group}>
              <th scope="row">{group}</th>
              <td>{count(columns.total[row]!)}</td>
              <td>{groupWords(header, group)}</td>
              <td>{after(columns.begin[row])}</td>
              <td>{after(columns.end[row])}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {data.open && <OpenInWords data={data} />}
    </div>
  );
}

function OpenInWords({ data }: { data: Timeline }) {
  const { group, columns, segments, first, total } = data.open!;
  const parts: string[][] = columns.id.map(() => []);
  segments.row.forEach((row, place) => {
    const to = segments.to[place];
    parts[row]!.push(`${segments.kind[place]} ${to ? duration(to - segments.from[place]!) : "until now"}`);
  });
  return (
    <table aria-rowcount={total + 1}>
      <caption>Runs of {group}</caption>
      <thead>
        <tr aria-rowindex={1}>
          <th scope="col">Run</th>
          <th scope="col">State</th>
          <th scope="col">Attempts and waits</th>
        </tr>
      </thead>
      <tbody>
        {columns.id.map((id, row) => (
          <tr key={id} aria-rowindex={first + row + 2}>
            <th scope="row">{columns.title[row]}</th>
            <td>{columns.state[row]}</td>
            <td>{parts[row]!.join(", ")}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

const MEANING: [Kind, string][] = [
  ["queued", "waits to be started"],
  ["running", "is running"],
  ["completed", "completed"],
  ["cached", "found in the cache"],
  ["retried", "failed, tried again"],
  ["waiting", "waits to try again"],
  ["failed", "failed"],
  ["crashed", "crashed"],
  ["blocked", "an input failed"],
  ["cancelled", "cancelled"],
];

export function Legend({ data }: { data: Timeline }) {
  const seen = new Set<Kind>();
  for (const bins of data.groups.bins) for (const state of bins.state) seen.add(kindOf(data.states[state]!));
  for (const kind of data.open?.segments.kind ?? []) seen.add(kindOf(kind));
  return (
    <ul class="legend" aria-label="what the colours mean">
      {MEANING.filter(([kind]) => seen.has(kind)).map(([kind, meaning]) => (
        <li key={kind}>
          <Swatch kind={kind} />
          {meaning}
        </li>
      ))}
    </ul>
  );
}

// A piece of the drawing itself, so that shapes mean what they mean there.
function Swatch({ kind }: { kind: Kind }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const times = painted.value;
  useLayoutEffect(() => {
    const pen = fitted(canvas.current!, 24, 12);
    const instant = kind === "cached" || kind === "blocked";
    segment(pen, kind, instant ? 12 : 1, 1, instant ? 0 : 18, 10);
  }, [kind, times]);
  return <canvas ref={canvas} aria-hidden="true" />;
}
