import { type Signal, signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { useLocation } from "wouter-preact";
import type { Header, Timeline } from "../answers";
import { useAnswer } from "../api";
import { count, duration, moment } from "../format";
import { useKeys } from "../keys";
import { Lasted, pathOf, Trouble } from "../parts/basics";
import { type Kind, kindOf, numbersAt, words } from "../states";
import { painted, still } from "../theme";
import { draw, fitted, type Scene, segment, told } from "./draw";
import { AXIS, GROUP, LANE, type Row, Rows, Sight } from "./sight";

const FETCHED = 200; // runs of the open group
const PAUSE = 120; // ms without a movement, before what is seen is asked for
const EMPTY: Timeline = {
  begin: null,
  end: null,
  from: 0,
  to: 1,
  bin: 1,
  states: [],
  groups: { columns: { group: [], place: [], kind: [], name: [], total: [], begin: [], end: [] }, bins: [] },
  more: 0,
  open: null,
};

interface Wanted {
  from: number | null;
  to: number | null;
  width: number;
  open: string | null;
  first: number;
}

interface Tip {
  x: number;
  y: number;
  lines: string[];
}

export function TimelineView({
  header,
  open,
  onOpen,
}: {
  header: Header;
  open: string | null;
  onOpen: (group: string | null) => void;
}) {
  const { run } = header;
  const live = run.ended === null;
  const [wanted, setWanted] = useState<Wanted | null>(null); // not before the room for the drawing is known
  const asked = { ...wanted, first: wanted?.open ? wanted.first : null, rows: wanted?.open ? FETCHED : null };
  const answer = useAnswer<Timeline>(
    wanted && `api/runs/${run.id}/timeline`,
    asked,
    live ? { view: "timeline", id: run.id } : null,
  );
  const data = answer.data ?? EMPTY;
  return (
    <>
      <Trouble error={answer.error} />
      {answer.data && !data.groups.columns.group.length && <p class="empty">This run has called no task yet.</p>}
      <Chart header={header} data={data} open={open} onOpen={onOpen} onWant={setWanted} />
      {data.more > 0 && <p class="soft">{count(data.more)} further groups are not shown; the task table has all.</p>}
      <Legend data={data} />
      <InWords header={header} data={data} />
    </>
  );
}

interface ChartProps {
  header: Header;
  data: Timeline;
  open: string | null;
  onOpen: (group: string | null) => void;
  onWant: (wanted: Wanted) => void;
}

function Chart({ header, data, open, onOpen, onWant }: ChartProps) {
  const live = header.run.ended === null;
  const scroller = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [, go] = useLocation();
  const start = header.run.started ?? header.run.created;
  const sight = useMemo(() => new Sight(start, header.run.ended ?? Date.now() / 1000), [header.run.id]);
  const cursor = useRef<Row | null>(null);
  const [said, say] = useState("");
  const tip = useMemo(() => signal<Tip | null>(null), []);
  const span = useMemo(() => signal(""), []);

  const groups = data.groups.columns.group;
  const opened = open === null ? -1 : groups.indexOf(open);
  const runs = opened < 0 ? 0 : data.open?.group === open ? data.open.total : data.groups.columns.total[opened]!;
  const rows = new Rows(groups.length, opened, runs);

  const scene = (): Scene => {
    const element = scroller.current!;
    const width = element.clientWidth;
    const now = Date.now() / 1000;
    sight.grow(data.begin ?? start, data.end ?? header.run.ended ?? now);
    return {
      ...{ sight, rows, data, now, width },
      cursor: cursor.current,
      focused: document.activeElement === element,
      scroll: element.scrollTop,
      label: Math.round(Math.min(240, Math.max(104, width * 0.24))),
      height: element.clientHeight,
    };
  };

  const frame = useRef(0);
  const asking = useRef(0);
  const paint = () => {
    if (frame.current) return;
    frame.current = requestAnimationFrame(() => {
      frame.current = 0;
      if (!canvas.current || !scroller.current) return;
      current.current.paint();
    });
  };
  const want = () => {
    clearTimeout(asking.current);
    asking.current = window.setTimeout(() => scroller.current && current.current.want(), PAUSE);
  };
  // What the callbacks that outlive a rendering use: always the latest.
  const current = useRef({ paint: () => {}, want: () => {}, scene });
  current.current = {
    scene,
    paint: () => {
      const now = scene();
      draw(canvas.current!, now);
      span.value = `${duration(sight.from - sight.begin)} to ${duration(Math.min(sight.to, sight.end) - sight.begin)}`;
    },
    want: () => {
      const { width, label } = scene();
      const first = Math.floor((scroller.current!.scrollTop - (opened + 1) * GROUP) / LANE) - 60;
      onWant({
        from: sight.whole ? null : sight.from,
        to: sight.whole ? null : sight.to,
        width: Math.min(600, Math.max(60, Math.round((width - label) / 3))),
        open,
        first: Math.max(0, Math.floor(first / 50) * 50),
      });
    },
  };
  const moved = () => {
    paint();
    want();
  };

  useLayoutEffect(() => current.current.paint());
  useEffect(() => current.current.want(), [open, header.run.id]);
  useEffect(() => painted.subscribe(paint), []);
  useEffect(() => {
    const element = scroller.current!;
    const watcher = new ResizeObserver(moved);
    watcher.observe(element);
    const wheel = (event: WheelEvent) => turned(event, current.current.scene(), element, moved);
    element.addEventListener("wheel", wheel, { passive: false });
    return () => {
      watcher.disconnect();
      element.removeEventListener("wheel", wheel);
      clearTimeout(asking.current);
      cancelAnimationFrame(frame.current);
    };
  }, []);
  useEffect(() => {
    if (!live || still.matches) return;
    const timer = setInterval(() => document.hidden || paint(), 250);
    return () => clearInterval(timer);
  }, [live]);

  const act = (row: Row) => {
    if (row.run < 0) return onOpen(row.group === opened ? null : groups[row.group]!);
    const id = data.open?.columns.id[row.run - data.open.first];
    if (id) go(pathOf(data.groups.columns.kind[row.group]!, id));
  };
  const point = (row: Row) => {
    cursor.current = row;
    const element = scroller.current!;
    const top = rows.top(row);
    const height = row.run < 0 ? GROUP : LANE;
    if (top < element.scrollTop) element.scrollTop = top;
    if (top + height > element.scrollTop + element.clientHeight - AXIS) {
      element.scrollTop = top + height - element.clientHeight + AXIS;
    }
    say(inWords(header, data, row, opened));
    moved();
  };
  const zoom = (factor: number) => {
    sight.zoom(factor);
    moved();
  };
  const pan = (share: number) => {
    sight.pan(sight.length * share);
    moved();
  };
  const whole = () => {
    sight.all();
    moved();
  };
  const keys: Record<string, () => void> = {
    ArrowDown: () => groups.length && point(rows.next(cursor.current)),
    ArrowUp: () => groups.length && point(rows.before(cursor.current)),
    ArrowLeft: () => pan(-0.15),
    ArrowRight: () => pan(0.15),
    Enter: () => cursor.current && act(cursor.current),
    "+": () => zoom(0.6),
    "=": () => zoom(0.6),
    "-": () => zoom(1 / 0.6),
    "0": whole,
    Escape: () => onOpen(null),
  };
  useKeys({ "+": keys["+"]!, "=": keys["="]!, "-": keys["-"]!, "0": whole });
  const drag = useDrag(() => current.current.scene(), moved, point, act, tip);

  return (
    <>
      <div class="controls">
        <button type="button" onClick={() => zoom(0.6)} aria-label="Zoom in">
          +
        </button>
        <button type="button" onClick={() => zoom(1 / 0.6)} aria-label="Zoom out">
          −
        </button>
        <button type="button" onClick={whole}>
          Whole run
        </button>
        <output class="soft">
          {span} of <Lasted from={start} to={header.run.ended} over={!live} />
        </output>
        <span class="soft grow-end">began {moment(start)}</span>
      </div>
      <div class="chart">
        <div
          class="lanes"
          ref={scroller}
          tabIndex={0}
          role="application"
          aria-label={`Timeline of ${header.run.title}`}
          aria-describedby="timeline-help"
          onScroll={moved}
          onKeyDown={(event) => {
            const key = keys[event.key];
            if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
            event.preventDefault();
            key();
          }}
          {...drag}
        >
          <canvas ref={canvas} aria-hidden="true" />
          <div class="spacer" style={{ height: `${rows.height}px` }} />
        </div>
        <TipBox tip={tip} />
      </div>
      <p class="hidden" aria-live="polite">
        {said}
      </p>
      <p class="help" id="timeline-help">
        Drag or arrow keys move; Ctrl and the wheel, the wheel over the time axis, or + and − zoom; a click or Enter
        opens a row.
      </p>
    </>
  );
}

function turned(
  event: WheelEvent,
  { sight, label, width, rows }: Scene,
  element: HTMLElement,
  moved: () => void,
): void {
  const box = element.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
  const scrolls = rows.height + AXIS > element.clientHeight;
  if (sideways) sight.pan(((event.deltaX || event.deltaY) / (width - label)) * sight.length);
  else if (event.ctrlKey || event.metaKey || y < AXIS || (!scrolls && document.activeElement === element)) {
    sight.zoom(
      1.0025 ** Math.max(-120, Math.min(120, event.deltaY)),
      sight.time(Math.max(x, label), label, width - label),
    );
  } else return;
  event.preventDefault();
  moved();
}

// Moving the whole drawing with the pointer; a press without a movement is a click.
function useDrag(
  scene: () => Scene,
  moved: () => void,
  point: (row: Row) => void,
  act: (row: Row) => void,
  tip: Signal<Tip | null>,
) {
  const held = useRef<{ x: number; y: number; far: boolean } | null>(null);
  const placeOf = (event: PointerEvent, element: HTMLElement): [number, number] => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  return {
    onPointerDown: (event: PointerEvent) => {
      if (event.button === 0) held.current = { x: event.clientX, y: event.clientY, far: false };
    },
    onPointerMove: (event: PointerEvent) => {
      const element = event.currentTarget as HTMLElement;
      const { current: hold } = held;
      const now = scene();
      if (!hold) {
        const [x, y] = placeOf(event, element);
        const row = y < AXIS ? null : now.rows.at(y - AXIS + now.scroll);
        const lines = row ? told(now, row, x) : [];
        tip.value = lines.length ? { x, y, lines } : null;
        return;
      }
      const [dx, dy] = [event.clientX - hold.x, event.clientY - hold.y];
      if (!hold.far && Math.abs(dx) + Math.abs(dy) < 5) return;
      if (!hold.far) element.setPointerCapture(event.pointerId);
      now.sight.pan((-dx / (now.width - now.label)) * now.sight.length);
      if (event.pointerType === "mouse") element.scrollTop -= dy;
      held.current = { x: event.clientX, y: event.clientY, far: true };
      tip.value = null;
      moved();
    },
    onPointerUp: (event: PointerEvent) => {
      const clicked = held.current && !held.current.far;
      held.current = null;
      const [, y] = placeOf(event, event.currentTarget as HTMLElement);
      const now = scene();
      const row = y < AXIS ? null : now.rows.at(y - AXIS + now.scroll);
      if (!clicked || !row) return;
      point(row);
      act(row);
    },
    onPointerLeave: () => {
      tip.value = null;
    },
    onPointerCancel: () => {
      held.current = null;
    },
  };
}

function TipBox({ tip }: { tip: Signal<Tip | null> }) {
  const now = tip.value;
  if (!now) return null;
  return (
    <div class="tip" aria-hidden="true" style={{ left: `min(${now.x + 14}px, 100% - 16rem)`, top: `${now.y + 16}px` }}>
      {now.lines.map((line) => (
        <div key={line}>{line}</div>
      ))}
    </div>
  );
}

function inWords(header: Header, data: Timeline, row: Row, opened: number): string {
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
function InWords({ header, data }: { header: Header; data: Timeline }) {
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

function Legend({ data }: { data: Timeline }) {
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
