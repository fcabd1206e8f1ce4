// The timeline of a run: the canvas, what its colours mean, and the same in a table.
import { useState } from "preact/hooks";
import type { Header, Timeline } from "../answers";
import { useAnswer } from "../api";
import { count } from "../format";
import { NothingCalled, Trouble } from "../parts/basics";
import { Chart, type ChartProps, type Wanted } from "./chart";
import { InWords, Legend } from "./words";

const FETCHED = 200; // runs of the open group
const EMPTY: Timeline = {
  begin: null,
  end: null,
  from: 0,
  to: 1,
  bin: 1,
  states: [],
  groups: { columns: { group: [], place: [], kind: [], name: [], total: [], begin: [], end: [] }, bins: [], joined: 1 },
  more: 0,
  open: null,
};

type TimelineProps = Pick<ChartProps, "open" | "onOpen"> & { header: Header };

export function TimelineView({ header, open, onOpen }: TimelineProps) {
  const { run } = header;
  const [wanted, setWanted] = useState<Wanted | null>(null); // not before the room for the drawing is known
  const asked = { ...wanted, first: wanted?.open ? wanted.first : null, rows: wanted?.open ? FETCHED : null };
  const answer = useAnswer<Timeline>(
    wanted && `api/runs/${run.id}/timeline`,
    asked,
    run.ended === null ? { view: "timeline", id: run.id } : null,
  );
  const data = answer.data ?? EMPTY;
  return (
    <>
      <Trouble error={answer.error} />
      {answer.data && !data.groups.columns.group.length && (
        <p class="empty">
          <NothingCalled over={run.ended !== null} />
        </p>
      )}
      <Chart header={header} data={data} open={open} onOpen={onOpen} onWant={setWanted} />
      {data.more > 0 && <p class="soft">{count(data.more)} further groups are not shown; the task table has all.</p>}
      <Legend data={data} />
      <InWords header={header} data={data} />
    </>
  );
}
