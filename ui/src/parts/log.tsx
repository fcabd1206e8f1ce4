// The log of a run: a window of its lines, which grows at the end that is scrolled to and gives up lines at the other.
import { useVirtualizer } from "@tanstack/react-virtual";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { LineColumns, Run } from "../answers";
import { query } from "../base";
import { count, moment, timesOf } from "../format";
import { useKeys } from "../keys";
import { useAddress } from "./address";
import { To, Trouble, taskPath, useTop } from "./basics";
import { type Log, useLog } from "./following";
import { NONE } from "./lines";
import { Choice, Typed } from "./typed";

const HEIGHT = 20;
const LEVELS = ["debug", "info", "warning", "error", "critical"];

const levelName = (level: number) =>
  level >= 50 ? "critical" : level >= 40 ? "error" : level >= 30 ? "warning" : level >= 20 ? "info" : "debug";

interface LogProps {
  run: Run;
  names: string[]; // of tasks
  only?: string; // the run whose lines alone are wanted
}

export function LogView({ run, names, only }: LogProps) {
  const { id, created, ended } = run;
  const live = ended === null;
  const [now] = useAddress();
  const search = useRef<HTMLInputElement>(null);
  const filters = { level: now.level, task: only ?? now.task, text: now.text };
  const [chosen, setChosen] = useState<number | null>(now.line ? Number(now.line) : null);
  const log = useLog(id, live, filters, chosen);
  const list = useList(log, query(filters), chosen);
  const { row, choose, leave } = useChoice({ log, list, chosen, setChosen });
  useKeys({
    "/": () => search.current?.focus(),
    f: () => live && log.setFollowing(!log.following),
  });
  const toEnd = () => void log.start().then(() => list.virtual.scrollToOffset(1e9));
  const isFiltered = Object.values(filters).some((value) => value && value !== only);
  return (
    <>
      <Filters {...{ search, names }} onlyOne={only !== undefined}>
        {live ? (
          <Follow log={log} />
        ) : (
          <button type="button" onClick={toEnd}>
            To the end
          </button>
        )}
      </Filters>
      <Trouble error={log.error} />
      <Lines
        list={list}
        log={log}
        {...{ row, isFiltered }}
        mark={now.text}
        clock={timesOf(created, ended)}
        onChoose={choose}
      />
      {row >= 0 && <Whole columns={log.held!.columns} row={row} onClose={leave} />}
    </>
  );
}

interface Choosing {
  log: Log;
  list: List;
  chosen: number | null; // the number of the line
  setChosen: (seq: number | null) => void;
}

// One line is shown whole, and is in the address.
function useChoice({ log, list, chosen, setChosen }: Choosing) {
  const [now, change] = useAddress();
  const { seq } = log.held?.columns ?? NONE;
  const row = chosen === null ? -1 : seq.indexOf(chosen);
  const choose = (at: number) => {
    if (seq[at] === undefined) return;
    setChosen(seq[at]);
    log.setFollowing(false);
    change({ tab: now.tab, line: seq[at] });
  };
  const leave = () => {
    setChosen(null);
    change({ line: null });
  };
  const walk = (step: number) => {
    const next = row < 0 ? list.bottom : Math.min(Math.max(row + step, 0), seq.length - 1);
    choose(next);
    list.virtual.scrollToIndex(next);
  };
  useKeys({
    j: () => walk(1),
    k: () => walk(-1),
    Escape: () => (chosen === null ? change({ text: null, level: null, task: null }) : leave()),
  });
  return { row, choose, leave };
}

// --- what is on the screen --------------------------------------------------------------------------------------------

type List = ReturnType<typeof useList>;

