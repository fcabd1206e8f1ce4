// What has become of each task in each run of a flow.
import type { Flow } from "../answers";
import { count, duration, plural } from "../format";
import { runPath, To } from "../parts/basics";
import { kindOf, Sign } from "../states";

// A column for each run, oldest at the left; a row for each task. A cell tells the worst that happened there, by its sign.
export function HeatMap({ flow }: { flow: Flow }) {
  const { columns } = flow.runs;
  const cells = new Map(flow.cells.task.map((task, place) => [`${task} ${flow.cells.run[place]}`, place]));
  const placeOf = (task: number, run: number) => cells.get(`${task} ${run}`);
  const order = columns.id.map((_, run) => run).reverse();
  if (!flow.tasks.columns.group.length) return <p class="soft">No task was called.</p>;
  return (
    <div class="heat" role="region" tabIndex={0} aria-label="tasks and runs">
      <table aria-label={`Tasks and runs of ${flow.name}, oldest run first`}>
        <RunHeads flow={flow} order={order} />
        <tbody>
          {flow.tasks.columns.group.map((group, task) => (
            <TaskRow key={group} flow={flow} name={group} places={order.map((run) => placeOf(task, run))} />
          ))}
        </tbody>
      </table>
      <p class="help">
        The sign tells the worst that happened to the runs of a task; the bar below it how much time they took, compared
        with the slowest in its row.
      </p>
    </div>
  );
}

function RunHeads({ flow, order }: { flow: Flow; order: number[] }) {
  const { id, run_name, state, fate } = flow.runs.columns;
  return (
    <thead>
      <tr>
        <th scope="col">Task</th>
        {order.map((run) => (
          <th key={run} scope="col">
            <To
              to={runPath(id[run]!)}
              title={`${run_name[run]}: ${state[run]}`}
              aria-label={`${run_name[run]}: ${state[run]}`}
            >
              <Sign kind={kindOf(fate[run]!)} />
            </To>
          </th>
        ))}
      </tr>
    </thead>
  );
}

// `places`: of the cells, in the order of the runs; undefined: the task is not in that run.
function TaskRow({ flow, name, places }: { flow: Flow; name: string; places: (number | undefined)[] }) {
  const slowest = Math.max(1e-9, ...places.map((place) => (place === undefined ? 0 : flow.cells.seconds[place]!)));
  return (
    <tr>
      <th scope="row" title={name}>
        {name}
      </th>
      {places.map((place, row) => (
        <Cell key={row} flow={flow} place={place} slowest={slowest} />
      ))}
    </tr>
  );
}

function Cell({ flow, place, slowest }: { flow: Flow; place: number | undefined; slowest: number }) {
  if (place === undefined) return <td />;
  const { fate, number, bad, seconds } = flow.cells;
  const kind = kindOf(fate[place]!);
  const said = `${kind}, ${plural(number[place]!, "run")}${bad[place] ? `, ${count(bad[place]!)} failed` : ""}, ${duration(seconds[place])}`;
  return (
    <td title={said}>
      <span class="hidden">{said}</span>
      <span class="cell" aria-hidden="true">
        <Sign kind={kind} />
        <span class={`b-${kind}`} style={{ width: `${Math.max(8, (seconds[place]! / slowest) * 100)}%` }} />
      </span>
    </td>
  );
}
