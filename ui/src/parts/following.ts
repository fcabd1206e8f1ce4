// The lines of a log that a page holds: loaded where they are looked at, and those that come while the run goes on.
import { useEffect, useRef, useState } from "preact/hooks";
import type { Lines } from "../answers";
import { ask, follow } from "../api";
import { type Parameters, query } from "../base";
import { token } from "../token";
import { behind, inFront, moved, NONE, type Window } from "./lines";

const PAGE = 500;

export interface Log {
  held: Window | null;
  error: Error | null;
  following: boolean;
  missed: number; // lines that came while nobody followed
  grown: { current: number }; // by how many lines those that are held have moved since the last drawing
  start: (around?: number) => Promise<void>; // anew: around a line, or at the end
  load: (direction: "before" | "after") => void;
  setFollowing: (on: boolean) => void;
}

// `filters`: what the server is asked for, apart from the place. `at`: the line around which it begins.
export function useLog(id: string, live: boolean, filters: Parameters, at: number | null): Log {
  const lines = useLines(`api/runs/${id}/logs`, filters);
  const [following, follows] = useState(live && at === null);
  const [missed, setMissed] = useState(0);
  const isFollowed = useRef(following); // now, for what outlives a rendering
  isFollowed.current = following;

  const windowOf = ({ columns, before, after }: Lines): Window => ({ columns, before, after });
  const begin = (answer: Lines) => lines.show(windowOf(answer));
  const start = (around?: number) => lines.read({ around }, windowOf);
  const load = (direction: "before" | "after") => {
    const cursor = lines.held?.[direction];
    if (lines.isBusy() || cursor === null || cursor === undefined) return;
    void lines.read({ [direction]: cursor }, ({ columns, before, after }, now) =>
      direction === "after" ? behind(now!, columns, after) : inFront(now!, columns, before),
    );
  };
  const come = ({ columns }: Lines) => {
    const before = lines.now() ?? { columns: NONE, before: null, after: null };
    if (!columns.seq.length) return;
    const reaches = before.after === null;
    if (reaches) lines.show(behind(before, columns, null));
    if (!reaches || !isFollowed.current) setMissed((number) => number + columns.seq.length);
  };
  const listen = () =>
    follow(
      // without a line that is known the server begins with the last ones
      () => ({ view: "logs", id, ...filters, limit: PAGE, after: lines.now()?.columns.seq.at(-1) }),
      (event, data) => (event === "lines" ? come : begin)(JSON.parse(data)),
      lines.setError,
    );
  useRestart(query({ ...filters, id }), live, () => {
    lines.clear();
    setMissed(0);
    return { begun: live && at === null ? null : start(at ?? undefined), listen };
  });
  const setFollowing = (on: boolean) => {
    follows(on);
    setMissed(0);
    if (on && lines.held?.after !== null) void start();
  };
  const { held, error, grown } = lines;
  return { held, error, following, missed, grown, start, load, setFollowing };
}

// The lines that are held, and reading further ones.
function useLines(path: string, filters: Parameters) {
  const [held, setHeld] = useState<Window | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const latest = useRef(held); // for what outlives a rendering
  const busy = useRef(false);
  const turn = useRef(0); // of the question: an answer to an earlier one is too late
  const grown = useRef(0);
  const show = (next: Window | null) => {
    if (latest.current && next) grown.current += moved(latest.current, next);
    latest.current = next;
    setHeld(next);
  };
  const read = async (place: Parameters, take: (answer: Lines, now: Window | null) => Window) => {
    const mine = turn.current;
    busy.current = true;
    try {
      const answer = await ask<Lines>(path, { ...filters, ...place, limit: PAGE });
      if (mine === turn.current) show(take(answer, latest.current));
    } catch (problem) {
      if (mine === turn.current) setError(problem as Error);
    } finally {
      if (mine === turn.current) busy.current = false;
    }
  };
  const clear = () => {
    turn.current++;
    show(null);
    setError(null);
  };
  return { held, error, setError, grown, show, read, clear, now: () => latest.current, isBusy: () => busy.current };
}

interface Begun {
  begun: Promise<void> | null; // the first lines; null: the stream brings them
  listen: () => () => void;
}

// Begin anew with another question; listen once the first lines are there. When the run ends, the stream brings the
// last lines and ends: what is on the screen stays.
function useRestart(asked: string, live: boolean, restart: () => Begun) {
  const secret = token.value;
  useEffect(() => {
    let stop = () => {};
    let gone = false;
    const { begun, listen } = restart();
    const go = () => {
      if (live && !gone) stop = listen();
    };
    if (begun) void begun.then(go);
    else go();
    return () => {
      gone = true;
      stop();
    };
  }, [asked, secret]);
}
