// Tables that are loaded stretch by stretch. While something goes on, the stretch that is looked at is pushed whenever it
// changes; one that was left is asked for again when it is scrolled to.
import { useEffect, useRef, useState } from "preact/hooks";
import { ask, follow, passes } from "../api";
import { type Parameters, query } from "../base";
import { token } from "../token";
import { type Columns, type Held, nextStart, PAGE, placeOf, refreshed } from "./rows";

export interface Pages<C> {
  columns: C | null;
  rows: number;
  hasMore: boolean;
  see: (first: number, last: number) => void; // these rows are on the screen
  error: Error | null;
}

export interface Question<A, C> {
  path: string;
  parameters: Parameters;
  sort: string;
  view: Parameters | null; // what the server is asked to push; null: nothing changes any more
  flat: (answer: A) => C; // makes the columns of an answer; one of them is `id`
}

const WAIT = 2000; // ms

type Answer = { next: string | null };

export function usePages<A extends Answer, C>(question: Question<A, C>): Pages<C> {
  const { path, parameters, view } = question;
  const asked = path + query(parameters);
  const table = useHeld(asked, question);
  const [error, setError] = useState<Error | null>(null);
  const secret = token.value;

  // `asked` stands for path and parameters.
  useEffect(() => {
    const now = { ...parameters, limit: PAGE, after: table.place() };
    if (view)
      return follow(
        () => ({ ...view, ...now }),
        (_, data) => table.take(asked, JSON.parse(data)),
        setError,
      );
    const request = new AbortController();
    let timer = 0;
    ask<A>(path, now, request.signal)
      .then((answer) => {
        table.take(asked, answer);
        setError(null);
      })
      .catch((problem) => {
        if (request.signal.aborted) return;
        setError(problem);
        if (passes(problem)) timer = window.setTimeout(table.askAgain, WAIT);
      });
    return () => {
      request.abort();
      clearTimeout(timer);
    };
  }, [asked, table.turn, view && query(view), secret]);

  return { columns: table.columns, rows: table.rows, hasMore: table.hasMore, see: table.see, error };
}

// The rows that are held, and where the stretch of them begins that is asked for.
function useHeld<A extends Answer, C>(asked: string, { flat, sort, view }: Question<A, C>) {
  const [, redraw] = useState(0);
  const now = useRef({ asked, held: null as Held | null, of: "", start: 0, turn: 0, busy: true, lasting: true });
  if (now.current.asked !== asked) Object.assign(now.current, { asked, start: 0, busy: true, lasting: true });
  if (view) now.current.lasting = false; // also later, when the run has ended: rows that were left are as old as they are
  const { held, turn } = now.current;

  const take = (question: string, answer: A) => {
    const { of, start, held: old } = now.current;
    const page = { columns: flat(answer) as unknown as Columns, next: answer.next };
    const all = old && of === question ? refreshed(old, page, start) : { held: page, start: 0 };
    Object.assign(now.current, { ...all, of: question, busy: false });
    redraw((version) => version + 1);
  };
  const askAgain = () => {
    Object.assign(now.current, { turn: now.current.turn + 1, busy: true });
    redraw((version) => version + 1);
  };
  const see = (first: number, last: number) => {
    const { held: old, of, start, busy, lasting } = now.current;
    if (!old || busy || of !== now.current.asked) return;
    const rows = old.columns.id!.length;
    const next = nextStart({ first, last, start }, { rows, hasMore: old.next !== null, lasting });
    if (next === null) return;
    now.current.start = next;
    askAgain();
  };
  const place = () => {
    const { held: old, of, start } = now.current;
    return old && start && of === now.current.asked ? placeOf(old.columns, start - 1, sort) : null;
  };
  const columns = held?.columns ?? null;
  return {
    columns: columns as unknown as C | null,
    rows: columns ? columns.id!.length : 0,
    hasMore: held?.next != null,
    ...{ turn, take, see, place, askAgain },
  };
}
