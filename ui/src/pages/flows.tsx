import { lazy, Suspense } from "preact/compat";
import { useState } from "preact/hooks";
import type { Flow, Flows } from "../answers";
import { useAnswer } from "../api";
import { query } from "../base";
import { duration, plural } from "../format";
import { flowPath, Lasted, Loading, runPath, Time, To, Trouble, useTitle } from "../parts/basics";
import { type Head, Table } from "../parts/table";
import { Bar, numbersAt, State } from "../states";
import { HeatMap } from "./heat";

const Trend = lazy(() => import("./trend"));

export function FlowsPage() {
  useTitle("Flows");
  const answer = useAnswer<Flows>("api/flows");
  if (!answer.data) return <Loading error={answer.error} />;
  const { columns, looked_at } = answer.data;
  return (
    <>
      <h1>Flows</h1>
      <Trouble error={answer.error} />
      <Table
        caption="Flows"
        heads={flowHeads(answer.data)}
        rows={columns.name.length}
        empty="No flow has been recorded yet."
      />
      <p class="help">Numbers are those of the latest {plural(looked_at, "run")} of this store.</p>
    </>
  );
}

function flowHeads({ columns, fates }: Flows): Head[] {
  return [
    {
      head: "Flow",
      cell: (row) => (
        <To class="strong" to={flowPath(columns.name[row]!)}>
          {columns.name[row]}
        </To>
      ),
    },
    { head: "Runs", width: "16rem", narrow: "9.5rem", cell: (row) => <Bar numbers={numbersAt(fates, row)} /> },
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
      narrow: "6.6rem",
      cell: (row) => <State fate={columns.last_fate[row]!} state={columns.last_state[row]!} />,
    },
    { head: "Last started", width: "10rem", wide: true, cell: (row) => <Time at={columns.last_created[row]} /> },
  ];
}

const LIMITS = [20, 50, 100, 200];

export function FlowPage({ name }: { name: string }) {
  const [limit, setLimit] = useState(50);
  const answer = useAnswer<Flow>(`api/flows/${encodeURIComponent(name)}`, { limit }, { view: "flow", name });
  useTitle(answer.data?.name ?? "Flow");
  if (!answer.data) return <Loading error={answer.error} />;
  const flow = answer.data;
  const { columns } = flow.runs;
  return (
    <>
      <FlowHead name={name} shown={flow.name} limit={limit} onLimit={setLimit} />
      <Trouble error={answer.error} />
      {columns.id.length > 0 && (
        <>
          <h2>Duration</h2>
          <Suspense fallback={<div class="trend" />}>
            <Trend flow={flow} />
          </Suspense>
          <h2>Tasks and runs</h2>
          <HeatMap flow={flow} />
        </>
      )}
      <h2>History</h2>
      <Table
        caption={`Runs of ${flow.name}, latest first`}
        heads={historyOf(columns)}
        rows={columns.id.length}
        empty="This flow has not been run."
      />
    </>
  );
}

interface FlowHeadProps {
  name: string;
  shown: string; // as the server says it: nothing in it moves what is around
  limit: number;
  onLimit: (limit: number) => void;
}

function FlowHead({ name, shown, limit, onLimit }: FlowHeadProps) {
  return (
    <>
      <nav class="crumbs" aria-label="where this is">
        <To to="/flows">Flows</To>
        <span aria-hidden="true"> / </span>
        <span>{shown}</span>
      </nav>
      <div class="titleline">
        <h1>{shown}</h1>
        <label class="controls">
          <span class="soft">Latest</span>
          <select value={limit} onChange={(event) => onLimit(Number(event.currentTarget.value))}>
            {LIMITS.map((one) => (
              <option key={one} value={one}>
                {one} runs
              </option>
            ))}
          </select>
        </label>
        <To to={`/runs${query({ flow: name })}`}>All its runs</To>
      </div>
    </>
  );
}

function historyOf(columns: Flow["runs"]["columns"]): Head[] {
  return [
    {
      head: "State",
      width: "9rem",
      narrow: "6.6rem",
      cell: (row) => <State fate={columns.fate[row]!} state={columns.state[row]!} />,
    },
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
      narrow: "5.8rem",
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
