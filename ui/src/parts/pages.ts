// Tables that are loaded page by page. The columns of all pages are joined; the first page may be pushed again.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ask, follow } from "../api";
import { type Parameters, query } from "../base";
import { token } from "../token";
import { type Columns, type Held, joined, refreshed } from "./rows";

export interface Pages<C> {
  columns: C | null;
  rows: number;
  more: (() => void) | null;
  error: Error | null;
  busy: boolean;
}

// `flat` makes the columns of an answer; one of them is `id`.
export function usePages<A extends { next: string | null }, C>(
  path: string,
  parameters: Parameters,
  flat: (answer: A) => C,
  view: Parameters | null,
): Pages<C> {
  const held = useRef<Held | null>(null);
  const [, setVersion] = useState(0);
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(true);
  const loading = useRef<AbortController | null>(null);
  const asked = path + query(parameters);
  const secret = token.value;

  // `asked` stands for path and parameters.
  useEffect(() => {
    let first = true;
    setBusy(true);
    const take = (answer: A) => {
      const page = { columns: flat(answer) as unknown as Columns, next: answer.next };
      held.current = first || !held.current ? page : refreshed(held.current, page);
      first = false;
      setBusy(false);
      setError(null);
      setVersion((version) => version + 1);
    };
    const fail = (problem: Error | null) => {
      setError(problem);
      if (problem) setBusy(false);
    };
    if (view) {
      const stop = follow(
        () => ({ ...view, ...parameters }),
        (_, data) => take(JSON.parse(data)),
        fail,
      );
      return () => {
        stop();
        loading.current?.abort();
        loading.current = null;
      };
    }
    const request = new AbortController();
    ask<A>(path, parameters, request.signal).then(take, (problem) => request.signal.aborted || fail(problem));
    return () => {
      request.abort();
      loading.current?.abort();
      loading.current = null;
    };
  }, [asked, view && query(view), secret]);

  // `asked` again.
  const more = useCallback(() => {
    const now = held.current;
    if (!now?.next || loading.current) return;
    const request = new AbortController();
    loading.current = request;
    ask<A>(path, { ...parameters, after: now.next }, request.signal)
      .then((answer) => {
        loading.current = null;
        if (held.current)
          held.current = joined(held.current, { columns: flat(answer) as unknown as Columns, next: answer.next });
        setVersion((version) => version + 1);
      })
      .catch((problem) => {
        if (request.signal.aborted) return;
        loading.current = null;
        setError(problem);
      });
  }, [asked]);

  const columns = held.current?.columns ?? null;
  return {
    columns: columns as unknown as C | null,
    rows: columns ? columns.id!.length : 0,
    more: held.current?.next ? more : null,
    error,
    busy,
  };
}
