// The canvas of the timeline, and what can be done with it.
import { type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { useLocation } from "wouter-preact";
import type { Header, Timeline } from "../answers";
import { duration, moment, sofar } from "../format";
import { useKeys } from "../keys";
import { isOver, Lasted, pathOf } from "../parts/basics";
import { painted, still } from "../theme";
import { draw, type Scene } from "./draw";
import { type Tip, turned, useDrag } from "./pointer";
import { AXIS, GROUP, LANE, type Row, Rows, Sight } from "./sight";
import { inWords } from "./words";

const PAUSE = 120; // ms without a movement, before what is seen is asked for
const STEP = 0.6; // of a zoom

// What is to be asked for; no times: the whole run.
export interface Wanted {
  from: number | null;
  to: number | null;
  width: number;
  open: string | null;
  first: number;
}

export interface ChartProps {
  header: Header;
  data: Timeline;
  open: string | null;
  onOpen: (group: string | null) => void;
  onWant: (wanted: Wanted) => void;
}

export function Chart(props: ChartProps) {
  const { header } = props;
  const stage = useStage(props);
  const span = useMemo(() => signal(""), []);
  const tip = useMemo(() => signal<Tip | null>(null), []);
  const moved = useMovement(stage, props, span);
  const [said, point] = usePointing(stage, props, moved);
  const act = useActing(stage, props);
  const keys = useTimelineKeys({ stage, props, moved, point, act });
  const click = (row: Row) => {
    point(row);
    act(row);
  };
  const drag = useDrag({ scene: stage.scene, moved, click, tip });
  return (
    <>
      <Controls header={header} keys={keys} span={span} />
      <div class="chart">
        <div
          class="lanes"
          ref={stage.scroller}
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
          <canvas ref={stage.canvas} aria-hidden="true" />
          <div class="spacer" style={{ height: `${stage.rows.height}px` }} />
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

const startOf = ({ run }: Header) => run.started ?? run.created;

// A reference to what is true in the latest rendering, for callbacks that outlive theirs.
function useLatest<T>(value: T): { readonly current: T } {
  const latest = useRef(value);
  latest.current = value;
  return latest;
}

// --- what is where ----------------------------------------------------------------------------------------------------

type Stage = ReturnType<typeof useStage>;

function useStage({ header, data, open }: ChartProps) {
  const scroller = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const cursor = useRef<Row | null>(null);
  const start = startOf(header);
  const sight = useMemo(() => new Sight(start, header.run.ended ?? Date.now() / 1000), [header.run.id]);
  const groups = data.groups.columns.group;
  const opened = open === null ? -1 : groups.indexOf(open);
  const runs = opened < 0 ? 0 : data.open?.group === open ? data.open.total : data.groups.columns.total[opened]!;
  const rows = new Rows(groups.length, opened, runs);
  const scene = (): Scene => {
    const element = scroller.current!;
    const width = element.clientWidth;
    const now = Date.now() / 1000;
    sight.grow(start, data.end ?? header.run.ended ?? now);
    return {
      ...{ sight, rows, data, now, width },
      cursor: cursor.current,
      focused: document.activeElement === element,
      scroll: element.scrollTop,
      label: Math.round(Math.min(240, Math.max(104, width * 0.24))),
      height: element.clientHeight,
    };
  };
  return { scroller, canvas, cursor, sight, groups, opened, rows, scene };
}

// --- drawing, and asking for what is seen -----------------------------------------------------------------------------

// Returns what is to be called after each movement: it draws at once, and asks when there was none for a moment.
function useMovement(stage: Stage, { header, open, onWant }: ChartProps, span: Signal<string>): () => void {
  const latest = useLatest({ stage, open, onWant, ended: header.run.ended });
  const live = header.run.ended === null;
  const waiting = useRef({ frame: 0, asking: 0 }).current;
  const paintNow = () => {
    const { canvas, scroller, sight, scene } = latest.current.stage;
    if (!canvas.current || !scroller.current) return;
    draw(canvas.current, scene());
    const said = live ? sofar : duration;
    const end = latest.current.ended ?? sight.end; // what is drawn has some length at least
    span.value = `${duration(sight.from - sight.begin)} to ${said(Math.min(sight.to, end) - sight.begin)}`;
  };
  const paint = () => {
    waiting.frame ||= requestAnimationFrame(() => {
      waiting.frame = 0;
      paintNow();
    });
  };
  const wantNow = () => latest.current.onWant(wantedOf(latest.current.stage, latest.current.open));
  const moved = () => {
    paint();
    clearTimeout(waiting.asking);
    waiting.asking = window.setTimeout(() => latest.current.stage.scroller.current && wantNow(), PAUSE);
  };
  useLayoutEffect(paintNow);
  useEffect(wantNow, [open, header.run.id]);
  useEffect(() => painted.subscribe(paint), []);
  useEffect(() => {
    const { scroller } = stage;
    const stop = watched(scroller.current!, () => latest.current.stage.scene(), moved);
    return () => {
      stop();
      clearTimeout(waiting.asking);
      cancelAnimationFrame(waiting.frame);
    };
  }, []);
  useEffect(() => {
    if (!live || still.matches) return;
    let timer = 0;
    const tick = () => {
      if (!document.hidden) paint();
      timer = window.setTimeout(tick, pixelOf(latest.current.stage));
    };
    tick();
    return () => clearTimeout(timer);
  }, [live]);
  return moved;
}

// How long it takes until now is one pixel farther to the right, in milliseconds; twice a second is enough for the eye.
const pixelOf = ({ sight, scroller }: Stage) =>
  Math.min(2000, Math.max(500, (sight.length / (scroller.current?.clientWidth || 1000)) * 1000));

function wantedOf({ scene, scroller, opened, sight }: Stage, open: string | null): Wanted {
  const { width, label } = scene();
  const first = Math.floor((scroller.current!.scrollTop - (opened + 1) * GROUP) / LANE) - 60;
  return {
    from: sight.whole ? null : sight.from,
    to: sight.whole ? null : sight.to,
    width: Math.min(600, Math.max(60, Math.round((width - label) / 3))),
    open,
    first: Math.max(0, Math.floor(first / 50) * 50),
  };
}

// The size of the drawing, and the wheel over it.
function watched(element: HTMLElement, scene: () => Scene, moved: () => void): () => void {
  const watcher = new ResizeObserver(moved);
  watcher.observe(element);
  const wheel = (event: WheelEvent) => turned(event, scene(), element, moved);
  element.addEventListener("wheel", wheel, { passive: false });
  return () => {
    watcher.disconnect();
    element.removeEventListener("wheel", wheel);
  };
}

// --- doing ------------------------------------------------------------------------------------------------------------

// Choosing a row: it comes into view, and is told.
function usePointing(stage: Stage, { header, data }: ChartProps, moved: () => void): [string, (row: Row) => void] {
  const [said, say] = useState("");
  const point = (row: Row) => {
    const { cursor, scroller, rows, opened } = stage;
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
  return [said, point];
}

// A group opens and closes, a run is gone to.
function useActing({ groups, opened }: Stage, { data, onOpen }: ChartProps): (row: Row) => void {
  const [, go] = useLocation();
  return (row) => {
    if (row.run < 0) return onOpen(row.group === opened ? null : groups[row.group]!);
    const id = data.open?.columns.id[row.run - data.open.first];
    if (id) go(pathOf(data.groups.columns.kind[row.group]!, id));
  };
}

interface Doing {
  stage: Stage;
  props: ChartProps;
  moved: () => void;
  point: (row: Row) => void;
  act: (row: Row) => void;
}

// What the keys do while the timeline has the focus; those for zooming do it always.
function useTimelineKeys({ stage, props, moved, point, act }: Doing): Record<string, () => void> {
  const { sight, cursor, rows, groups } = stage;
  const then = (movement: () => void) => () => {
    movement();
    moved();
  };
  const zooming = {
    "+": then(() => sight.zoom(STEP)),
    "=": then(() => sight.zoom(STEP)),
    "-": then(() => sight.zoom(1 / STEP)),
    "0": then(() => sight.all()),
  };
  useKeys(zooming);
  return {
    ...zooming,
    ArrowDown: () => groups.length && point(rows.next(cursor.current)),
    ArrowUp: () => groups.length && point(rows.before(cursor.current)),
    ArrowLeft: then(() => sight.pan(sight.length * -0.15)),
    ArrowRight: then(() => sight.pan(sight.length * 0.15)),
    Enter: () => cursor.current && act(cursor.current),
    Escape: () => props.onOpen(null),
  };
}

interface ControlsProps {
  header: Header;
  keys: Record<string, () => void>;
  span: ReadonlySignal<string>;
}

function Controls({ header, keys, span }: ControlsProps) {
  const start = startOf(header);
  return (
    <div class="controls">
      <button type="button" onClick={keys["+"]} aria-label="Zoom in">
        +
      </button>
      <button type="button" onClick={keys["-"]} aria-label="Zoom out">
        −
      </button>
      <button type="button" onClick={keys["0"]}>
        Whole run
      </button>
      <output class="soft">
        {span} of <Lasted from={start} to={header.run.ended} over={isOver(header.run)} />
      </output>
      <span class="soft grow-end">began {moment(start)}</span>
    </div>
  );
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
