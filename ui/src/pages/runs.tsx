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
import { Choice, Typed } from "../parts/typed";
import { Bar, KINDS, numbersAt, State } from "../states";

type Columns = RunColumns & Fates;
const FILTERS = ["flow", "state", "tag", "text", "parameter", "since", "until"] as const;

const flat = (answer: Runs): Columns => ({ ...answer.columns, ...answer.tasks }) as Columns;

export function RunsPage() {
  useTitle("Runs");
  const [now] = useAddress();
  const filters = Object.fromEntries(FILTERS.map((name) => [name, now[name]]));
  const pages = usePages<Runs, Columns>({
    ...{ path: "api/runs", parameters: filters, sort: "created", view: { view: "runs" } },
    flat,
  });
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
          hasMore={pages.hasMore}
          onSee={pages.see}
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
    { head: "Pick", width: "2.9rem", wide: true, cell: (row) => <Picked {...{ columns, row, chosen, choose }} /> },
    {
      head: "State",
      width: "7.3rem",
      narrow: "6.6rem",
      cell: (row) => <State fate={columns.fate[row]!} state={columns.state[row]!} />,
    },
    { head: "Run", width: "10rem", cell: (row) => <Named columns={columns} row={row} /> },
    { head: "Flow", width: "8rem", wide: true, cell: (row) => <Origin columns={columns} row={row} /> },
    {
      ...{ head: "Started", width: "8.6rem", wide: true },
      cell: (row) => <Time at={columns.started[row] ?? columns.created[row]} />,
    },
    {
      head: "Duration",
      width: "9.5rem",
      narrow: "5.8rem",
      cell: (row) => <Duration columns={columns} row={row} longest={longest} />,
    },
    { head: "Tasks", width: "12rem", wide: true, cell: (row) => <Bar numbers={numbersAt(columns, row)} /> },
    { head: "What happened", wide: true, cell: (row) => <What columns={columns} row={row} /> },
  ];
}

interface CellProps {
  columns: Columns;
  row: number;
}

function Picked({ columns, row, chosen, choose }: CellProps & { chosen: string[]; choose: (id: string) => void }) {
  return (
    <input
      type="checkbox"
      aria-label={`compare ${columns.run_name[row]}`}
      checked={chosen.includes(columns.id[row]!)}
      onChange={() => choose(columns.id[row]!)}
    />
  );
}

// On narrow screens there is no column for the flow.
function Named({ columns, row }: CellProps) {
  return (
    <To class="strong" to={pathOf(columns.kind[row]!, columns.id[row]!)}>
      {columns.run_name[row]}
      <span class="narrow soft"> · {columns.name[row]}</span>
    </To>
  );
}

function Origin({ columns, row }: CellProps) {
  const name = columns.name[row]!;
  return columns.kind[row] === "flow" ? <To to={flowPath(name)}>{name}</To> : <span class="soft">task {name}</span>;
}

function What({ columns, row }: CellProps) {
  const said = columns.error[row] ?? columns.message[row] ?? columns.parameters[row];
  return (
    <span title={said}>
      <span class="soft">{said}</span> <Tags tags={columns.tags[row]!} />
    </span>
  );
}

function Duration({ columns, row, longest }: CellProps & { longest: number }) {
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
  useKeys({ "/": () => search.current?.focus(), Escape: () => go("/runs"), x: pick });
  return (
    <form class="controls filters" role="search" aria-label="filter runs" onSubmit={(event) => event.preventDefault()}>
      <label class="grow">
        <span>Text</span>
        <Typed field={search} value={now.text} onText={(text) => change({ text })} hint="name, parameter, error" />
      </label>
      <Choice
        name="Flow"
        value={now.flow}
        choices={flows.data?.columns.name ?? []}
        onChoose={(flow) => change({ flow })}
      />
      <Choice
        name="State"
        value={now.state}
        choices={KINDS.filter((kind) => kind !== "blocked")}
        onChoose={(state) => change({ state })}
      />
      <MoreFilters />
    </form>
  );
}

// The box of the row in which the keyboard is.
function pick() {
  document.activeElement?.closest("tr")?.querySelector<HTMLInputElement>("input[type=checkbox]")?.click();
}

function MoreFilters() {
  const [now, change] = useAddress();
  const some = ["tag", "parameter", "since", "until"].some((name) => now[name]);
  return (
    <details open={some}>
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
