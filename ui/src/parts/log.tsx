// The log of a run: a window of its lines, which grows at the end that is scrolled to and gives up lines at the other.
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { LineColumns, Lines } from "../answers";
import { ask, follow } from "../api";
import { query } from "../base";
import { clockMs, count, moment } from "../format";
import { useKeys } from "../keys";
import { token } from "../token";
import { useAddress } from "./address";
import { To, Trouble, taskPath } from "./basics";
import { behind, inFront, NONE, type Window } from "./lines";
import { Typed } from "./typed";

const PAGE = 500;
const HEIGHT = 20;
const LEVELS = ["debug", "info", "warning", "error", "critical"];

const levelName = (level: number) =>
  level >= 50 ? "critical" : level >= 40 ? "error" : level >= 30 ? "warning" : level >= 20 ? "info" : "debug";

export function LogView({ id, live, names, only }: { id: string; live: boolean; names: string[]; only?: string }) {
  const [now, change] = useAddress();
  const [held, setHeld] = useState<Window | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [following, setFollowing] = useState(live && !now.line);
  const [missed, setMissed] = useState(0);
  const [chosen, setChosen] = useState<number | null>(now.line ? Number(now.line) : null);
  const scroller = useRef<HTMLDivElement>(null);
  const search = useRef<HTMLInputElement>(null);
  const loading = useRef(false);
  const grown = useRef(0); // lines that came in front: the page is not to jump
  const filters = { level: now.level, task: only ?? now.task, text: now.text };
  const asked = query(filters);
  const path = `api/runs/${id}/logs`;
  const secret = token.value;
  const latest = useRef({ held, following });
  latest.current = { held, following };

  const take = (answer: Lines) => setHeld({ columns: answer.columns, before: answer.before, after: answer.after });
  const start = (place: { around?: number } = {}) => {
    loading.current = true;
    return ask<Lines>(path, { ...filters, ...place, limit: PAGE })
      .then(take, setError)
      .finally(() => {
        loading.current = false;
      });
  };

  // `asked` stands for the filters.
  useEffect(() => {
    let stop = () => {};
    let gone = false;
    setHeld(null);
    setError(null);
    setMissed(0);
    start(chosen !== null ? { around: chosen } : {}).then(() => {
      if (live && !gone) stop = listen();
    });
    return () => {
      gone = true;
      stop();
    };
  }, [asked, id, live, secret]);

  const listen = () =>
    follow(
      () => ({ view: "logs", id, ...filters, after: latest.current.held?.columns.seq.at(-1) ?? 0 }),
      (_, data) => {
        const answer: Lines = JSON.parse(data);
        const { held: before, following: on } = latest.current;
        if (!answer.columns.seq.length) return;
        if (before && before.after !== null) return setMissed((number) => number + answer.columns.seq.length);
        const next = behind(before ?? { columns: NONE, before: null, after: null }, answer.columns, null);
        latest.current.held = next;
        setHeld(next);
        if (!on) setMissed((number) => number + answer.columns.seq.length);
      },
      setError,
    );

  const load = (direction: "before" | "after") => {
    const cursor = held?.[direction];
    if (loading.current || cursor === null || cursor === undefined) return;
    loading.current = true;
    ask<Lines>(path, { ...filters, [direction]: cursor, limit: PAGE })
      .then((answer) => {
        const now = latest.current.held!;
        if (direction === "before") grown.current += answer.columns.seq.length;
        setHeld(
          direction === "before"
            ? inFront(now, answer.columns, answer.before)
            : behind(now, answer.columns, answer.after),
        );
      }, setError)
      .finally(() => {
        loading.current = false;
      });
  };

  const columns = held?.columns ?? NONE;
  const length = columns.seq.length;
  const virtual = useVirtualizer({
    count: length,
    getScrollElement: () => scroller.current,
    estimateSize: () => HEIGHT,
    overscan: 15,
  });
  const items = virtual.getVirtualItems();
  const [top, bottom] = [items[0]?.index ?? 0, items.at(-1)?.index ?? 0];

  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return;
    if (grown.current) {
      element.scrollTop += grown.current * HEIGHT;
      grown.current = 0;
    } else if (following) element.scrollTop = element.scrollHeight;
  }, [held, following]);
  const placed = useRef(false);
  useLayoutEffect(() => {
    if (placed.current || !length || !scroller.current) return;
    placed.current = true;
    const at = chosen === null ? -1 : columns.seq.indexOf(chosen);
    scroller.current.scrollTop = at < 0 ? scroller.current.scrollHeight : at * HEIGHT - 150;
  }, [length]);
  useEffect(() => {
    placed.current = false;
  }, [asked]);
  useEffect(() => {
    if (!held || !placed.current) return;
    if (top < 40) load("before");
    else if (bottom > length - 40) load("after");
  }, [top, bottom, held]);

  const toggle = () => {
    setFollowing(!following);
    setMissed(0);
    if (!following && held?.after !== null) void start();
  };
  const choose = (row: number) => {
    const seq = columns.seq[row];
    if (seq === undefined) return;
    setChosen(seq);
    setFollowing(false);
    change({ tab: now.tab, line: seq });
  };
  const leave = () => {
    setChosen(null);
    change({ line: null });
  };
  const walk = (step: number) => {
    const at = chosen === null ? -1 : columns.seq.indexOf(chosen);
    const next = at < 0 ? bottom : Math.min(Math.max(at + step, 0), length - 1);
    choose(next);
    virtual.scrollToIndex(next);
  };
  useKeys({
    "/": () => search.current?.focus(),
    f: toggle,
    j: () => walk(1),
    k: () => walk(-1),
    Escape: () => (chosen === null ? change({ text: null, level: null, task: null }) : leave()),
  });
  const scrolled = () => {
    const element = scroller.current!;
    const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - HEIGHT;
    if (following && !atEnd) setFollowing(false);
  };
  const row = chosen === null ? -1 : columns.seq.indexOf(chosen);
  return (
    <>
      <form
        class="controls filters"
        role="search"
        aria-label="filter lines"
        onSubmit={(event) => event.preventDefault()}
      >
        <label class="grow">
          <span>Text</span>
          <Typed
            field={search}
            value={now.text}
            onText={(text) => change({ text, line: null })}
            hint="part of the message"
          />
        </label>
        <label>
          <span>Level</span>
          <select value={now.level ?? ""} onChange={(event) => change({ level: event.currentTarget.value })}>
            <option value="">all</option>
            {LEVELS.slice(1).map((level) => (
              <option key={level} value={level}>
                {level} and above
              </option>
            ))}
          </select>
        </label>
        {!only && (
          <label>
            <span>Task</span>
            <select value={now.task ?? ""} onChange={(event) => change({ task: event.currentTarget.value })}>
              <option value="">any</option>
              {names.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        )}
        {live && (
          <button type="button" onClick={toggle} aria-pressed={following} class={following ? "on" : ""}>
            {following ? "Following" : missed ? `Follow (${count(missed)} new)` : "Follow"}
          </button>
        )}
        {!live && (
          <button type="button" onClick={() => void start().then(() => virtual.scrollToOffset(1e9))}>
            To the end
          </button>
        )}
      </form>
      <Trouble error={error} />
      <div
        class="lines"
        ref={scroller}
        tabIndex={0}
        role="log"
        aria-live="off"
        aria-label="lines of the log"
        onWheel={scrolled}
        onTouchMove={scrolled}
        onKeyUp={scrolled}
      >
        <div class="space" style={{ height: `${virtual.getTotalSize()}px` }}>
          {items.map(({ index, start: y }) => (
            <Line
              key={columns.seq[index]}
              {...{ columns, index, y }}
              mark={now.text}
              chosen={index === row}
              onChoose={choose}
            />
          ))}
        </div>
        {held && length === 0 && held.before === null && (
          <p class="empty">
            {filters.text || filters.level || filters.task ? "No line is like that." : "Nothing was logged."}
          </p>
        )}
      </div>
      {row >= 0 && <Whole columns={columns} row={row} onClose={leave} />}
    </>
  );
}

