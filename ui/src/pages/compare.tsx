import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Comparison, Run, Runs } from "../answers";
import { useAnswer } from "../api";
import { brief, count, duration } from "../format";
import { useAddress } from "../parts/address";
import { isOver, Lasted, pathOf, Time, To, Trouble, useTitle, Value } from "../parts/basics";
import { State } from "../states";

export function ComparePage() {
  useTitle("Compare");
  const [now, change] = useAddress();
  const both = now.a && now.b;
  const answer = useAnswer<Comparison>(both ? "api/compare" : null, { a: now.a, b: now.b });
  useEffect(() => {
    if (answer.data?.complete === false) answer.again();
  }, [answer.data]);
  const runs = useAnswer<Runs>("api/runs", { limit: 100 }).data?.columns;
  const [same, setSame] = useState(false);
  return (
    <>
      <h1>Compare two runs</h1>
      <div class="controls filters">
        <Pick name="A" runs={runs} value={now.a} title={answer.data?.runs.a.title} onPick={(a) => change({ a })} />
        <Pick name="B" runs={runs} value={now.b} title={answer.data?.runs.b.title} onPick={(b) => change({ b })} />
        {both && (
          <button type="button" onClick={() => change({ a: now.b, b: now.a })}>
            Exchange
          </button>
        )}
        <label>
          <input type="checkbox" checked={same} onChange={(event) => setSame(event.currentTarget.checked)} />
          what is the same, too
        </label>
      </div>
      {!both && <p class="empty">Choose two runs here, or with the boxes in the list of runs.</p>}
      {both && <Trouble error={answer.error} />}
      {both && answer.data && <Both data={answer.data} same={same} />}
    </>
  );
}

interface PickProps {
  name: string;
  runs?: Runs["columns"];
  value?: string;
  title?: string; // of the chosen run, which may not be among the latest
  onPick: (id: string) => void;
}

function Pick({ name, runs: columns, value, title, onPick }: PickProps) {
  return (
    <label>
      <span>{name}</span>
      <select value={value ?? ""} onChange={(event) => onPick(event.currentTarget.value)}>
        <option value="">choose a run</option>
        {value && !columns?.id.includes(value) && <option value={value}>{title ?? value}</option>}
        {columns?.id.map((one, row) => (
          <option key={one} value={one}>
            {columns.name[row]}/{columns.run_name[row]} · {columns.state[row]} · {brief(columns.created[row])}
          </option>
        ))}
      </select>
    </label>
  );
}

function Both({ data, same }: { data: Comparison; same: boolean }) {
  return (
    <>
      <table class="compare" aria-label="The two runs">
        <thead>
          <tr>
            <td />
            <RunHead name="A" run={data.runs.a} />
            <RunHead name="B" run={data.runs.b} />
          </tr>
        </thead>
        <tbody>
          <Pair
            name="State"
            a={<State {...data.runs.a} />}
            b={<State {...data.runs.b} />}
            same={data.runs.a.state === data.runs.b.state}
          />
          <Pair name="Outcome" a={data.outcomes.a ?? "…"} b={data.outcomes.b ?? "…"} same />
          <Pair name="Started" a={<Time at={data.runs.a.started} />} b={<Time at={data.runs.b.started} />} same />
          <Pair name="Duration" a={<Took run={data.runs.a} />} b={<Took run={data.runs.b} />} same />
        </tbody>
      </table>
      <Texts title="Parameters" columns={data.parameters.columns} same={same} />
      <Texts title="Where and how they ran" columns={data.info.columns} same={same} />
      {data.complete ? <Tasks data={data} same={same} /> : <p class="soft">The task runs are being counted.</p>}
    </>
  );
}

const RunHead = ({ name, run }: { name: string; run: Run }) => (
  <th scope="col">
    {name}: <To to={pathOf(run.kind, run.id)}>{run.title}</To>
  </th>
);

const Took = ({ run }: { run: Run }) => <Lasted from={run.started} to={run.ended} over={isOver(run)} />;

function Pair({ name, a, b, same }: { name: string; a: ComponentChildren; b: ComponentChildren; same: boolean }) {
  return (
    <tr class={same ? "same" : "differs"}>
      <th scope="row">{name}</th>
      <td>{a}</td>
      <td>{b}</td>
    </tr>
  );
}

interface TextsProps {
  title: string;
  columns: Comparison["parameters"]["columns"];
  same: boolean;
}

