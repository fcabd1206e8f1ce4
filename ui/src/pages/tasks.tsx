import { useRef } from "preact/hooks";
import type { Header, Page, TaskColumns } from "../answers";
import { count, duration } from "../format";
import { useKeys } from "../keys";
import { useAddress } from "../parts/address";
import { Lasted, pathOf, Time, To, Trouble } from "../parts/basics";
import { usePages } from "../parts/pages";
import { type Head, type Order, Table } from "../parts/table";
import { Typed } from "../parts/typed";
import { KINDS, State } from "../states";

const FILTERS = ["text", "state", "group"] as const;
const flat = (answer: Page<TaskColumns>) => answer.columns;

export function TaskTable({ header }: { header: Header }) {
  const { id, ended } = header.run;
  const [now, change] = useAddress();
  const order: Order = { sort: now.sort ?? "created", direction: now.direction === "desc" ? "desc" : "asc" };
  const filters = Object.fromEntries(FILTERS.map((name) => [name, now[name]]));
  const pages = usePages<Page<TaskColumns>, TaskColumns>(
    `api/runs/${id}/tasks`,
    { ...filters, ...order, limit: 200 },
    flat,
    ended === null ? { view: "tasks", id } : null,
  );
  const filtered = FILTERS.some((name) => now[name]);
  const all = header.groups.columns.total.reduce((sum, number) => sum + number, 0);
  return (
    <>
      <Filters header={header} />
      <Trouble error={pages.error} />
      {pages.columns && (
        <>
          <p class="soft tally" role="status">
            {filtered ? `${count(pages.rows)}${pages.more ? " or more" : ""} of ${count(all)}` : count(all)} task runs
          </p>
          <Table
            caption="Task runs"
            heads={headsOf(pages.columns)}
            rows={pages.rows}
            total={filtered ? undefined : all}
            more={pages.more}
            order={order}
            onOrder={(other) => change({ ...other })}
            empty={filtered ? "No task run is like that." : "This run has called no task yet."}
          />
        </>
      )}
    </>
  );
}

function headsOf(columns: TaskColumns): Head[] {
  return [
    {
      head: "State",
      width: "9.5rem",
      sort: "state",
      cell: (row) => <State fate={columns.fate[row]!} state={columns.state[row]!} />,
    },
    {
      head: "Task run",
      sort: "name",
      cell: (row) => (
        <>
          <span class="soft">{columns.place[row]}</span>
          <To class="strong" to={pathOf(columns.kind[row]!, columns.id[row]!)}>
            {columns.run_name[row]}
          </To>
        </>
      ),
    },
    {
      head: "Attempts",
      width: "5.8rem",
      sort: "attempts",
      number: true,
      wide: true,
      cell: (row) => <span class={columns.attempts[row]! > 1 ? "strong" : "soft"}>{columns.attempts[row]}</span>,
    },
    {
      head: "Started",
      width: "9rem",
      sort: "created",
      wide: true,
      cell: (row) => <Time at={columns.started[row] ?? columns.created[row]} />,
    },
    {
      head: "Duration",
      width: "7.5rem",
      sort: "duration",
      number: true,
      cell: (row) =>
        columns.ended[row] === null ? (
          <Lasted from={columns.started[row]!} to={null} over={false} />
        ) : (
          duration(columns.duration[row])
        ),
    },
    {
      head: "Parameters and error",
      width: "45%",
      wide: true,
      cell: (row) => (
        <>
          {columns.error[row] && <span class="bad">{columns.error[row]} </span>}
          <span class="soft mono">{columns.parameters[row]}</span>
        </>
      ),
    },
  ];
}

function Filters({ header }: { header: Header }) {
  const [now, change] = useAddress();
  const search = useRef<HTMLInputElement>(null);
  useKeys({
    "/": () => search.current?.focus(),
    Escape: () => change({ text: null, state: null, group: null }),
  });
  const { group } = header.groups.columns;
  return (
    <form
      class="controls filters"
      role="search"
      aria-label="filter task runs"
      onSubmit={(event) => event.preventDefault()}
    >
      <label class="grow">
        <span>Text</span>
        <Typed field={search} value={now.text} onText={(text) => change({ text })} hint="name, parameter, error" />
      </label>
      <label>
        <span>Task</span>
        <select value={now.group ?? ""} onChange={(event) => change({ group: event.currentTarget.value })}>
          <option value="">any</option>
          {group.map((one) => (
            <option key={one} value={one}>
              {one}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span>State</span>
        <select value={now.state ?? ""} onChange={(event) => change({ state: event.currentTarget.value })}>
          <option value="">any</option>
          {KINDS.map((kind) => (
            <option key={kind}>{kind}</option>
          ))}
        </select>
      </label>
    </form>
  );
}