interface LineProps {
  columns: LineColumns;
  index: number;
  y: number;
  mark?: string;
  chosen: boolean;
  onChoose: (row: number) => void;
}

function Line({ columns, index, y, mark, chosen, onChoose }: LineProps) {
  const level = levelName(columns.level[index]!);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: j and k do the same for the whole list.
    // biome-ignore lint/a11y/noStaticElementInteractions: as above.
    <div
      class={`line l-${level} ${chosen ? "chosen" : ""}`}
      style={{ transform: `translateY(${y}px)` }}
      onClick={() => onChoose(index)}
    >
      <span class="time" title={moment(columns.time[index])}>
        {clockMs(columns.time[index]!)}
      </span>
      <span class="level">{level}</span>
      <span class="who">{columns.title[index] ?? "-"}</span>
      <span class="message">
        <Marked text={columns.message[index]!.replaceAll("\n", " ⏎ ").slice(0, 2000)} mark={mark} />
      </span>
    </div>
  );
}

export function Marked({ text, mark }: { text: string; mark?: string }) {
  if (!mark) return <>{text}</>;
  const parts = [];
  const [lower, wanted] = [text.toLowerCase(), mark.toLowerCase()];
  let at = 0;
  for (let found = lower.indexOf(wanted); found >= 0; found = lower.indexOf(wanted, at)) {
    parts.push(text.slice(at, found), <mark key={found}>{text.slice(found, found + wanted.length)}</mark>);
    at = found + wanted.length;
  }
  return (
    <>
      {parts}
      {text.slice(at)}
    </>
  );
}

function Whole({ columns, row, onClose }: { columns: LineColumns; row: number; onClose: () => void }) {
  return (
    <section class="panel whole" aria-label="the chosen line">
      <div class="controls">
        <span>{moment(columns.time[row])}</span>
        <span>{levelName(columns.level[row]!)}</span>
        <span class="soft">{columns.logger[row]}</span>
        <To to={taskPath(columns.run_id[row]!)}>{columns.title[row] ?? "its run"}</To>
        <button type="button" onClick={onClose}>
          Close
        </button>
      </div>
      <pre tabIndex={0} role="region" aria-label="message">
        {columns.message[row]}
      </pre>
    </section>
  );
}
