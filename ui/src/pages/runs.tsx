import { useRef, useState } from "preact/hooks";
import { useLocation } from "wouter-preact";
import type { Fates, Flows, RunColumns, Runs } from "../answers";
import { useAnswer } from "../api";
import { query } from "../base";
import { fromField, toField } from "../format";
import { useKeys } from "../keys";
import { useAddress } from "../parts/address";
import { flowPath, Lasted, pathOf, Tags, Time, To, Trouble, useTitle } from "../parts/basics";
import { usePages } from "../parts/pages";
import { type Head, Table } from "../parts/table";
import { Typed } from "../parts/typed";
import { Bar, KINDS, numbersAt, State } from "../states";

type Columns = RunColumns & Fates;
const FILTERS = ["flow", "state", "tag", "text", "parameter", "since", "until"] as const;
const LIMIT = 100;

const flat = (answer: Runs): Columns => ({ ...answer.columns, ...answer.tasks }) as Columns;

export function RunsPage() {
  useTitle("Runs");
  const [now] = useAddress();
  const filters = Object.fromEntries(FILTERS.map((name) => [name, now[name]]));
  const asked = { ...filters, limit: LIMIT };
  const pages = usePages<Runs, Columns>("api/runs", asked, flat, { view: "runs" });
  const [chosen, setChosen] = useState<string[]>([]);
  const choose = (id: string) =>
    setChosen(chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id].slice(-2));
  const filtered = FILTERS.some((name) => now[name]);
  return (
    <>
      <h1>Runs</h1>
      <Filters />
      <Trouble error={pages.error} />
      <Chosen ids={chosen} onClear={() => setChosen([])} />
      {pages.columns && (
        <Table
          caption="Runs, latest first"
          heads={headsOf(pages.columns, chosen, choose)}
          rows={pages.rows}
          more={pages.more}
          empty={filtered ? "No run is like that." : "Nothing has been recorded yet. Run a flow: its runs appear here."}
        />
      )}
    </>
  );
}

function Chosen({ ids, onClear }: { ids: string[]; onClear: () => void }) {
  if (!ids.length) return null;
  return (
    <div class="controls notice">
      {ids.length === 1 ? (
        <span>One run is chosen; choose another one to compare the two.</span>
      ) : (
        <To class="button" to={`/compare${query({ a: ids[0], b: ids[1] })}`}>
          Compare the two
        </To>
      )}
      <button type="button" onClick={onClear}>
        Choose none
      </button>
    </div>
  );
}

function headsOf(columns: Columns, chosen: string[], choose: (id: string) => void): Head[] {
  const longest = Math.max(
    0.001,
    ...columns.started.map((started, row) => (started && columns.ended[row] ? columns.ended[row] - started : 0)),
  );
  return [
    {
      head: "Pick",
      width: "2.9rem",
      wide: true,
      cell: (row) => (
        <input
          type="checkbox"
          aria-label={`compare ${columns.run_name[row]}`}
          checked={chosen.includes(columns.id[row]!)}
          onChange={() => choose(columns.id[row]!)}
        />
      ),
    },
    { head: "State", width: "7.6rem", cell: (row) => <State fate={columns.fate[row]!} state={columns.state[row]!} /> },
    {
      head: "Run",
      width: "11rem",
      cell: (row) => (
        <To class="strong" to={pathOf(columns.kind[row]!, columns.id[row]!)}>
          {columns.run_name[row]}
        </To>
      ),
    },
    {
      head: "Flow",
      width: "8rem",
      wide: true,
      cell: (row) =>
        columns.kind[row] === "flow" ? (
          <To to={flowPath(columns.name[row]!)}>{columns.name[row]}</To>
        ) : (
          <span class="soft">task {columns.name[row]}</span>
        ),
    },
    {
      head: "Started",
      width: "8.2rem",
      wide: true,
      cell: (row) => <Time at={columns.started[row] ?? columns.created[row]} />,
    },
    { head: "Duration", width: "10.5rem", cell: (row) => <Duration columns={columns} row={row} longest={longest} /> },
    { head: "Tasks", width: "13rem", wide: true, cell: (row) => <Bar numbers={numbersAt(columns, row)} /> },
    { head: "What happened", wide: true, cell: (row) => <What columns={columns} row={row} /> },
  ];
}

function What({ columns, row }: { columns: Columns; row: number }) {
  return (
    <>
      <Tags tags={columns.tags[row]!} />
      <span class="soft">{columns.error[row] ?? columns.message[row] ?? columns.parameters[row]}</span>
    </>
  );
}

function Duration({ columns, row, longest }: { columns: Columns; row: number; longest: number }) {
  const [from, to] = [columns.started[row]!, columns.ended[row]!];
  const share = from && to ? (to - from) / longest : 0;
  return (
    <span class="lasted">
      <span class="length">
        <Lasted from={from} to={to} over={to !== null} />
      </span>
      <span class="ruler" aria-hidden="true">
        <span class={`b-${columns.fate[row]}`} style={{ width: `${Math.max(share * 100, to ? 1 : 0)}%` }} />
      </span>
    </span>
  );
}

// --- filters --------------------------------------------------------------------------------------------------------

function Filters() {
  const [now, change] = useAddress();
  const flows = useAnswer<Flows>("api/flows");
  const search = useRef<HTMLInputElement>(null);
  const [, go] = useLocation();
  useKeys({ "/": () => search.current?.focus(), Escape: () => go("/runs") });
  const more = ["tag", "parameter", "since", "until"].some((name) => now[name]);
  return (
    <form class="controls filters" role="search" aria-label="filter runs" onSubmit={(event) => event.preventDefault()}>
      <label class="grow">
        <span>Text</span>
        <Typed field={search} value={now.text} onText={(text) => change({ text })} hint="name, parameter, error" />
      </label>
      <label>
        <span>Flow</span>
        <select value={now.flow ?? ""} onChange={(event) => change({ flow: event.currentTarget.value })}>
          <option value="">any</option>
          {[...new Set([...(now.flow ? [now.flow] : []), ...(flows.data?.columns.name ?? [])])].map((name) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span>State</span>
        <select value={now.state ?? ""} onChange={(event) => change({ state: event.currentTarget.value })}>
          <option value="">any</option>
          {KINDS.filter((kind) => kind !== "blocked").map((kind) => (
            <option key={kind}>{kind}</option>
          ))}
        </select>
      </label>
      <details open={more}>
        <summary>More filters</summary>
        <div class="controls">
          <label>
            <span>Tag</span>
            <Typed value={now.tag} onText={(tag) => change({ tag })} />
          </label>
          <label>
            <span>Parameter</span>
            <Typed value={now.parameter} onText={(parameter) => change({ parameter })} hint="name=value" />
          </label>
          <Moment name="Since" value={now.since} onTime={(since) => change({ since })} />
          <Moment name="Until" value={now.until} onTime={(until) => change({ until })} />
        </div>
      </details>
    </form>
  );
}

function Moment({ name, value, onTime }: { name: string; value?: string; onTime: (time: number | null) => void }) {
  return (
    <label>
      <span>{name}</span>
      <input
        type="datetime-local"
        step="1"
        value={value ? toField(Number(value)) : ""}
        onChange={(event) => onTime(fromField(event.currentTarget.value))}
      />
    </label>
  );
}
