// The graph of task groups, and of the runs of one group: laid out by dagre, drawn as SVG, told again as a table.
import { Graph as Layout, layout } from "@dagrejs/dagre";
import { useMemo, useState } from "preact/hooks";
import { useLocation } from "wouter-preact";
import type { Graph, GroupGraph } from "../answers";
import { useAnswer } from "../api";
import { PREFIX } from "../base";
import { count, duration } from "../format";
import { useAddress } from "../parts/address";
import { Trouble, taskPath } from "../parts/basics";
import { KINDS, type Kind, kindOf, type Numbers, numbersAt, total, words } from "../states";

interface Box {
  id: string;
  title: string;
  under: string; // second line
  numbers: Numbers;
  to: string; // where a click leads
  aside?: boolean;
}

interface Arrow {
  from: string;
  to: string;
  kind: string;
  said: string;
}

const [WIDE, HIGH] = [190, 46];

export default function GraphView({ id, live }: { id: string; live: boolean }) {
  const [now, change] = useAddress();
  if (now.group) return <GroupView id={id} group={now.group} live={live} onBack={() => change({ group: null })} />;
  return <Groups id={id} live={live} />;
}

function Groups({ id, live }: { id: string; live: boolean }) {
  const answer = useAnswer<Graph>(`api/runs/${id}/graph`, {}, live ? { view: "graph", id } : null);
  if (!answer.data) return <Trouble error={answer.error} />;
  const { nodes, edges } = answer.data;
  const { columns } = nodes;
  const boxes = columns.group.map((one, row) => ({
    id: one,
    title: one,
    under: `${count(columns.total[row]!)} · ${duration(columns.seconds[row])}`,
    numbers: numbersAt(nodes.fates, row) ?? {},
    to: `/runs/${id}?tab=graph&group=${encodeURIComponent(one)}`,
  }));
  const arrows = edges.columns.from.map((from, row) => ({
    from,
    to: edges.columns.to[row]!,
    kind: edges.columns.kind[row]!,
    said: count(edges.columns.number[row]!) + (edges.columns.kind[row] === "data" ? " data" : " waits"),
  }));
  columns.group.forEach((one, row) => {
    const place = columns.place[row]!;
    if (columns.group.includes(place)) arrows.push({ from: place, to: one, kind: "calls", said: "calls" });
  });
  if (!boxes.length) return <p class="empty">This run has called no task yet.</p>;
  return (
    <>
      <Trouble error={answer.error} />
      <Drawing boxes={boxes} arrows={arrows} name="graph of task groups" />
      <p class="help">
        Each box is all runs of one task: how many, and the time they took. A full line hands over data, a dashed one is
        a wait. A box opens into its runs.
        {!edges.all && " The run is very large: the lines come from a part of it."}
        {answer.data.more > 0 && ` ${count(answer.data.more)} further groups are not drawn.`}
      </p>
    </>
  );
}

function GroupView({ id, group, live, onBack }: { id: string; group: string; live: boolean; onBack: () => void }) {
  const [after, setAfter] = useState<string[]>([]);
  const parameters = { group, after: after.at(-1) };
  const answer = useAnswer<GroupGraph>(`api/runs/${id}/graph`, parameters, live ? { view: "graph", id } : null);
  const data = answer.data;
  return (
    <>
      <div class="controls">
        <button type="button" onClick={onBack}>
          All groups
        </button>
        <strong>{group}</strong>
        {data && (
          <span class="soft">
            {count(after.length * 200 + 1)} to {count(after.length * 200 + data.nodes.columns.id.length)} of{" "}
            {count(data.total)} runs
          </span>
        )}
        {after.length > 0 && (
          <button type="button" onClick={() => setAfter(after.slice(0, -1))}>
            Page before
          </button>
        )}
        {data?.nodes.next && (
          <button type="button" onClick={() => setAfter([...after, data.nodes.next!])}>
            Next page
          </button>
        )}
      </div>
      <Trouble error={answer.error} />
      {data && <Runs data={data} />}
    </>
  );
}

// Runs of other groups stand for themselves as long as they are few, otherwise as one box for their group.
function Runs({ data }: { data: GroupGraph }) {
  const { columns } = data.nodes;
  const edges = data.edges.columns;
  const mine = new Set(columns.id);
  const others = new Set(edges.from.filter((one) => !mine.has(one)));
  const few = others.size <= 40;
  const boxes: Box[] = columns.id.map((one, row) => ({
    id: one,
    title: columns.title[row]!,
    under: `${columns.state[row]} · ${columns.ended[row] ? duration(columns.ended[row] - (columns.started[row] ?? columns.created[row]!)) : "…"}`,
    numbers: { [kindOf(columns.fate[row]!)]: 1 },
    to: taskPath(one),
  }));
  const arrows = new Map<string, Arrow>();
  const known = new Set<string>();
  edges.from.forEach((from, row) => {
    const source = mine.has(from) || few ? from : `group ${edges.from_group[row]}`;
    if (!mine.has(source) && !known.has(source)) {
      known.add(source);
      boxes.push({
        id: source,
        title: few ? edges.from_title[row]! : edges.from_group[row]!,
        under: few ? edges.from_group[row]! : "several runs",
        numbers: {},
        to: few ? taskPath(from) : "",
        aside: true,
      });
    }
    const said = edges.parameter[row] ?? edges.kind[row]!;
    arrows.set(`${source} ${edges.to[row]}`, {
      from: source,
      to: edges.to[row]!,
      kind: edges.kind[row]!,
      said,
    });
  });
  return <Drawing boxes={boxes} arrows={[...arrows.values()]} name={`runs of ${data.group}`} />;
}

