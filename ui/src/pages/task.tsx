import { useState } from "preact/hooks";
import type { TaskRun } from "../answers";
import { ask, useAnswer } from "../api";
import { query } from "../base";
import { duration, plural } from "../format";
import { useKeys } from "../keys";
import { useAddress } from "../parts/address";
import {
  Fact,
  Facts,
  isOver,
  Lasted,
  Loading,
  Long,
  Marks,
  Outcome,
  pathOf,
  Time,
  To,
  Trouble,
  taskPath,
  useTitle,
  Value,
  ValueTable,
} from "../parts/basics";
import { Failure } from "../parts/errors";
import { LogView } from "../parts/log";
import { kindOf, Sign, State } from "../states";
import { Crumbs } from "./run";

const TABS = ["overview", "logs"] as const;

export function TaskPage({ id }: { id: string }) {
  const answer = useAnswer<TaskRun>(`api/tasks/${id}`, {}, { view: "task", id });
  useTitle(answer.data?.run.title ?? "Task run");
  const [now, change] = useAddress();
  useKeys({ "1": () => change({ tab: null }), "2": () => change({ tab: "logs" }) });
  if (!answer.data) return <Loading error={answer.error} />;
  const said = answer.data;
  const tab = now.tab === "logs" ? "logs" : "overview";
  return (
    <>
      <Trouble error={answer.error} />
      <Head said={said} />
      <OwnError said={said} />
      <nav class="tabs" aria-label="views of the task run">
        {TABS.map((one) => (
          <To
            key={one}
            to={taskPath(id) + query({ tab: one === "logs" ? one : null })}
            aria-current={one === tab ? "page" : undefined}
          >
            {one === "logs" ? "Logs" : "Overview"}
          </To>
        ))}
      </nav>
      {tab === "logs" ? <LogView run={said.run} names={[]} only={id} /> : <Overview said={said} />}
    </>
  );
}

function Head({ said }: { said: TaskRun }) {
  const { run } = said;
  return (
    <header class="head">
      <Crumbs described={said} current={run.title} />
      <div class="titleline">
        <h1 title={run.run_name}>{run.run_name}</h1>
        <State fate={run.fate} state={run.state} />
      </div>
      <Outcome run={run} outcome={said.outcome} />
      <Facts>
        <Fact name={run.kind === "flow" ? "Flow" : "Task"}>{run.name}</Fact>
        {run.map_index !== null && <Fact name="Index">{run.map_index}</Fact>}
        <Fact name="Started">
          <Time at={run.started} />
        </Fact>
        <Fact name="Duration">
          <Lasted from={run.started} to={run.ended} over={isOver(run)} />
        </Fact>
        {run.started !== null && <Fact name="Waited before">{duration(run.started - run.created)}</Fact>}
        <Fact name="Attempts">{run.attempts}</Fact>
        {said.children > 0 && <Fact name="Called">{called(said)}</Fact>}
        <Marks run={run} />
      </Facts>
    </header>
  );
}

function called({ run, children }: TaskRun) {
  const number = plural(children, "run");
  return run.kind === "flow" ? <To to={pathOf("flow", run.id)}>{number}</To> : number;
}

// The error of an attempt is told with it; a run may have one without an attempt.
function OwnError({ said: { run, attempts } }: { said: TaskRun }) {
  if (run.error === null || attempts.columns.error.at(-1) === run.error) return null;
  return (
    <section class="errors" aria-label="error">
      <Failure {...run} />
    </section>
  );
}

function Overview({ said }: { said: TaskRun }) {
  const { run } = said;
  return (
    <>
      <Attempts said={said} />
      <div class="columns">
        <div>
          <h2>Parameters</h2>
          <ValueTable columns={said.parameters.columns} caption="Parameters" />
          <h2>Result</h2>
          {run.result === null ? <p class="soft">none</p> : <Long text={run.result} />}
        </div>
        <div>
          <h2>Upstream</h2>
          <Upstreams said={said} />
          <h2>Downstream</h2>
          <Downstreams key={run.id} said={said} />
        </div>
      </div>
    </>
  );
}

