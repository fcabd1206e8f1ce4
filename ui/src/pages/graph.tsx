// The graph of task groups, and of the runs of one group: laid out by dagre, drawn as SVG, told again as a table.
import { Graph as Layout, layout } from "@dagrejs/dagre";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { useLocation } from "wouter-preact";
import type { Graph, GroupGraph } from "../answers";
import { useAnswer } from "../api";
import { PREFIX } from "../base";
import { count, duration, ending, plural } from "../format";
import { useAddress } from "../parts/address";
import { NothingCalled, Trouble, taskPath } from "../parts/basics";
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

const [WIDE, HIGH, MARGIN] = [190, 46, 10];

export default function GraphView({ id, live }: { id: string; live: boolean }) {
  const [now, change] = useAddress();
  if (now.group) return <GroupView id={id} group={now.group} live={live} onBack={() => change({ group: null })} />;
  return <Groups id={id} live={live} />;
}

function Groups({ id, live }: { id: string; live: boolean }) {
  const answer = useAnswer<Graph>(`api/runs/${id}/graph`, {}, live ? { view: "graph", id } : null);
  if (!answer.data) return <Trouble error={answer.error} />;
  const boxes = groupBoxes(id, answer.data);
  if (!boxes.length)
    return (
      <p class="empty">
        <NothingCalled over={!live} />
      </p>
    );
  return (
    <>
      <Trouble error={answer.error} />
      <Drawing boxes={boxes} arrows={groupArrows(answer.data)} name="graph of task groups" />
      <p class="help">
        Each box is all runs of one task: how many, what went wrong, and the time they took. A full line hands over
        data, a dashed one is a wait, a dotted one a call. A box opens into its runs.
        {!answer.data.edges.all && " The run is very large: the lines come from a part of it."}
        {answer.data.more > 0 && ` ${count(answer.data.more)} further groups are not drawn.`}
      </p>
    </>
  );
}

const TOLD: Kind[] = ["failed", "crashed", "blocked", "cancelled", "running"];

function groupBoxes(id: string, { nodes: { columns, fates } }: Graph): Box[] {
  return columns.group.map((one, row) => {
    const numbers = numbersAt(fates, row) ?? {};
    const told = TOLD.filter((kind) => numbers[kind]).map((kind) => `${count(numbers[kind]!)} ${kind}`);
    return {
      ...{ id: one, title: one, numbers },
      under: [count(columns.total[row]!), ...told, duration(columns.seconds[row])].join(" · "),
      to: `/runs/${id}?tab=graph&group=${encodeURIComponent(one)}`,
    };
  });
}

function groupArrows({ nodes, edges: { columns } }: Graph): Arrow[] {
  const { group, place } = nodes.columns;
  const handed = columns.from.map((from, row) => ({
    ...{ from, to: columns.to[row]!, kind: columns.kind[row]! },
    said: count(columns.number[row]!) + (columns.kind[row] === "data" ? " data" : " waits"),
  }));
  const calls = group.flatMap((to, row) =>
    group.includes(place[row]!) ? [{ from: place[row]!, to, kind: "calls", said: "calls" }] : [],
  );
  return [...handed, ...calls];
}

interface GroupProps {
  id: string;
  group: string;
  live: boolean;
  onBack: () => void;
}

