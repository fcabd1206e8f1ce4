import { lazy, Suspense } from "preact/compat";
import { useState } from "preact/hooks";
import type { Flow, Flows } from "../answers";
import { useAnswer } from "../api";
import { query } from "../base";
import { count, duration, plural } from "../format";
import { flowPath, Lasted, Loading, runPath, Time, To, Trouble, useTitle } from "../parts/basics";
import { type Head, Table } from "../parts/table";
import { Bar, kindOf, numbersAt, Sign, State } from "../states";

const Trend = lazy(() => import("./trend"));

export function FlowsPage() {
  useTitle("Flows");
  const answer = useAnswer<Flows>("api/flows");
  if (!answer.data) return <Loading error={answer.error} />;
  const { columns, fates, looked_at } = answer.data;
  const heads: Head[] = [
    {
      head: "Flow",
      cell: (row) => (
        <To class="strong" to={flowPath(columns.name[row]!)}>
          {columns.name[row]}
        </To>
      ),
    },
    { head: "Runs", width: "16rem", cell: (row) => <Bar numbers={numbersAt(fates, row)} /> },
    { head: "Median", width: "8rem", number: true, wide: true, cell: (row) => duration(columns.median[row]) },
    {
      head: "Last run",
      width: "16rem",
      wide: true,
      cell: (row) => <To to={runPath(columns.last_id[row]!)}>{columns.last_run[row]}</To>,
    },
    {
      head: "Last state",
      width: "9rem",
      cell: (row) => <State fate={columns.last_fate[row]!} state={columns.last_state[row]!} />,
    },
    { head: "Last started", width: "10rem", wide: true, cell: (row) => <Time at={columns.last_created[row]} /> },
  ];
  return (
    <>
      <h1>Flows</h1>
      <Trouble error={answer.error} />
      <Table caption="Flows" heads={heads} rows={columns.name.length} empty="No flow has been recorded yet." />
      <p class="help">Numbers are those of the latest {plural(looked_at, "run")} of this store.</p>
    </>
  );
}

const LIMITS = [20, 50, 100, 200];

export function FlowPage({ name }: { name: string }) {
  useTitle(name);
  const [limit, setLimit] = useState(50);
  const answer = useAnswer<Flow>(`api/flows/${encodeURIComponent(name)}`, { limit }, null);
  if (!answer.data) return <Loading error={answer.error} />;
  const flow = answer.data;
  const { columns } = flow.runs;
  return (
    <>
      <nav class="crumbs" aria-label="where this is">
        <To to="/flows">Flows</To>
        <span aria-hidden="true"> / </span>
        <span>{name}</span>
      </nav>
      <div class="titleline">
        <h1>{name}</h1>
        <label class="controls">
          <span class="soft">Latest</span>
          <select value={limit} onChange={(event) => setLimit(Number(event.currentTarget.value))}>
            {LIMITS.map((one) => (
              <option key={one} value={one}>
                {one} runs
              </option>
            ))}
          </select>
        </label>
        <To to={`/runs${query({ flow: name })}`}>All its runs</To>
      </div>
      <Trouble error={answer.error} />
      <h2>Duration</h2>
      <Suspense fallback={<div class="trend" />}>
        <Trend flow={flow} />
      </Suspense>
      <h2>Tasks and runs</h2>
      <HeatMap flow={flow} />
      <h2>History</h2>
      <Table
        caption={`Runs of ${name}, latest first`}
        heads={historyOf(columns)}
        rows={columns.id.length}
        empty="This flow has not been run."
      />
    </>
  );
}

function historyOf(columns: Flow["runs"]["columns"]): Head[] {
  return [
    { head: "State", width: "9rem", cell: (row) => <State fate={columns.fate[row]!} state={columns.state[row]!} /> },
    {
      head: "Run",
      cell: (row) => (
        <To class="strong" to={runPath(columns.id[row]!)}>
          {columns.run_name[row]}
        </To>
      ),
    },
    {
      head: "Started",
      width: "10rem",
      wide: true,
      cell: (row) => <Time at={columns.started[row] ?? columns.created[row]} />,
    },
    {
      head: "Duration",
      width: "8rem",
      number: true,
      cell: (row) => (
        <Lasted from={columns.started[row]!} to={columns.ended[row]!} over={columns.ended[row] !== null} />
      ),
    },
    {
      head: "Version",
      width: "7rem",
      wide: true,
      cell: (row) => <span class="soft">{columns.version[row] ?? "-"}</span>,
    },
    {
      head: "Parameters",
      width: "40%",
      wide: true,
      cell: (row) => <span class="soft mono">{columns.parameters[row]}</span>,
    },
  ];
}

// A column for each run, oldest at the left; a row for each task. A cell tells the worst that happened there, by its sign.
function HeatMap({ flow }: { flow: Flow }) {
  const { columns } = flow.runs;
  const cells = new Map<number, number>();
  flow.cells.task.forEach((task, place) => {
    cells.set(task * 1000 + flow.cells.run[place]!, place);
  });
  const order = columns.id.map((_, run) => run).reverse();
  const slowest = flow.tasks.columns.group.map((_, task) =>
    Math.max(1e-9, ...order.map((run) => flow.cells.seconds[cells.get(task * 1000 + run) ?? -1] ?? 0)),
  );
  if (!flow.tasks.columns.group.length) return <p class="soft">No task was called.</p>;
  return (
    <div class="heat" role="region" tabIndex={0} aria-label="tasks and runs">
      <table aria-label={`Tasks and runs of ${flow.name}, oldest run first`}>
        <thead>
          <tr>
            <th scope="col">Task</th>
            {order.map((run) => (
              <th key={run} scope="col">
                <To
                  to={runPath(columns.id[run]!)}
                  title={columns.run_name[run]}
                  aria-label={`${columns.run_name[run]}: ${columns.state[run]}`}
                >
                  <Sign kind={kindOf(columns.fate[run]!)} />
                </To>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {flow.tasks.columns.group.map((group, task) => (
            <tr key={group}>
              <th scope="row">{group}</th>
              {order.map((run) => (
                <Cell key={run} flow={flow} place={cells.get(task * 1000 + run)} slowest={slowest[task]!} />
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      <p class="help">
        The sign tells the worst that happened to the runs of a task; the bar below it how much time they took, compared
        with the slowest in its row.
      </p>
    </div>
  );
}

function Cell({ flow, place, slowest }: { flow: Flow; place: number | undefined; slowest: number }) {
  if (place === undefined) return <td />;
  const { fate, number, bad, seconds } = flow.cells;
  const kind = kindOf(fate[place]!);
  const said = `${kind}, ${plural(number[place]!, "run")}${bad[place] ? `, ${count(bad[place]!)} failed` : ""}, ${duration(seconds[place])}`;
  return (
    <td title={said}>
      <span class="hidden">{said}</span>
      <span class="cell" aria-hidden="true">
        <Sign kind={kind} />
        <span class={`b-${kind}`} style={{ width: `${Math.max(8, (seconds[place]! / slowest) * 100)}%` }} />
      </span>
    </td>
  );
}