function useList(log: Log, asked: string, chosen: number | null) {
  const { held, following, grown, load } = log;
  const seq = (held?.columns ?? NONE).seq;
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({
    count: seq.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => HEIGHT,
    overscan: 15,
  });
  const items = virtual.getVirtualItems();
  const [top, bottom] = [items[0]?.index ?? 0, items.at(-1)?.index ?? 0];
  const placed = useRef<string | null>(null); // for which question the list has been scrolled to its first place

  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return;
    element.scrollTop += grown.current * HEIGHT; // lines that came in front: the list is not to jump
    grown.current = 0;
    if (following) element.scrollTop = element.scrollHeight;
  }, [held, following]);
  useLayoutEffect(() => {
    if (placed.current === asked || !seq.length || !scroller.current) return;
    placed.current = asked;
    const at = chosen === null ? -1 : seq.indexOf(chosen);
    scroller.current.scrollTop = at < 0 ? scroller.current.scrollHeight : at * HEIGHT - 150;
  }, [asked, seq.length]);
  useEffect(() => {
    if (!held || placed.current !== asked) return;
    if (top < 40) load("before");
    else if (bottom > seq.length - 40) load("after");
  }, [top, bottom, held]);
  return { scroller, virtual, items, bottom };
}

interface LinesProps {
  list: List;
  log: Log;
  row: number; // the chosen one; -1: none
  mark?: string;
  clock: (seconds: number) => string;
  isFiltered: boolean;
  onChoose: (row: number) => void;
}

function Lines({ list, log, row, mark, clock, isFiltered, onChoose }: LinesProps) {
  const { held, following, setFollowing } = log;
  const columns = held?.columns ?? NONE;
  const top = useTop(list.scroller); // it reaches to the lower end of the window: the newest line is to be seen
  const scrolled = () => {
    const element = list.scroller.current!;
    const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - HEIGHT;
    if (following && !atEnd) setFollowing(false);
  };
  return (
    <div
      class="lines"
      style={{ "--top": `${top}px` }}
      ref={list.scroller}
      tabIndex={0}
      role="log"
      aria-live="off"
      aria-label="lines of the log"
      onWheel={scrolled}
      onTouchMove={scrolled}
      onKeyUp={scrolled}
    >
      <div class="space" style={{ height: `${list.virtual.getTotalSize()}px` }}>
        {list.items.map(({ index, start: y }) => (
          <Line key={columns.seq[index]} {...{ columns, index, y, mark, clock, onChoose }} chosen={index === row} />
        ))}
      </div>
      {held && columns.seq.length === 0 && held.before === null && (
        <p class="empty">{isFiltered ? "No line is like that." : "Nothing was logged."}</p>
      )}
    </div>
  );
}

interface LineProps {
  columns: LineColumns;
  index: number;
  y: number;
  mark?: string;
  clock: (seconds: number) => string;
  chosen: boolean;
  onChoose: (row: number) => void;
}

function Line({ columns, index, y, mark, clock, chosen, onChoose }: LineProps) {
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
        {clock(columns.time[index]!)}
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

// --- controls ---------------------------------------------------------------------------------------------------------

interface FiltersProps {
  search: { current: HTMLInputElement | null };
  names: string[];
  onlyOne: boolean; // of one run: there is no choice of tasks
  children: ComponentChildren;
}

function Filters({ search, names, onlyOne, children }: FiltersProps) {
  const [now, change] = useAddress();
  return (
    <form class="controls filters" role="search" aria-label="filter lines" onSubmit={(event) => event.preventDefault()}>
      <label class="grow">
        <span>Text</span>
        <Typed
          field={search}
          value={now.text}
          onText={(text) => change({ text, line: null })}
          hint="part of the message"
        />
      </label>
      <Choice
        name="Level"
        none="all"
        value={now.level}
        choices={LEVELS.slice(1).map((level) => [level, `${level} and above`])}
        onChoose={(level) => change({ level })}
      />
      {!onlyOne && <Choice name="Task" value={now.task} choices={names} onChoose={(task) => change({ task })} />}
      {children}
    </form>
  );
}

function Follow({ log: { following, missed, setFollowing } }: { log: Log }) {
  return (
    <button
      type="button"
      onClick={() => setFollowing(!following)}
      aria-pressed={following}
      class={following ? "on" : ""}
    >
      {following ? "Following" : missed ? `Follow (${count(missed)} new)` : "Follow"}
    </button>
  );
}
