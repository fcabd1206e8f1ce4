// What went wrong in a run: its own error, and those of its task runs; the line of the user's code first.
import type { Errors, Header, Run } from "../answers";
import { query } from "../base";
import { count, plural } from "../format";
import { runPath, To, taskPath } from "./basics";

type Failed = Pick<Run, "error_type" | "error" | "user_line">;

export function Failure({ error_type, error, user_line }: Failed) {
  return (
    <>
      {user_line && <div class="place">{user_line}</div>}
      <div class="said">
        {error_type && <strong>{error_type}: </strong>}
        {error}
      </div>
    </>
  );
}

// The first one is there to be read, further ones are opened: a header is not to push the rest of the page away.
export function ErrorList({ header }: { header: Header }) {
  const { run, errors } = header;
  const all = errors.columns.id.map((_, row) => row);
  const own = run.error !== null && !all.some((row) => isSame(run, errors, row));
  const further = own ? all : all.slice(1);
  if (!own && !all.length) return null;
  return (
    <section class={`errors ${run.fate === "completed" ? "handled" : ""}`} aria-label="errors">
      {own ? <Failure {...run} /> : <TaskFailure errors={errors} row={0} />}
      {further.length === 1 && own && <TaskFailure errors={errors} row={0} />}
      {further.length > (own ? 1 : 0) && (
        <details>
          <summary>{plural(further.length, "further task")} failed</summary>
          {further.map((row) => (
            <TaskFailure key={row} errors={errors} row={row} />
          ))}
        </details>
      )}
      <More header={header} />
    </section>
  );
}

const flat = (text: string | null) => text?.replace(/\s+/g, " ").slice(0, 200) ?? "";

// A flow that lets the error of a task through has the same.
const isSame = (run: Run, { columns }: Errors, row: number) =>
  run.error_type === columns.error_type[row] && flat(run.error) === flat(columns.error[row]!);

function TaskFailure({ errors: { columns }, row }: { errors: Errors; row: number }) {
  const [error_type, error, user_line] = [columns.error_type[row]!, columns.error[row]!, columns.user_line[row]!];
  return (
    <div class="failure">
      <To to={taskPath(columns.id[row]!)} class="strong">
        {columns.title[row]}
      </To>{" "}
      <span class="soft">{columns.state[row]}</span>
      <Failure {...{ error_type, error, user_line }} />
    </div>
  );
}

function More({ header: { run, errors, groups } }: { header: Header }) {
  const someFailed = groups.fates.failed?.some((number) => number);
  if (!errors.more) return null;
  return (
    <To to={runPath(run.id) + query({ tab: "tasks", state: someFailed ? "failed" : "crashed" })}>
      {count(errors.more)} more
    </To>
  );
}
