// Where the time of a run went: what filled its wall time, and the chain of task runs that made it as long as it was.
import type { Header } from "../answers";
import { duration } from "../format";
import { pathOf, To } from "../parts/basics";

type Part = [name: string, seconds: number, kind: string, what: string];

export function WhereView({ header }: { header: Header }) {
  const { where, run } = header;
  if (!where)
    return (
      <p class="empty">
        {run.ended === null ? "This can be told when the run has ended." : "Nothing was below this run."}
      </p>
    );
  const all: [string, number | null, string, string][] = [
    ["user code", where.user, "completed", "attempts of all task runs, added up"],
    ["queue", where.queue, "queued", "ready, but not yet started, added up"],
    ["inputs", where.waiting, "queued", "waited for other task runs, added up"],
    ["retries", where.retrying, "retried", "between two attempts, added up"],
    ["rest", where.engine, "queued", "of the wall time: no task was at work, the flow itself was, or penstock"],
  ];
  // what would take too long to find out is not there
  const parts = all.filter((part): part is Part => part[1] !== null);
  const most = Math.max(where.wall, ...parts.map(([, seconds]) => seconds), 1e-9);
  return (
    <>
      <table class="where" aria-label="Where the time went">
        <tbody>
          <Row name="wall time" seconds={where.wall} most={most} kind="waiting" what="from start to end" />
          {parts.map(([name, seconds, kind, what]) => (
            <Row key={name} name={name} seconds={seconds} most={most} kind={kind} what={what} />
          ))}
        </tbody>
      </table>
      {where.parallel !== null && (
        <p>On average {where.parallel.toFixed(where.parallel < 10 ? 1 : 0)} task runs were at work at once.</p>
      )}
      <CriticalPath header={header} />
    </>
  );
}

function Row(props: { name: string; seconds: number; most: number; kind: string; what: string }) {
  return (
    <tr>
      <th scope="row">{props.name}</th>
      <td class="number">{duration(props.seconds)}</td>
      <td class="measure">
        <span class="ruler" aria-hidden="true">
          <span class={`b-${props.kind}`} style={{ width: `${(props.seconds / props.most) * 100}%` }} />
        </span>
      </td>
      <td class="soft">{props.what}</td>
    </tr>
  );
}

function CriticalPath({ header }: { header: Header }) {
  const { id } = header.where!.critical_path.columns;
  if (!id.length) return null;
  return (
    <>
      <h2>Critical path</h2>
      <p class="soft">
        The chain of task runs that decided when the run ended: shorten one of these to shorten the run.
      </p>
      <table class="where" aria-label="Critical path">
        <thead>
          <tr>
            <th scope="col">Task run</th>
            <th scope="col" class="number">
              Took
            </th>
            <th scope="col" class="number">
              Waited before
            </th>
            <th scope="col">When</th>
          </tr>
        </thead>
        <tbody>
          {id.map((one, row) => (
            <Step key={one} header={header} row={row} />
          ))}
        </tbody>
      </table>
    </>
  );
}

function Step({ header, row }: { header: Header; row: number }) {
  const { id, title, started, ended, waited } = header.where!.critical_path.columns;
  const begin = header.run.started ?? header.run.created;
  const [from, to] = [started[row] ?? begin, ended[row] ?? begin];
  const wall = Math.max(header.where!.wall, 1e-9);
  return (
    <tr>
      <th scope="row" title={title[row]}>
        <To to={pathOf("task", id[row]!)}>{title[row]}</To>
      </th>
      <td class="number">{duration(to - from)}</td>
      <td class="number">{duration(waited[row])}</td>
      <td class="measure">
        <span class="ruler" aria-hidden="true">
          <span class="gap" style={{ width: `${((from - begin) / wall) * 100}%` }} />
          <span class="b-completed" style={{ width: `${Math.max(0.3, ((to - from) / wall) * 100)}%` }} />
        </span>
      </td>
    </tr>
  );
}