function GroupView({ id, group, live, onBack }: GroupProps) {
  const [after, setAfter] = useState<string[]>([]);
  const parameters = { group, after: after.at(-1) };
  const answer = useAnswer<GroupGraph>(`api/runs/${id}/graph`, parameters, live ? { view: "graph", id } : null);
  const data = answer.data;
  const first = after.length * 200;
  return (
    <>
      <div class="controls">
        <button type="button" onClick={onBack}>
          All groups
        </button>
        <strong>{group}</strong>
        {data && (
          <span class="soft">
            {count(first + 1)} to {count(first + data.nodes.columns.id.length)} of {plural(data.total, "run")}
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
  const edges = data.edges.columns;
  const mine = new Set(data.nodes.columns.id);
  const few = new Set(edges.from.filter((one) => !mine.has(one))).size <= 40;
  const sources = edges.from.map((from, row) => (mine.has(from) || few ? from : `group ${edges.from_group[row]}`));
  const arrows = new Map(
    sources.map((from, row): [string, Arrow] => {
      const [to, kind] = [edges.to[row]!, edges.kind[row]!];
      return [`${from} ${to}`, { from, to, kind, said: edges.parameter[row] ?? kind }];
    }),
  );
  const others = new Map(
    sources.flatMap((source, row): [string, Box][] =>
      mine.has(source) ? [] : [[source, otherBox(edges, row, source, few)]],
    ),
  );
  const boxes = [...runBoxes(data), ...others.values()];
  return <Drawing boxes={boxes} arrows={[...arrows.values()]} name={`runs of ${data.group}`} />;
}

function runBoxes({ nodes: { columns } }: GroupGraph): Box[] {
  return columns.id.map((one, row) => {
    const [started, ended] = [columns.started[row] ?? columns.created[row]!, columns.ended[row]];
    return {
      id: one,
      title: columns.title[row]!,
      under: `${columns.state[row]} · ${ended ? duration(ended - started) : "…"}`,
      numbers: { [kindOf(columns.fate[row]!)]: 1 },
      to: taskPath(one),
    };
  });
}

// Where an edge comes from that is not of this group: a run, or, where there are many, all of its group.
function otherBox(edges: GroupGraph["edges"]["columns"], row: number, id: string, few: boolean): Box {
  const [title, group] = [edges.from_title[row]!, edges.from_group[row]!];
  const numbers = {};
  if (!few) return { id, numbers, title: group, under: "several runs", to: "", aside: true };
  return { id, numbers, title, under: group, to: taskPath(id), aside: true };
}

interface Plan {
  width: number;
  height: number;
  at: Map<string, { x: number; y: number }>;
  lines: Map<number, { x: number; y: number }[]>;
}

type Drawn = Arrow & { place: number };

// Dagre places what is connected; the rest fills rows below.
function laidOut(boxes: Box[], arrows: Arrow[], room: number): Plan {
  const known = new Set(boxes.map((box) => box.id));
  const drawn = arrows
    .map((arrow, place) => ({ ...arrow, place }))
    .filter(({ from, to }) => known.has(from) && known.has(to));
  const connected = new Set(drawn.flatMap(({ from, to }) => [from, to]));
  const plan = connectedPlan(connected, drawn);
  const alone = boxes.filter((box) => !connected.has(box.id));
  return withRows(plan, alone, Math.max(plan.width, room));
}

function connectedPlan(ids: Set<string>, drawn: Drawn[]): Plan {
  const plan: Plan = { width: 0, height: 0, at: new Map(), lines: new Map() };
  if (!ids.size) return plan;
  const graph = new Layout({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 56, marginx: 10, marginy: 10 });
  graph.setDefaultEdgeLabel(() => ({}));
  const key = (id: string) => `#${id}`; // dagre keeps them in plain objects, and a task may be called __proto__
  for (const one of ids) graph.setNode(key(one), { width: WIDE, height: HIGH });
  for (const { from, to, place } of drawn) graph.setEdge(key(from), key(to), {}, String(place));
  layout(graph);
  for (const one of ids) plan.at.set(one, graph.node(key(one)) as { x: number; y: number });
  for (const { from, to, place } of drawn)
    plan.lines.set(place, graph.edge(key(from), key(to), String(place))?.points ?? []);
  const { width = 0, height = 0 } = graph.graph();
  return { ...plan, width, height };
}

function withRows(plan: Plan, alone: Box[], room: number): Plan {
  const { height } = plan;
  const across = Math.max(1, Math.floor((room - 6) / (WIDE + 14)));
  alone.forEach((box, place) => {
    const [column, row] = [place % across, Math.floor(place / across)];
    const at = { x: 10 + WIDE / 2 + column * (WIDE + 14), y: height + 10 + HIGH / 2 + row * (HIGH + 14) };
    plan.at.set(box.id, at);
    plan.width = Math.max(plan.width, at.x + WIDE / 2 + 10);
  });
  if (alone.length) plan.height = height + Math.ceil(alone.length / across) * (HIGH + 14) + 6;
  return plan;
}

interface DrawingProps {
  boxes: Box[];
  arrows: Arrow[];
  name: string;
}

function Drawing({ boxes, arrows, name }: DrawingProps) {
  // Where the boxes are depends on which there are, not on what has become of them: a live graph keeps still.
  const shape = JSON.stringify([boxes.map((box) => box.id), arrows.map(({ from, to }) => [from, to])]);
  // `shape` stands for both.
  const plan = useMemo(() => laidOut(boxes, arrows, innerWidth - 60), [shape]);
  const { width, height } = plan;
  const frame = useRef<HTMLDivElement>(null);
  const first = firstOf(boxes, arrows, plan);
  useLayoutEffect(() => {
    const at = first === undefined ? undefined : plan.at.get(first);
    if (at) frame.current?.scrollTo(at.x - WIDE / 2 - MARGIN, at.y - HIGH / 2 - MARGIN);
  }, [first]);
  return (
    <>
      <div class="graph" ref={frame} tabIndex={0} role="region" aria-label={name}>
        <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} role="group" aria-label={name}>
          <defs>
            <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
              <path d="M0 0.5 8 4 0 7.5Z" class="head" />
            </marker>
          </defs>
          {arrows.map((arrow, place) => (
            <path
              key={keyOf(arrow)}
              class={`arrow k-${arrow.kind}`}
              d={curve(plan.lines.get(place) ?? [])}
              marker-end="url(#head)"
            />
          ))}
          {boxes.map((box) => {
            const { x, y } = plan.at.get(box.id)!;
            return <Node key={box.id} box={box} x={x - WIDE / 2} y={y - HIGH / 2} />;
          })}
        </svg>
      </div>
      <LinesInWords boxes={boxes} arrows={arrows} name={name} />
    </>
  );
}

// Where a reader begins: at the left, and what nothing else leads to; of several the uppermost.
function firstOf(boxes: Box[], arrows: Arrow[], { at }: Plan): string | undefined {
  const reached = new Set(arrows.map(({ to }) => to));
  const begins = boxes.filter(({ id }) => !reached.has(id)).map(({ id }) => ({ id, ...at.get(id)! }));
  return begins.sort((one, other) => one.x - other.x || one.y - other.y)[0]?.id;
}

const keyOf = ({ from, to, kind }: Arrow) => `${from} ${to} ${kind}`;

function LinesInWords({ boxes, arrows, name }: DrawingProps) {
  const titles = new Map(boxes.map(({ id, title }) => [id, title]));
  return (
    <div class="hidden">
      <table>
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
            <tr key={keyOf(arrow)}>
              <td>{titles.get(arrow.from)}</td>
              <td>{titles.get(arrow.to)}</td>
              <td>{arrow.said}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

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

interface NodeProps {
  box: Box;
  x: number;
  y: number;
}

function Node({ box, x, y }: NodeProps) {
  const [, go] = useLocation();
  const said = `${box.title}: ${box.under}${total(box.numbers) > 1 ? `, ${words(box.numbers)}` : ""}`;
  const body = (
    <g transform={`translate(${x} ${y})`} class={box.aside ? "node aside" : "node"}>
      <title>{said}</title>
      <rect width={WIDE} height={HIGH} rx="3" class="frame" />
      <text x="10" y="18" class="title">
        {ending(box.title, 23)}
      </text>
      <text x="10" y="33" class="under">
        {shortened(box.under, 32)}
      </text>
      {partsOf(box.numbers).map(({ kind, from, width }) => (
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

function partsOf(numbers: Numbers): { kind: Kind; from: number; width: number }[] {
  const all = total(numbers);
  let from = 0;
  return KINDS.filter((kind) => numbers[kind]).map((kind) => {
    const width = ((WIDE - 2) * numbers[kind]!) / all;
    from += width;
    return { kind, from: from - width, width };
  });
}
