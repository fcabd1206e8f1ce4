// Small parts that every page uses. Recorded text reaches the page as children only: text nodes.
import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Link } from "wouter-preact";
import type { Run } from "../answers";
import { Refused } from "../api";
import { query } from "../base";
import { brief, duration, moment, sofar } from "../format";

export const runPath = (id: string) => `/runs/${id}`;
export const taskPath = (id: string) => `/tasks/${id}`;
export const flowPath = (name: string) => `/flows/${encodeURIComponent(name)}`;
export const pathOf = (kind: string, id: string) => (kind === "flow" ? runPath(id) : taskPath(id));

export function To({ to, children, ...rest }: { to: string; children: ComponentChildren; [name: string]: unknown }) {
  return (
    <Link href={to} {...rest}>
      {children}
    </Link>
  );
}

export function useTitle(title: string | null | undefined): void {
  useEffect(() => {
    document.title = title ? `${title} · penstock` : "penstock";
  }, [title]);
}

// How far below the top of the page an element begins.
export function useTop(element: RefObject<HTMLElement>): number {
  const [top, setTop] = useState(0);
  useLayoutEffect(() => {
    const now = Math.round((element.current?.getBoundingClientRect().top ?? 0) + scrollY);
    if (now !== top) setTop(now);
  });
  return top;
}

export function Time({ at }: { at: number | null | undefined }) {
  if (at === null || at === undefined) return <span class="soft">-</span>;
  return (
    <time dateTime={new Date(at * 1000).toISOString()} title={moment(at)}>
      {brief(at)}
    </time>
  );
}

export const NothingCalled = ({ over }: { over: boolean }) => (
  <>{over ? "This run called no task." : "This run has called no task yet."}</>
);

// The name of a run where it is one thing among others: as much of it as fits.
export const Clipped = ({ text }: { text: string }) => (
  <span class="clipped" title={text}>
    {text}
  </span>
);

// Begins with the title of the run.
// How it went; and what its state says, unless that is its error.
export const Outcome = ({ run: { title, error, message }, outcome }: { run: Run; outcome: string }) => (
  <>
    <p class="outcome">
      {outcome.startsWith(title) ? (
        <>
          <Clipped text={title} />
          {outcome.slice(title.length)}
        </>
      ) : (
        outcome
      )}
    </p>
    {error === null && message && <p class="said">{message}</p>}
  </>
);

// The time, told again while something goes on, as often as its length is said anew: see `sofar`.
function useNow(from: number | null): number {
  const [now, setNow] = useState(() => Date.now() / 1000);
  const pause = from !== null && now - from >= 10 ? 1000 : 500;
  useEffect(() => {
    if (from === null) return;
    const timer = setInterval(() => document.hidden || setNow(Date.now() / 1000), pause);
    return () => clearInterval(timer);
  }, [from, pause]);
  return now;
}

// While the end of a run that has crashed is not recorded yet, nobody knows when that was.
export const isOver = ({ fate, ended }: Pick<Run, "fate" | "ended">) => ended !== null || fate === "crashed";

export function Lasted({ from, to, over }: { from: number | null; to: number | null; over: boolean }) {
  const now = useNow(over ? null : from);
  if (from === null || (over && to === null)) return <span class="soft">-</span>;
  // of what goes on the tenths change often enough
  return <>{to === null ? sofar(now - from) : duration(to - from)}</>;
}

const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!:]$/.test(text) ? "" : ".");

// The frame asks for the token.
const isClosed = (error: Error) => error instanceof Refused && error.status === 401;

export function Trouble({ error }: { error: Error | null }) {
  if (!error || isClosed(error)) return null;
  return (
    <div class="trouble" role="alert">
      <p>{sentence(error.message)}</p>
      {error instanceof Refused && error.hint && <p class="soft">{sentence(error.hint)}</p>}
    </div>
  );
}

export function Loading({ error }: { error: Error | null }) {
  if (!error) return <p class="soft loading">Reading …</p>;
  if (isClosed(error)) return <h1>No access</h1>;
  return (
    <>
      <h1>{error instanceof Refused && error.status === 404 ? "It is not here" : "This cannot be shown"}</h1>
      <Trouble error={error} />
      <p>
        <To to="/runs">All runs</To>
      </p>
    </>
  );
}

export const Tags = ({ tags }: { tags: string[] }) => (
  <>
    {tags.map((tag) => (
      <To key={tag} to={`/runs${query({ tag })}`} class="tag">
        {tag}
      </To>
    ))}
  </>
);

// A long text: a few lines of it, and the rest when it is wanted.
export function Long({ text, lines = 6 }: { text: string; lines?: number }) {
  const [whole, setWhole] = useState(false);
  const all = text.split("\n");
  const long = text.length > 1200 || all.length > lines;
  const shown = whole || !long ? text : all.slice(0, lines).join("\n").slice(0, 1200);
  return (
    <div class="long">
      <pre tabIndex={0} role="region" aria-label="text">
        {shown}
        {!whole && long && "\n…"}
      </pre>
      {long && (
        <button type="button" class="plain" onClick={() => setWhole(!whole)}>
          {whole ? "less" : "all of it"}
        </button>
      )}
    </div>
  );
}

export function ValueTable({ columns, caption }: { columns: { name: string[]; value: string[] }; caption: string }) {
  if (!columns.name.length) return <p class="soft">none</p>;
  return (
    <table class="values" aria-label={caption}>
      <tbody>
        {columns.name.map((name, row) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            <td>
              <Value text={columns.value[row] ?? "-"} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function Value({ text }: { text: string }) {
  const [whole, setWhole] = useState(false);
  if (text.length <= 400) return <code>{text}</code>;
  return (
    <>
      <code>{whole ? text : `${text.slice(0, 400)}…`}</code>{" "}
      <button type="button" class="plain" onClick={() => setWhole(!whole)}>
        {whole ? "less" : "all of it"}
      </button>
    </>
  );
}

export function Dialog({
  title,
  onClose,
  children,
}: {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}) {
  const element = useRef<HTMLDialogElement>(null);
  const gone = useRef(false);
  useEffect(() => {
    const [back, dialog] = [document.activeElement, element.current!];
    dialog.showModal();
    return () => {
      gone.current = true;
      dialog.close(); // while it is open nothing outside of it takes the focus
      if (back instanceof HTMLElement) back.focus();
    };
  }, []);
  // The event of a closing comes a moment later: by then the same question can have been asked again.
  const closed = () => gone.current || onClose();
  const escaped = (event: Event) => {
    event.preventDefault();
    onClose();
  };
  return (
    <dialog ref={element} onCancel={escaped} onClose={closed} aria-labelledby="dialog-title">
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

export const Facts = ({ children }: { children: ComponentChildren }) => <dl class="facts">{children}</dl>;

// What tells a run from others, besides its name.
export const Marks = ({ run }: { run: Run }) => (
  <>
    {run.tags.length > 0 && (
      <Fact name="Tags">
        <Tags tags={run.tags} />
      </Fact>
    )}
    <Fact name="Id">
      <code>{run.id}</code>
    </Fact>
  </>
);

export function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
