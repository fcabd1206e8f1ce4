// How long the runs of a flow took, one after the other. Each is drawn by the sign of what has become of it.
import type { RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { useLocation } from "wouter-preact";
import type { Flow } from "../answers";
import { brief, duration } from "../format";
import { runPath } from "../parts/basics";
import { type Kind, kindOf, traced } from "../states";
import { colour, painted } from "../theme";

const HEIGHT = 190;

export default function Trend({ flow }: { flow: Flow }) {
  const place = useRef<HTMLDivElement>(null);
  useChart(place, flow);
  return <div class="trend" ref={place} aria-hidden="true" />;
}

function useChart(place: RefObject<HTMLDivElement>, flow: Flow): void {
  const [, go] = useLocation();
  useEffect(() => {
    const element = place.current!;
    let plot: uPlot | null = null;
    const make = () => {
      plot?.destroy();
      plot = new uPlot(optionsOf(flow, element.clientWidth), valuesOf(flow), element);
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
}

// Durations over the number of the run: the oldest is the first.
function valuesOf(flow: Flow): uPlot.AlignedData {
  const { started, ended } = flow.runs.columns;
  const order = started.map((_, run) => run).reverse();
  const lasted = order.map((run) => (started[run] === null ? null : (ended[run] ?? Date.now() / 1000) - started[run]!));
  return [order.map((_, place) => place), lasted];
}

function optionsOf(flow: Flow, width: number): uPlot.Options {
  const { run_name, state } = flow.runs.columns;
  const last = run_name.length - 1;
  return {
    width,
    height: HEIGHT,
    padding: [10, 34, 0, 0],
    scales: { x: { time: false }, y: { range: (_, __, most) => [0, (most || 1) * 1.08] } },
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    legend: { show: true, live: true },
    hooks: { draw: [(plot) => signs(plot, flow)] },
    axes: axesOf(flow),
    series: [
      { label: "Run", value: (_, run) => (run === null ? "-" : `${run_name[last - run]} · ${state[last - run]}`) },
      {
        ...{ label: "Duration", stroke: colour("queued"), width: 1, points: { show: false } },
        value: (_, value) => duration(value),
      },
    ],
  };
}

function axesOf(flow: Flow): uPlot.Axis[] {
  const { created } = flow.runs.columns;
  const last = created.length - 1;
  const axis = {
    stroke: colour("soft"),
    grid: { stroke: colour("grid"), width: 1 },
    ticks: { stroke: colour("line"), width: 1, size: 4 },
    font: "11px system-ui, sans-serif",
  };
  const moments = (at: number[]) =>
    at.map((run) => (Number.isInteger(run) && created[last - run] ? brief(created[last - run]) : ""));
  return [
    { ...axis, values: (_, at) => moments(at), space: 110, size: 28 },
    { ...axis, values: (_, at) => at.map((value) => duration(value)), size: 78 },
  ];
}

// A sign at each end of a run, on a ground that hides the line below it.
function signs(plot: uPlot, flow: Flow): void {
  const { fate } = flow.runs.columns;
  const scale = devicePixelRatio || 1;
  const crowded = plot.bbox.width / scale < 14 * fate.length; // then only what went wrong has a sign
  plot.data[1]!.forEach((value, place) => {
    if (value === null || value === undefined) return;
    const kind = kindOf(fate[fate.length - 1 - place]!);
    const [x, y] = [plot.valToPos(place, "x", true), plot.valToPos(value, "y", true)];
    if (crowded && kind === "completed") dot(plot.ctx, x, y, 2 * scale);
    else sign(plot.ctx, kind, x, y, scale);
  });
}

function sign(pen: CanvasRenderingContext2D, kind: Kind, x: number, y: number, scale: number): void {
  pen.save();
  pen.translate(x - 6 * scale, y - 6 * scale);
  pen.scale(scale, scale);
  pen.fillStyle = colour("page");
  pen.fillRect(0, 0, 12, 12);
  traced(pen, kind, colour(kind));
  pen.restore();
}

function dot(pen: CanvasRenderingContext2D, x: number, y: number, radius: number): void {
  pen.fillStyle = colour("completed");
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}
