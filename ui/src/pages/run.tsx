import { lazy, Suspense } from "preact/compat";
import type { Header } from "../answers";
import { useAnswer } from "../api";
import { query } from "../base";
import { count, duration, plural } from "../format";
import { useKeys } from "../keys";
import { Actions } from "../parts/actions";
import { useAddress } from "../parts/address";
import {
  Clipped,
  Fact,
  Facts,
  flowPath,
  isOver,
  Lasted,
  Loading,
  Long,
  Marks,
  Outcome,
  pathOf,
  runPath,
  Time,
  To,
  Trouble,
  useTitle,
  ValueTable,
} from "../parts/basics";
import { ErrorList } from "../parts/errors";
import { LogView } from "../parts/log";
import { Bar, type Kind, type Numbers, numbersAt, State, total } from "../states";
import { TimelineView } from "../timeline/view";
import { TaskTable } from "./tasks";
import { WhereView } from "./where";

const GraphView = lazy(() => import("./graph"));

const TABS = ["timeline", "graph", "tasks", "logs", "parameters", "where"] as const;
const NAMES: Record<Tab, string> = {
  timeline: "Timeline",
  graph: "Graph",
  tasks: "Tasks",
  logs: "Logs",
  parameters: "Values",
  where: "Where the time went",
};
type Tab = (typeof TABS)[number];

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
      <Head header={header} again={answer.again} />
      <ErrorList header={header} />
      <Tabs header={header} tab={tab} />
      <section aria-label={NAMES[tab]}>
        <View header={header} tab={tab} />
      </section>
    </>
  );
}

function Tabs({ header, tab }: { header: Header; tab: Tab }) {
  return (
    <nav class="tabs" aria-label="views of the run">
      {TABS.map((one) => (
        <To key={one} to={runPath(header.run.id) + query({ tab: one })} aria-current={one === tab ? "page" : undefined}>
          {one === "where" ? <ShortOrLong short="Time" long={NAMES.where} /> : NAMES[one]}
          {one === "tasks" && <span class="soft"> {count(total(totalsOf(header)))}</span>}
        </To>
      ))}
    </nav>
  );
}

const ShortOrLong = ({ short, long }: { short: string; long: string }) => (
  <>
    <span class="wide">{long}</span>
    <span class="narrow">{short}</span>
  </>
);

function View({ header, tab }: { header: Header; tab: Tab }) {
  const [now, change] = useAddress();
  const { id, ended } = header.run;
  const live = ended === null;
  switch (tab) {
    case "timeline":
      return <TimelineView header={header} open={now.open ?? null} onOpen={(open) => change({ tab, open })} />;
    case "graph":
      return (
        <Suspense fallback={<p class="soft">Reading …</p>}>
          <GraphView id={id} live={live} />
        </Suspense>
      );
    case "tasks":
      return <TaskTable header={header} />;
    case "logs":
      return <LogView run={header.run} names={namesOf(header)} />;
    case "parameters":
      return <ValuesView header={header} />;
    case "where":
      return <WhereView header={header} />;
  }
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
          <To to={pathOf(kind[place]!, one)}>
            <Clipped text={title[place]!} />
          </To>
        </span>
      ))}
      <span aria-hidden="true"> / </span>
      <Clipped text={current} />
    </nav>
  );
}

function Head({ header, again }: { header: Header; again: () => void }) {
  const { run } = header;
  return (
    <header class="head">
      <Crumbs described={header} current={run.title} />
      <div class="titleline">
        <h1 title={run.run_name}>{run.run_name}</h1>
        <State fate={run.fate} state={run.state} />
        <Actions header={header} again={again} />
      </div>
      <Outcome run={run} outcome={header.outcome} />
      {total(totalsOf(header)) > 0 && <Bar numbers={totalsOf(header)} />}
      <RunFacts header={header} />
      <Lives header={header} />
    </header>
  );
}

function RunFacts({ header: { run, info } }: { header: Header }) {
  const known = (name: string) => info.columns.value[info.columns.name.indexOf(name)];
  return (
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
        <Lasted from={run.started} to={run.ended} over={isOver(run)} />
      </Fact>
      {known("host") && <Fact name="Host">{known("host")}</Fact>}
      {known("pid") && <Fact name="Process">{known("pid")}</Fact>}
      <Marks run={run} />
    </Facts>
  );
}

// Task runs by what has become of them; subflow runs are not counted, as in the sentence above.
function totalsOf({ groups }: Header): Numbers {
  const numbers: Numbers = {};
  groups.columns.kind.forEach((kind, row) => {
    for (const [fate, number] of Object.entries((kind === "task" && numbersAt(groups.fates, row)) || {})) {
      numbers[fate as Kind] = (numbers[fate as Kind] ?? 0) + number;
    }
  });
  return numbers;
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
        <ValueTable columns={identityOf(header)} caption="Identity" />
      </div>
    </div>
  );
}

const identityOf = ({ run }: Header) => ({
  name: ["key", "version", "created", "attempts"],
  value: [
    run.key,
    run.version ?? "-",
    `${duration((run.started ?? run.created) - run.created)} before it started`,
    String(run.attempts),
  ],
});