function Attempts({ said }: { said: TaskRun }) {
  const { number, error_type, error, user_line, traceback } = said.attempts.columns;
  if (!number.length) return <p class="soft">It was never started.</p>;
  return (
    <>
      <h2>Attempts</h2>
      <table class="where attempts" aria-label="Attempts">
        <thead>
          <tr>
            <th scope="col" class="number">
              No.
            </th>
            <th scope="col">State</th>
            <th scope="col" class="wide">
              Started
            </th>
            <th scope="col" class="number">
              Took
            </th>
            <th scope="col">When</th>
          </tr>
        </thead>
        <tbody>
          {number.map((one, row) => (
            <Attempt key={one} said={said} row={row} />
          ))}
        </tbody>
      </table>
      {number.map((one, row) =>
        error[row] === null ? null : (
          <details class="errors" key={one} open={row === number.length - 1}>
            <summary>
              Attempt {one}: {error_type[row]}: {error[row]!.split("\n")[0]}
            </summary>
            {user_line[row] && <div class="place">{user_line[row]}</div>}
            {traceback[row] && <Long text={traceback[row]} lines={20} />}
          </details>
        ),
      )}
    </>
  );
}

function Attempt({ said, row }: { said: TaskRun; row: number }) {
  const { number, state, fate, started, ended } = said.attempts.columns;
  const begin = said.run.created;
  const whole = Math.max((ended.at(-1) ?? Date.now() / 1000) - begin, 1e-9);
  const share = (from: number | null, to: number | null) =>
    `${(((to ?? begin + whole) - (from ?? begin)) / whole) * 100}%`;
  return (
    <tr>
      <td class="number">{number[row]}</td>
      <td>
        <State fate={fate[row]!} state={state[row]!} />
      </td>
      <td class="wide">
        <Time at={started[row]} />
      </td>
      <td class="number">
        <Lasted from={started[row]!} to={ended[row]!} over={ended[row] !== null} />
      </td>
      <td class="measure">
        <span class="ruler" aria-hidden="true">
          <span class="gap" style={{ width: share(begin, started[row]!) }} />
          <span class={`b-${kindOf(fate[row]!)}`} style={{ width: share(started[row]!, ended[row]!) }} />
        </span>
      </td>
    </tr>
  );
}

function Upstreams({ said }: { said: TaskRun }) {
  const { id, title, fate, state, kind, parameter, result } = said.upstreams.columns;
  if (!id.length) return <p class="soft">It waited for no other run.</p>;
  return (
    <>
      <table class="values" aria-label="Runs that this one waited for">
        <tbody>
          {id.map((one, row) => (
            <tr key={`${one} ${kind[row]}`}>
              <th scope="row">{parameter[row] ?? (kind[row] === "data" ? "data" : "waited for")}</th>
              <td>
                <SignOnly fate={fate[row]!} state={state[row]!} /> <To to={pathOf("task", one)}>{title[row]}</To>{" "}
                {result[row] !== null && <Value text={result[row]!} />}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {said.upstreams.more > 0 && <p class="soft">and {said.upstreams.more} more</p>}
    </>
  );
}

function Downstreams({ said }: { said: TaskRun }) {
  const [pages, setPages] = useState<TaskRun["downstreams"][]>([]);
  const [error, setError] = useState<Error | null>(null);
  const all = [said.downstreams, ...pages];
  const next = all.at(-1)!.next;
  if (!said.downstreams.columns.id.length) return <p class="soft">No other run waited for it.</p>;
  const load = () =>
    void ask<TaskRun>(`api/tasks/${said.run.id}`, { after: next }).then(
      (answer) => setPages([...pages, answer.downstreams]),
      setError,
    );
  return (
    <>
      <ul class="runs">
        {all.flatMap(({ columns }) =>
          columns.id.map((one, row) => (
            <li key={`${one} ${columns.kind[row]}`}>
              <SignOnly fate={columns.fate[row]!} state={columns.state[row]!} />{" "}
              <To to={pathOf("task", one)}>{columns.title[row]}</To>{" "}
              <span class="soft">{columns.parameter[row] ?? (columns.kind[row] === "data" ? "" : "waited")}</span>
            </li>
          )),
        )}
      </ul>
      <Trouble error={error} />
      {next && (
        <button type="button" class="plain" onClick={load}>
          more
        </button>
      )}
    </>
  );
}

const SignOnly = ({ fate, state }: { fate: string; state: string }) => (
  <span class="state" title={state}>
    <Sign kind={kindOf(fate)} />
    <span class="hidden">{state}</span>
  </span>
);
