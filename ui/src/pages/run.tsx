import { lazy, Suspense } from "preact/compat";
import { useLocation } from "wouter-preact";
import type { Errors, Header } from "../answers";
import { useAnswer } from "../api";
import { query } from "../base";
import { count, duration, plural } from "../format";
import { useKeys } from "../keys";
import { Actions } from "../parts/actions";
import { useAddress } from "../parts/address";
import {
  Fact,
  Facts,
  flowPath,
  Lasted,
  Loading,
  Long,
  pathOf,
  runPath,
  Tags,
  Time,
  To,
  Trouble,
  taskPath,
  useTitle,
  ValueTable,
} from "../parts/basics";
import { LogView } from "../parts/log";
import { Bar, numbersAt, State } from "../states";
import { TimelineView } from "../timeline/view";
import { TaskTable } from "./tasks";
import { WhereView } from "./where";

const GraphView = lazy(() => import("./graph"));

const TABS = ["timeline", "graph", "tasks", "logs", "parameters", "where"] as const;
const NAMES: Record<(typeof TABS)[number], string> = {
  timeline: "Timeline",
  graph: "Graph",
  tasks: "Tasks",
  logs: "Logs",
  parameters: "Values",
  where: "Where the time went",
};

export function RunPage({ id }: { id: string }) {
  const answer = useAnswer<Header>(`api/runs/${id}`, {}, { view: "run", id });
  useTitle(answer.data?.run.title ?? "Run");
  const [now, change] = useAddress();
  const tab = TABS.find((one) => one === now.tab) ?? "timeline";
  const turn = (place: number) => () => change({ tab: TABS[place] });
  useKeys(Object.fromEntries(TABS.map((_, place) => [String(place + 1), turn(place)])));
  if (!answer.data) return <Loading error={answer.error} />;
  const header = answer.data;
  return (
    <>
      <Trouble error={answer.error} />
      <Head header={header} />
      <ErrorList errors={header.errors} handled={header.run.fate === "completed"} />
      <nav class="tabs" aria-label="views of the run">
        {TABS.map((one) => (
          <To key={one} to={runPath(id) + query({ tab: one })} aria-current={one === tab ? "page" : undefined}>
            {NAMES[one]}
            {one === "tasks" && (
              <span class="soft"> {count(header.groups.columns.total.reduce((a, b) => a + b, 0))}</span>
            )}
          </To>
        ))}
      </nav>
      <section aria-label={NAMES[tab]}>
        {tab === "timeline" && (
          <TimelineView header={header} open={now.open ?? null} onOpen={(open) => change({ tab, open })} />
        )}
        {tab === "graph" && (
          <Suspense fallback={<p class="soft">Reading …</p>}>
            <GraphView id={id} live={header.run.ended === null} />
          </Suspense>
        )}
        {tab === "tasks" && <TaskTable header={header} />}
        {tab === "logs" && <LogView id={id} live={header.run.ended === null} names={namesOf(header)} />}
        {tab === "parameters" && <ValuesView header={header} />}
        {tab === "where" && <WhereView header={header} />}
      </section>
    </>
  );
}

const namesOf = (header: Header) => [...new Set(header.groups.columns.name)];

export function Crumbs({ described, current }: { described: Pick<Header, "parents">; current: string }) {
  const { id, title, kind } = described.parents.columns;
  return (
    <nav class="crumbs" aria-label="where this is">
      <To to="/runs">Runs</To>
      {id.map((one, place) => (
        <span key={one}>
          <span aria-hidden="true"> / </span>
          <To to={pathOf(kind[place]!, one)}>{title[place]}</To>
        </span>
      ))}
      <span aria-hidden="true"> / </span>
      <span>{current}</span>
    </nav>
  );
}