interface Plan {
  width: number;
  height: number;
  at: Map<string, { x: number; y: number }>;
  lines: Map<number, { x: number; y: number }[]>;
}

// Dagre places what is connected; the rest fills rows below.
function laidOut(boxes: Box[], arrows: Arrow[], room: number): Plan {
  const graph = new Layout({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 56, marginx: 10, marginy: 10 });
  graph.setDefaultEdgeLabel(() => ({}));
  const known = new Set(boxes.map((box) => box.id));
  const drawn = arrows
    .map((arrow, place) => ({ ...arrow, place }))
    .filter(({ from, to }) => known.has(from) && known.has(to));
  const connected = new Set(drawn.flatMap(({ from, to }) => [from, to]));
  for (const one of connected) graph.setNode(one, { width: WIDE, height: HIGH });
  for (const { from, to, place } of drawn) graph.setEdge(from, to, {}, String(place));
  if (connected.size) layout(graph);
  const { width = 0, height = 0 } = connected.size ? graph.graph() : {};
  const plan: Plan = { width, height, at: new Map(), lines: new Map() };
  for (const one of connected) plan.at.set(one, graph.node(one) as { x: number; y: number });
  for (const { from, to, place } of drawn) plan.lines.set(place, graph.edge(from, to, String(place))?.points ?? []);
  const alone = boxes.filter((box) => !connected.has(box.id));
  const across = Math.max(1, Math.floor((Math.max(width, room) - 6) / (WIDE + 14)));
  alone.forEach((box, place) => {
    const [column, row] = [place % across, Math.floor(place / across)];
    const at = { x: 10 + WIDE / 2 + column * (WIDE + 14), y: height + 10 + HIGH / 2 + row * (HIGH + 14) };
    plan.at.set(box.id, at);
    plan.width = Math.max(plan.width, at.x + WIDE / 2 + 10);
  });
  if (alone.length) plan.height = height + Math.ceil(alone.length / across) * (HIGH + 14) + 6;
  return plan;
}

function Drawing({ boxes, arrows, name }: { boxes: Box[]; arrows: Arrow[]; name: string }) {
  // Where the boxes are depends on which there are, not on what has become of them: a live graph keeps still.
  const shape = JSON.stringify([boxes.map((box) => box.id), arrows.map(({ from, to }) => [from, to])]);
  // `shape` stands for both.
  const plan = useMemo(() => laidOut(boxes, arrows, innerWidth - 60), [shape]);
  const { width, height } = plan;
  return (
    <>
      <div class="graph" tabIndex={0} role="region" aria-label={name}>
        <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} role="group" aria-label={name}>
          <defs>
            <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
              <path d="M0 0.5 8 4 0 7.5Z" class="head" />
            </marker>
          </defs>
          {arrows.map((arrow, place) => {
            const points = plan.lines.get(place) ?? [];
            return (
              <path
                key={`${arrow.from} ${arrow.to} ${arrow.kind}`}
                class={`arrow k-${arrow.kind}`}
                d={curve(points)}
                marker-end="url(#head)"
              />
            );
          })}
          {boxes.map((box) => {
            const { x, y } = plan.at.get(box.id)!;
            return <Node key={box.id} box={box} x={x - WIDE / 2} y={y - HIGH / 2} />;
          })}
        </svg>
      </div>
      <table class="hidden">
        <caption>The lines of the {name}</caption>
        <thead>
          <tr>
            <th scope="col">From</th>
            <th scope="col">To</th>
            <th scope="col">What</th>
          </tr>
        </thead>
        <tbody>
          {arrows.map((arrow) => (
            <tr key={`${arrow.from} ${arrow.to} ${arrow.kind}`}>
              <td>{titleOf(boxes, arrow.from)}</td>
              <td>{titleOf(boxes, arrow.to)}</td>
              <td>{arrow.said}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

const titleOf = (boxes: Box[], id: string) => boxes.find((box) => box.id === id)?.title ?? "";

function curve(points: { x: number; y: number }[]): string {
  const [first, ...rest] = points;
  if (!first) return "";
  let path = `M${first.x} ${first.y}`;
  rest.forEach((point, place) => {
    const before = place ? rest[place - 1]! : first;
    const middle = (before.x + point.x) / 2;
    path += `C${middle} ${before.y} ${middle} ${point.y} ${point.x} ${point.y}`;
  });
  return path;
}

const shortened = (text: string, length: number) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function Node({ box, x, y }: { box: Box; x: number; y: number }) {
  const [, go] = useLocation();
  const all = total(box.numbers);
  let at = 0;
  const parts: { kind: Kind; from: number; width: number }[] = [];
  for (const kind of KINDS.filter((one) => box.numbers[one])) {
    const width = ((WIDE - 2) * box.numbers[kind]!) / all;
    parts.push({ kind, from: at, width });
    at += width;
  }
  const said = `${box.title}: ${box.under}${all > 1 ? `, ${words(box.numbers)}` : ""}`;
  const body = (
    <g transform={`translate(${x} ${y})`} class={box.aside ? "node aside" : "node"}>
      <title>{said}</title>
      <rect width={WIDE} height={HIGH} rx="3" class="frame" />
      <text x="10" y="18" class="title">
        {shortened(box.title, 26)}
      </text>
      <text x="10" y="33" class="under">
        {shortened(box.under, 30)}
      </text>
      {parts.map(({ kind, from, width }) => (
        <rect key={kind} x={1 + from} y={HIGH - 6} width={Math.max(width, 2)} height="5" class={`f-${kind}`} />
      ))}
    </g>
  );
  if (!box.to) return body;
  const open = (event: MouseEvent) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(box.to);
  };
  return (
    <a href={PREFIX + box.to} onClick={open} aria-label={said}>
      {body}
    </a>
  );
}
