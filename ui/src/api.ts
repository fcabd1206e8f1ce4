// Requests to the server, and documents that keep themselves up to date.
import { useEffect, useRef, useState } from "preact/hooks";
import { address, type Parameters, query } from "./base";
import { forget, token } from "./token";

export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly hint: string | null = null,
  ) {
    super(message);
  }
}

// Whether another try may help: the server is away, busy, or cannot read the store.
export const passes = (error: Error) =>
  !(error instanceof Refused) || error.status === 0 || error.status === 429 || error.status >= 500;

function headers(): Record<string, string> {
  return token.value ? { Authorization: `Bearer ${token.value}` } : {};
}

function refused(said: { error?: { status: number; message: string; hint: string | null } } | null): Refused | null {
  return said?.error ? new Refused(said.error.status, said.error.message, said.error.hint) : null;
}

async function checked(answer: Response): Promise<Response> {
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  if (answer.status === 401) forget();
  throw refused(said) ?? new Refused(answer.status, `The server answered ${answer.status}.`);
}

function reachable(error: unknown): never {
  if (error instanceof TypeError) throw new Refused(0, "The server cannot be reached. Is `penstock ui` still running?");
  throw error;
}

export async function ask<T>(path: string, parameters: Parameters = {}, signal?: AbortSignal): Promise<T> {
  const answer = await fetch(address(path, parameters), { headers: headers(), signal }).catch(reachable);
  return (await checked(answer)).json();
}

export async function send<T>(path: string, body: unknown): Promise<T> {
  const answer = await fetch(address(path), {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify(body),
  }).catch(reachable);
  return (await checked(answer)).json();
}

// --- pushed documents -----------------------------------------------------------------------------------------------

type Tell = (event: string, data: string) => void;

// Server-sent events, read by hand: EventSource cannot send a header. Returns whether the server said that this was all.
async function listen(parameters: Parameters, tell: Tell, signal: AbortSignal): Promise<boolean> {
  const answer = await fetch(address("api/live", parameters), { headers: headers(), signal }).catch(reachable);
  const reader = (await checked(answer)).body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return false;
    const events = (rest + value).split("\n\n");
    rest = events.pop()!;
    for (const event of events) {
      const name = /^event: ?(\w+)$/m.exec(event)?.[1];
      if (name === "end") return true;
      if (name) tell(name, event.slice(event.indexOf("data:") + 5));
    }
  }
}

const LONGEST_WAIT = 15_000;

// Follow a view until the run is over. Tabs that nobody looks at hold no connection: browsers allow six.
export function follow(parameters: () => Parameters, tell: Tell, trouble: (error: Error | null) => void): () => void {
  let stopped = false;
  let connection: AbortController | null = null;
  let wait = 1000;
  let timer = 0;

  const connect = async () => {
    if (stopped || document.hidden || connection) return;
    const mine = new AbortController();
    connection = mine;
    try {
      const over = await listen(
        parameters(),
        (event, data) => {
          wait = 1000;
          trouble(event === "problem" ? refused(JSON.parse(data)) : null);
          if (event !== "problem") tell(event, data);
        },
        mine.signal,
      );
      stopped ||= over;
    } catch (error) {
      if (mine.signal.aborted) return;
      trouble(error as Error);
      if (!passes(error as Error)) stopped = true;
    }
    if (connection === mine) connection = null;
    if (!stopped) timer = window.setTimeout(connect, wait);
    wait = Math.min(2 * wait, LONGEST_WAIT);
  };
  const seen = () => {
    if (!document.hidden) return void connect();
    connection?.abort();
    connection = null;
    clearTimeout(timer);
  };
  document.addEventListener("visibilitychange", seen);
  void connect();
  return () => {
    stopped = true;
    document.removeEventListener("visibilitychange", seen);
    clearTimeout(timer);
    connection?.abort();
  };
}

export interface Answer<T> {
  data: T | null;
  error: Error | null;
  busy: boolean; // the data answer an earlier question
  live: boolean;
  again: () => void; // ask once more, and keep what is there until then
}

// What the server says about `path`; null: nothing is asked. With `view` (its name, and what the path says), the
// server pushes it again when it changes.
export function useAnswer<T>(
  path: string | null,
  parameters: Parameters = {},
  view: Parameters | null = null,
): Answer<T> {
  const [answer, setAnswer] = useState<Omit<Answer<T>, "again">>({ data: null, error: null, busy: true, live: false });
  const [turn, setTurn] = useState(0);
  const asked = path === null ? null : path + query(parameters);
  const before = useRef<string | null>(null);
  const secret = token.value;
  // `asked` stands for path and parameters.
  useEffect(() => {
    if (path === null) return;
    const other = before.current !== null && before.current !== path;
    before.current = path;
    setAnswer((old) => ({ ...old, data: other ? null : old.data, busy: true }));
    if (view) {
      return follow(
        () => ({ ...view, ...parameters }),
        (_, data) => setAnswer({ data: JSON.parse(data), error: null, busy: false, live: true }),
        (error) => setAnswer((old) => (old.error === error ? old : { ...old, error, busy: false, live: !error })),
      );
    }
    const request = new AbortController();
    ask<T>(path, parameters, request.signal).then(
      (data) => setAnswer({ data, error: null, busy: false, live: false }),
      (error) => request.signal.aborted || setAnswer((old) => ({ ...old, error, busy: false })),
    );
    return () => request.abort();
  }, [asked, view && query(view), secret, turn]);
  return { ...answer, again: () => setTurn((number) => number + 1) };
}