function Head({ header }: { header: Header }) {
  const { run } = header;
  return (
    <header class="head">
      <Crumbs described={header} current={run.title} />
      <div class="titleline">
        <h1>{run.run_name}</h1>
        <State fate={run.fate} state={run.state} />
        <Actions run={run} />
      </div>
      <p class="outcome">{header.outcome}</p>
      <Totals header={header} />
      <Facts>
        {run.kind === "flow" && (
          <Fact name="Flow">
            <To to={flowPath(run.name)}>{run.name}</To>
          </Fact>
        )}
        <Fact name="Started">
          <Time at={run.started ?? run.created} />
        </Fact>
        <Fact name="Duration">
          <Lasted from={run.started} to={run.ended} over={run.ended !== null} />
        </Fact>
        {header.info.columns.name.map((name, row) =>
          name === "host" || name === "pid" ? (
            <Fact key={name} name={name === "host" ? "Host" : "Process"}>
              {header.info.columns.value[row]}
            </Fact>
          ) : null,
        )}
        {run.tags.length > 0 && (
          <Fact name="Tags">
            <Tags tags={run.tags} />
          </Fact>
        )}
        <Fact name="Id">
          <code>{run.id}</code>
        </Fact>
      </Facts>
      <Lives header={header} />
    </header>
  );
}

function Totals({ header }: { header: Header }) {
  const numbers: Record<string, number> = {};
  header.groups.columns.group.forEach((_, row) => {
    for (const [kind, number] of Object.entries(numbersAt(header.groups.fates, row) ?? {})) {
      numbers[kind] = (numbers[kind] ?? 0) + number;
    }
  });
  return Object.keys(numbers).length ? <Bar numbers={numbers} /> : null;
}

function Lives({ header }: { header: Header }) {
  const { id, title, state, fate, created } = header.lives.columns;
  if (id.length < 2) return null;
  return (
    <details class="lives">
      <summary>One of {plural(id.length, "life").replace("lifes", "lives")} of this work</summary>
      <ul>
        {id.map((one, row) => (
          <li key={one}>
            <State fate={fate[row]!} state={state[row]!} />{" "}
            {one === header.run.id ? <strong>{title[row]} (this one)</strong> : <To to={runPath(one)}>{title[row]}</To>}{" "}
            <Time at={created[row]} />
            {one !== header.run.id && (
              <>
                {" "}
                <To to={`/compare${query({ a: one, b: header.run.id })}`}>compare</To>
              </>
            )}
          </li>
        ))}
      </ul>
    </details>
  );
}

// Errors of task runs, the user's own line first.
export function ErrorList({ errors, handled }: { errors: Errors; handled: boolean }) {
  const { id, title, error_type, error, user_line, state } = errors.columns;
  const [, go] = useLocation();
  const [now] = useAddress();
  if (!id.length) return null;
  return (
    <section class={`errors ${handled ? "handled" : ""}`} aria-label="errors">
      <ul>
        {id.map((one, row) => (
          <li key={one}>
            <To to={taskPath(one)} class="strong">
              {title[row]}
            </To>{" "}
            <span class="soft">{state[row]}</span>
            {user_line[row] && <div class="place">{user_line[row]}</div>}
            <div class="said">
              {error_type[row] && <strong>{error_type[row]}: </strong>}
              {error[row]}
            </div>
          </li>
        ))}
      </ul>
      {errors.more > 0 && (
        <button type="button" class="plain" onClick={() => go(query({ ...now, tab: "tasks", state: "failed" }))}>
          {count(errors.more)} more
        </button>
      )}
    </section>
  );
}

function ValuesView({ header }: { header: Header }) {
  const { run } = header;
  return (
    <div class="columns">
      <div>
        <h2>Parameters</h2>
        <ValueTable columns={header.parameters.columns} caption="Parameters" />
        <h2>Result</h2>
        {run.result === null ? <p class="soft">none</p> : <Long text={run.result} />}
        {run.traceback && (
          <>
            <h2>Error</h2>
            {run.user_line && <p class="place">{run.user_line}</p>}
            <Long text={run.traceback} lines={12} />
          </>
        )}
      </div>
      <div>
        <h2>Where and how it ran</h2>
        <ValueTable columns={header.info.columns} caption="Where and how it ran" />
        <h2>Identity</h2>
        <ValueTable
          caption="Identity"
          columns={{
            name: ["key", "version", "created", "attempts"],
            value: [
              run.key,
              run.version ?? "-",
              `${duration((run.started ?? run.created) - run.created)} before it started`,
              String(run.attempts),
            ],
          }}
        />
      </div>
    </div>
  );
}
