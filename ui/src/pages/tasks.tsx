import { useRef } from "preact/hooks";
import type { Header, Page, TaskColumns } from "../answers";
import { count, duration, ending, plural } from "../format";
import { useKeys } from "../keys";
import { useAddress } from "../parts/address";
import { Lasted, NothingCalled, pathOf, Time, To, Trouble } from "../parts/basics";
import { usePages } from "../parts/pages";
import { type Head, type Order, Table } from "../parts/table";
import { Choice, Typed } from "../parts/typed";
import { KINDS, State } from "../states";

const FILTERS = ["text", "state", "group"] as const;
const LONGEST_PLACE = 20; // characters
const flat = (answer: Page<TaskColumns>) => answer.columns;

export function TaskTable({ header }: { header: Header }) {
  const { id, ended } = header.run;
  const [now, change] = useAddress();
  const order: Order = { sort: now.sort ?? "created", direction: now.direction === "desc" ? "desc" : "asc" };
  const filters = Object.fromEntries(FILTERS.map((name) => [name, now[name]]));
  const pages = usePages<Page<TaskColumns>, TaskColumns>({
    path: `api/runs/${id}/tasks`,
    parameters: { ...filters, ...order },
    sort: order.sort,
    view: ended === null ? { view: "tasks", id } : null,
    flat,
  });
  const filtered = FILTERS.some((name) => now[name]);
  const { total, kind } = header.groups.columns;
  const all = total.reduce((sum, number) => sum + number, 0);
  const subflows = total.reduce((sum, number, row) => sum + (kind[row] === "flow" ? number : 0), 0);
  return (
    <>
      <Filters header={header} />
      <Trouble error={pages.error} />
      {pages.columns && (
        <>
          <p class="soft tally" role="status">
            {filtered && `${count(pages.rows)}${pages.hasMore ? " or more" : ""} of `}
            {plural(all - subflows, "task run")}
            {subflows > 0 && ` and ${plural(subflows, "subflow run")}`}
          </p>
          <Table
            caption="Task runs"
            heads={headsOf(pages.columns)}
            rows={pages.rows}
            total={filtered ? undefined : all}
            hasMore={pages.hasMore}
            onSee={pages.see}
            order={order}
            onOrder={(other) => change({ ...other })}
            empty={filtered ? "No task run is like that." : <NothingCalled over={ended !== null} />}
          />
        </>
      )}
    </>
  );
}

function headsOf(columns: TaskColumns): Head[] {
  return [
    {
      ...{ head: "State", width: "9.5rem", narrow: "6.6rem", sort: "state" },
      cell: (row) => <State fate={columns.fate[row]!} state={columns.state[row]!} />,
    },
    { head: "Task run", sort: "name", cell: (row) => <Named columns={columns} row={row} /> },
    {
      ...{ head: "Attempts", width: "5.8rem", sort: "attempts", number: true, wide: true },
      cell: (row) => <span class={columns.attempts[row]! > 1 ? "strong" : "soft"}>{columns.attempts[row]}</span>,
    },
    {
      ...{ head: "Started", width: "8.6rem", sort: "created", wide: true },
      cell: (row) => <Time at={columns.started[row] ?? columns.created[row]} />,
    },
    {
      ...{ head: "Duration", width: "7.5rem", narrow: "5.8rem", sort: "duration", number: true },
      cell: (row) => <Took columns={columns} row={row} />,
    },
    { head: "Error and parameters", width: "42%", wide: true, cell: (row) => <What columns={columns} row={row} /> },
  ];
}

interface CellProps {
  columns: TaskColumns;
  row: number;
}

function Named({ columns, row }: CellProps) {
  return (
    <span title={`${columns.place[row]}${columns.run_name[row]}`}>
      <span class="soft">{ending(columns.place[row]!, LONGEST_PLACE)}</span>
      <To class="strong" to={pathOf(columns.kind[row]!, columns.id[row]!)}>
        {columns.run_name[row]}
      </To>
    </span>
  );
}

function Took({ columns, row }: CellProps) {
  if (columns.ended[row] === null) return <Lasted from={columns.started[row]!} to={null} over={false} />;
  return <>{duration(columns.duration[row])}</>;
}

function What({ columns, row }: CellProps) {
  const [error, parameters] = [columns.error[row], columns.parameters[row]];
  return (
    <span title={[error, parameters].filter(Boolean).join("\n")}>
      {error && <span class="bad">{error} </span>}
      <span class="soft mono">{parameters}</span>
    </span>
  );
}

function Filters({ header }: { header: Header }) {
  const [now, change] = useAddress();
  const search = useRef<HTMLInputElement>(null);
  useKeys({
    "/": () => search.current?.focus(),
    Escape: () => change({ text: null, state: null, group: null }),
  });
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
      <Choice
        name="Task"
        value={now.group}
        choices={header.groups.columns.group}
        onChoose={(group) => change({ group })}
      />
      <Choice name="State" value={now.state} choices={KINDS} onChoose={(state) => change({ state })} />
    </form>
  );
}