function Texts({ title, columns, same }: TextsProps) {
  const shown = columns.name.map((_, row) => row).filter((row) => same || !columns.same[row]);
  return (
    <>
      <h2>{title}</h2>
      {shown.length === 0 ? (
        <p class="soft">{columns.name.length ? "No difference." : "None."}</p>
      ) : (
        <table class="compare" aria-label={title}>
          <tbody>
            {shown.map((row) => (
              <Pair
                key={columns.name[row]}
                name={columns.name[row]!}
                a={<Said text={columns.a[row]} />}
                b={<Said text={columns.b[row]} />}
                same={columns.same[row]!}
              />
            ))}
          </tbody>
        </table>
      )}
    </>
  );
}

const Said = ({ text }: { text: string | null | undefined }) =>
  text === null || text === undefined ? <span class="soft">absent</span> : <Value text={text} />;

const known = (same: boolean | null) => (same === null ? "not known" : same ? "same" : "differs");

type TaskPairs = Comparison["tasks"]["columns"];

function Tasks({ data, same }: { data: Comparison; same: boolean }) {
  const { columns } = data.tasks;
  const shown = columns.group.map((_, row) => row).filter((row) => same || differs(columns, row));
  return (
    <>
      <h2>Tasks</h2>
      {shown.length === 0 ? (
        <p class="soft">No difference beyond a quarter in time.</p>
      ) : (
        <div class="wideable" role="region" tabIndex={0} aria-label="tasks of both runs">
          <table class="compare tasks" aria-label="Tasks">
            <TaskHeads />
            <tbody>
              {shown.map((row) => (
                <TaskPair key={columns.group[row]} columns={columns} row={row} />
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

function differs(columns: TaskPairs, row: number): boolean {
  const [a, b] = [columns.a_seconds[row] ?? 0, columns.b_seconds[row] ?? 0];
  const times = Math.abs(a - b) < 0.01 ? 1 : Math.max(a / b, b / a);
  return (
    columns.a_total[row] !== columns.b_total[row] ||
    columns.a_bad[row] !== columns.b_bad[row] ||
    columns.same_code[row] === false ||
    columns.same_results[row] === false ||
    times > 1.25
  );
}

const NUMBERS = ["A: runs", "B: runs", "A: time", "B: time"];

const TaskHeads = () => (
  <thead>
    <tr>
      <th scope="col">Task</th>
      {NUMBERS.map((name) => (
        <th key={name} scope="col" class="number">
          {name}
        </th>
      ))}
      <th scope="col">B to A</th>
      <th scope="col">Code</th>
      <th scope="col">Results</th>
    </tr>
  </thead>
);

function TaskPair({ columns, row }: { columns: TaskPairs; row: number }) {
  const { a_total, b_total, a_bad, b_bad, a_seconds, b_seconds, same_code, same_results } = columns;
  const both = a_total[row] !== null && b_total[row] !== null;
  return (
    <tr class={differs(columns, row) ? "differs" : "same"}>
      <th scope="row">{columns.group[row]}</th>
      <td class="number">
        <Many total={a_total[row]} bad={a_bad[row]} />
      </td>
      <td class="number">
        <Many total={b_total[row]} bad={b_bad[row]} />
      </td>
      <td class="number">{duration(a_seconds[row])}</td>
      <td class="number">{duration(b_seconds[row])}</td>
      <td>{changed(a_seconds[row], b_seconds[row])}</td>
      <td class={same_code[row] === false ? "strong" : "soft"}>{both ? known(same_code[row]!) : "-"}</td>
      <td class={same_results[row] === false ? "strong" : "soft"}>{both ? known(same_results[row]!) : "-"}</td>
    </tr>
  );
}

// null: that run has no such task.
const Many = ({ total, bad }: { total: number | null | undefined; bad: number | null | undefined }) => (
  <>
    {total ? count(total) : "-"}
    {bad ? <span class="bad"> ({count(bad)} failed)</span> : null}
  </>
);

function changed(a: number | null | undefined, b: number | null | undefined): string {
  if (!a || !b) return "-";
  const by = b / a;
  if (Math.abs(by - 1) < 0.05) return "about the same";
  return by > 1
    ? `${by.toFixed(by < 10 ? 1 : 0)} times as long`
    : `${(1 / by).toFixed(1 / by < 10 ? 1 : 0)} times as fast`;
}
