import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Comparison, Run, Runs } from "../answers";
import { useAnswer } from "../api";
import { count, duration } from "../format";
import { useAddress } from "../parts/address";
import { Lasted, pathOf, Time, To, Trouble, useTitle, Value } from "../parts/basics";
import { State } from "../states";

export function ComparePage() {
  useTitle("Compare");
  const [now, change] = useAddress();
  const both = now.a && now.b;
  const answer = useAnswer<Comparison>(both ? "api/compare" : null, { a: now.a, b: now.b });
  const runs = useAnswer<Runs>("api/runs", { limit: 100 }).data?.columns;
  const [same, setSame] = useState(false);
  return (
    <>
      <h1>Compare two runs</h1>
      <div class="controls filters">
        <Pick name="First" runs={runs} value={now.a} onPick={(a) => change({ a })} />
        <Pick name="Second" runs={runs} value={now.b} onPick={(b) => change({ b })} />
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
  onPick: (id: string) => void;
}

function Pick({ name, runs: columns, value, onPick }: PickProps) {
  return (
    <label>
      <span>{name}</span>
      <select value={value ?? ""} onChange={(event) => onPick(event.currentTarget.value)}>
        <option value="">choose a run</option>
        {value && !columns?.id.includes(value) && <option value={value}>{value}</option>}
        {columns?.id.map((one, row) => (
          <option key={one} value={one}>
            {columns.name[row]}/{columns.run_name[row]} · {columns.state[row]}
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
            <RunHead run={data.runs.a} />
            <RunHead run={data.runs.b} />
          </tr>
        </thead>
        <tbody>
          <Pair
            name="State"
            a={<State {...data.runs.a} />}
            b={<State {...data.runs.b} />}
            same={data.runs.a.state === data.runs.b.state}
          />
          <Pair name="Outcome" a={data.outcomes.a} b={data.outcomes.b} same />
          <Pair name="Started" a={<Time at={data.runs.a.started} />} b={<Time at={data.runs.b.started} />} same />
          <Pair name="Duration" a={<Took run={data.runs.a} />} b={<Took run={data.runs.b} />} same />
        </tbody>
      </table>
      <Texts title="Parameters" columns={data.parameters.columns} same={same} />
      <Texts title="Where and how they ran" columns={data.info.columns} same={same} />
      <Tasks data={data} same={same} />
    </>
  );
}

const RunHead = ({ run }: { run: Run }) => (
  <th scope="col">
    <To to={pathOf(run.kind, run.id)}>{run.title}</To>
  </th>
);

const Took = ({ run }: { run: Run }) => <Lasted from={run.started} to={run.ended} over={run.ended !== null} />;

function Pair({ name, a, b, same }: { name: string; a: ComponentChildren; b: ComponentChildren; same: boolean }) {
  return (
    <tr class={same ? "same" : "differs"}>
      <th scope="row">{name}</th>
      <td>{a}</td>
      <td>{b}</td>
    </tr>
  );
}

function Texts({
  title,
  columns,
  same,
}: {
  title: string;
  columns: Comparison["parameters"]["columns"];
  same: boolean;
}) {
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

function Tasks({ data, same }: { data: Comparison; same: boolean }) {
  const { columns } = data.tasks;
  const differs = (row: number) =>
    columns.a_total[row] !== columns.b_total[row] ||
    columns.a_bad[row] !== columns.b_bad[row] ||
    columns.same_code[row] === false ||
    columns.same_results[row] === false ||
    times(row) > 1.25;
  const times = (row: number) => {
    const [a, b] = [columns.a_seconds[row] ?? 0, columns.b_seconds[row] ?? 0];
    return Math.abs(a - b) < 0.01 ? 1 : Math.max(a / b, b / a);
  };
  const shown = columns.group.map((_, row) => row).filter((row) => same || differs(row));
  return (
    <>
      <h2>Tasks</h2>
      {shown.length === 0 ? (
        <p class="soft">No difference beyond a quarter in time.</p>
      ) : (
        <div class="wideable">
          <table class="compare tasks" aria-label="Tasks">
            <thead>
              <tr>
                <th scope="col">Task</th>
                <th scope="col" class="number">
                  Runs, first
                </th>
                <th scope="col" class="number">
                  second
                </th>
                <th scope="col" class="number">
                  Time, first
                </th>
                <th scope="col" class="number">
                  second
                </th>
                <th scope="col">Change</th>
                <th scope="col">Code</th>
                <th scope="col">Results</th>
              </tr>
            </thead>
            <tbody>
              {shown.map((row) => (
                <tr key={columns.group[row]} class={differs(row) ? "differs" : "same"}>
                  <th scope="row">{columns.group[row]}</th>
                  <td class="number">
                    <Many total={columns.a_total[row]} bad={columns.a_bad[row]} />
                  </td>
                  <td class="number">
                    <Many total={columns.b_total[row]} bad={columns.b_bad[row]} />
                  </td>
                  <td class="number">{duration(columns.a_seconds[row])}</td>
                  <td class="number">{duration(columns.b_seconds[row])}</td>
                  <td>{changed(columns.a_seconds[row], columns.b_seconds[row])}</td>
                  <td class={columns.same_code[row] === false ? "strong" : "soft"}>{known(columns.same_code[row]!)}</td>
                  <td class={columns.same_results[row] === false ? "strong" : "soft"}>
                    {known(columns.same_results[row]!)}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
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
