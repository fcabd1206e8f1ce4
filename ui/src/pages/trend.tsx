// How long the runs of a flow took, one after the other.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { useLocation } from "wouter-preact";
import type { Flow } from "../answers";
import { brief, duration } from "../format";
import { runPath } from "../parts/basics";
import { type Kind, kindOf } from "../states";
import { colour, painted } from "../theme";

const HEIGHT = 190;
const SHOWN: Kind[] = ["completed", "failed", "crashed", "cancelled", "running"];

// A column of durations for each fate, over the number of the run: the oldest is the first.
function seriesOf(flow: Flow): (number | null)[][] {
  const { fate, started, ended } = flow.runs.columns;
  const order = fate.map((_, run) => run).reverse();
  const lasted = order.map((run) => (started[run] === null ? null : (ended[run] ?? Date.now() / 1000) - started[run]!));
  return [
    order.map((_, place) => place),
    lasted,
    ...SHOWN.map((kind) => lasted.map((value, place) => (kindOf(fate[order[place]!]!) === kind ? value : null))),
  ];
}

export default function Trend({ flow }: { flow: Flow }) {
  const place = useRef<HTMLDivElement>(null);
  const [, go] = useLocation();
  useEffect(() => {
    const element = place.current!;
    let plot: uPlot | null = null;
    const make = () => {
      plot?.destroy();
      plot = new uPlot(optionsOf(flow, element.clientWidth), seriesOf(flow) as uPlot.AlignedData, element);
    };
    make();
    const stop = painted.subscribe(() => plot && make());
    const watcher = new ResizeObserver(() => plot?.setSize({ width: element.clientWidth, height: HEIGHT }));
    watcher.observe(element);
    const open = () => {
      const at = plot?.cursor.idx;
      const id = typeof at === "number" ? flow.runs.columns.id[flow.runs.columns.id.length - 1 - at] : undefined;
      if (id) go(runPath(id));
    };
    element.addEventListener("click", open);
    return () => {
      stop();
      watcher.disconnect();
      element.removeEventListener("click", open);
      plot?.destroy();
    };
  }, [flow]);
  return <div class="trend" ref={place} aria-hidden="true" />;
}

function optionsOf(flow: Flow, width: number): uPlot.Options {
  const { created, run_name, state } = flow.runs.columns;
  const last = created.length - 1;
  const axis = {
    stroke: colour("soft"),
    grid: { stroke: colour("grid"), width: 1 },
    ticks: { stroke: colour("line"), width: 1, size: 4 },
    font: "11px system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    padding: [10, 34, 0, 0],
    scales: { x: { time: false }, y: { range: (_, __, most) => [0, (most || 1) * 1.08] } },
    cursor: { y: false, drag: { x: false, y: false } },
    legend: { show: true, live: true },
    axes: [
      {
        ...axis,
        values: (_, at) =>
          at.map((run) => (Number.isInteger(run) && created[last - run] ? brief(created[last - run]) : "")),
        space: 110,
        size: 28,
      },
      { ...axis, values: (_, at) => at.map((value) => duration(value)), size: 78 },
    ],
    series: [
      { label: "Run", value: (_, run) => (run === null ? "-" : `${run_name[last - run]} · ${state[last - run]}`) },
      {
        label: "Duration",
        stroke: colour("line"),
        width: 1,
        points: { show: false },
        value: (_, value) => duration(value),
      },
      ...SHOWN.map((kind) => ({
        label: kind,
        stroke: colour(kind),
        fill: kind === "completed" ? colour("page") : colour(kind),
        paths: () => null,
        points: {
          show: true,
          size: kind === "completed" ? 6 : 8,
          stroke: colour(kind),
          fill: kind === "completed" ? colour("page") : colour(kind),
        },
        value: (_: uPlot, value: number | null) => duration(value),
      })),
    ],
  };
}
