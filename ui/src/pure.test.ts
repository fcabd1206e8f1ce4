import { describe, expect, test } from "vitest";
import type { LineColumns } from "./answers";
import { clockMs, duration, ending, fromField, moment, niceStep, offset, sofar, timesOf, toField } from "./format";
import { behind, inFront, moved, type Window } from "./parts/lines";
import { nextStart, placeOf, refreshed } from "./parts/rows";
import { GROUP, LANE, Rows, Sight } from "./timeline/sight";

describe("durations", () => {
  test.each([
    [null, "-"],
    [Number.NaN, "-"],
    [0, "0 ms"],
    [0.000004, "< 0.01 ms"],
    [0.0002, "0.20 ms"],
    [0.0042, "4.2 ms"],
    [0.42, "420 ms"],
    [0.9996, "1.000 s"],
    [4.2134, "4.213 s"],
    [59.9994, "59.999 s"],
    [59.9996, "1 min 0.0 s"],
    [200.44, "3 min 20.4 s"],
    [3599.99, "1 h 00 min"],
    [7500, "2 h 05 min"],
    [200_000, "2 d 7 h"],
    [-1, "0 ms"],
  ])("%s s is %s", (seconds, said) => expect(duration(seconds)).toBe(said));
});

test.each([
  [-1, "0.0 s"],
  [3.14, "3.1 s"],
  [34.9, "34 s"],
  [61.7, "1 min 1 s"],
  [4000, "1 h 07 min"],
])("what has gone on for %s s has done so for %s", (seconds, said) => expect(sofar(seconds)).toBe(said));

test("a field for local time says what it was told", () => {
  expect(fromField(toField(1_700_000_000))).toBe(1_700_000_000);
  expect(fromField("")).toBeNull();
});

describe("times of a log have a day", () => {
  const noon = new Date(2026, 10, 26, 12).getTime() / 1000;
  const other = noon - 86_400;
  test.each([
    ["unless all is of today", noon, noon + 60, noon + 100, clockMs],
    ["nor while it goes on today", noon, null, noon + 100, clockMs],
    ["if it was another day", other, other + 60, noon, moment],
    ["if it began the day before", other, noon, noon + 1, moment],
    ["if it goes on from the day before", other, null, noon, moment],
  ])("%s", (_, begin, end, now, form) => expect(timesOf(begin, end, now)(begin)).toBe(form(begin)));
});

test.each([
  ["pages/fetch", "pages/fetch"],
  ["one/two/three/four/five/six", "…/three/four/five/six"],
  ["nested/nested/nested/nested/leaf", "nested×4/leaf"],
  ["top/nested/nested/nested/nested/", "top/nested×4/"],
  ["un/nested/nested/nest/nested/it", "…nested×2/nest/nested/it"],
  ["a-very-long-name-without-an-end[17]", "…ame-without-an-end[17]"],
])("%s is shortened to %s", (path, told) => expect(ending(path, told.length)).toBe(told));

describe("marks of a time axis", () => {
  test.each([
    [0.0003, 0.0005],
    [0.11, 0.2],
    [1, 1],
    [7, 10],
    [31, 60],
    [4000, 7200],
    [100_000, 172_800],
  ])("at least %s s apart: %s", (least, step) => expect(niceStep(least)).toBeCloseTo(step, 9));
  test.each([
    [0, 1, "0"],
    [0.25, 0.05, "250 ms"],
    [1.5, 0.5, "1.5 s"],
    [90, 30, "1:30 min"],
    [7320, 60, "2 h 02 min"],
    [0.0005, 0.0001, "0.5 ms"],
  ])("%s s at steps of %s is %s", (at, step, said) => expect(offset(at, step)).toBe(said));
});

describe("what is looked at", () => {
  test("zooming keeps the time under the pointer where it is", () => {
    const sight = new Sight(100, 200);
    sight.all();
    const before = sight.x(130, 0, 1000);
    sight.zoom(0.5, 130);
    expect(sight.x(130, 0, 1000)).toBeCloseTo(before, 6);
    expect(sight.whole).toBe(false);
  });
  test("zooming out ends at the whole run, which then follows its growth", () => {
    const sight = new Sight(100, 200);
    sight.zoom(0.1);
    sight.zoom(1000);
    expect(sight.whole).toBe(true);
    sight.grow(100, 400);
    expect(sight.to).toBeGreaterThan(400);
  });
  test("who looks at a part stays there when the run grows", () => {
    const sight = new Sight(100, 200);
    sight.zoom(0.1, 150);
    const { from, to } = sight;
    sight.grow(100, 400);
    expect([sight.from, sight.to]).toEqual([from, to]);
  });
  test("panning stops at the ends", () => {
    const sight = new Sight(100, 200);
    sight.zoom(0.1, 150);
    sight.pan(-1e6);
    expect(sight.from).toBeGreaterThan(98);
    sight.pan(1e6);
    expect(sight.to).toBeLessThan(202);
  });
});

describe("rows of the timeline", () => {
  const rows = new Rows(3, 1, 100_000);
  test("the place of a row leads back to the row", () => {
    for (const row of [
      { group: 0, run: -1 },
      { group: 1, run: -1 },
      { group: 1, run: 0 },
      { group: 1, run: 99_999 },
      { group: 2, run: -1 },
    ]) {
      expect(rows.at(rows.top(row))).toEqual(row);
      expect(rows.at(rows.top(row) + LANE - 1)).toEqual(row);
    }
    expect(rows.at(rows.height)).toBeNull();
    expect(rows.height).toBe(3 * GROUP + 100_000 * LANE);
  });
  test("down and up walk over the same rows", () => {
    const short = new Rows(3, 1, 2);
    const down = [short.next(null)];
    for (let step = 0; step < 6; step++) down.push(short.next(down.at(-1)!));
    expect(down.map(({ group, run }) => `${group}:${run}`)).toEqual([
      "0:-1",
      "1:-1",
      "1:0",
      "1:1",
      "2:-1",
      "2:-1",
      "2:-1",
    ]);
    const up = [{ group: 2, run: -1 }];
    for (let step = 0; step < 5; step++) up.push(short.before(up.at(-1)!));
    expect(up.map(({ group, run }) => `${group}:${run}`)).toEqual(["2:-1", "1:1", "1:0", "1:-1", "0:-1", "0:-1"]);
  });
});

describe("rows of a table", () => {
  const page = (ids: string, next: string | null, mark = "") => {
    const all = ids ? [...ids] : [];
    return { columns: { id: all, x: all.map((id) => id + mark) }, next };
  };
  const madeNew = (old: string, next: string | null, fresh: string, freshNext: string | null, start: number) => {
    const { held, start: begins } = refreshed(page(old, next), page(fresh, freshNext, "!"), start);
    return [held.columns.x!.join(" "), held.next, begins];
  };
  test("the next page is put behind", () => {
    expect(madeNew("abc", "1", "de", null, 3)).toEqual(["a b c d! e!", null, 3]);
  });
  test("a page in the middle is made new, what is around it stays", () => {
    expect(madeNew("abcdef", "2", "cd", "1", 2)).toEqual(["a b c! d! e f", "2", 2]);
    expect(madeNew("abcdef", "2", "cxd", "1", 2)).toEqual(["a b c! x! d! e f", "2", 2]);
    expect(madeNew("abcdef", "2", "d", "1", 2)).toEqual(["a b d! e f", "2", 2]);
  });
  test("a row that has moved is there once", () => {
    expect(madeNew("abcdef", "2", "cfd", "1", 2)).toEqual(["a b c! f! d! e", "2", 2]);
    expect(madeNew("abcdef", "2", "cad", "1", 2)).toEqual(["b c! a! d! e f", "2", 1]);
  });
  test("behind the last page there is nothing", () => {
    expect(madeNew("abcdef", "2", "cd", null, 2)).toEqual(["a b c! d!", null, 2]);
    expect(madeNew("ab", "1", "", null, 0)).toEqual(["", null, 0]);
  });
  test("where a page ends at a row that is new, the rows behind it are loaded again", () => {
    expect(madeNew("abcdef", "2", "xy", "1", 0)).toEqual(["x! y!", "1", 0]);
  });
  const lasting = { rows: 400, hasMore: true, lasting: true };
  const going = { ...lasting, lasting: false };
  test.each([
    ["of what lasts, only what is missing is asked for", { first: 0, last: 40, start: 0 }, lasting, null],
    ["before its end is seen", { first: 350, last: 385, start: 200 }, lasting, 400],
    ["and not at the very end", { first: 350, last: 399, start: 200 }, { ...lasting, hasMore: false }, null],
    ["what goes on is in the stretch", { first: 10, last: 50, start: 0 }, going, null],
    ["or in another one", { first: 170, last: 210, start: 0 }, going, 110],
    ["further up, too", { first: 100, last: 140, start: 110 }, going, 40],
    ["before its end is seen", { first: 150, last: 185, start: 0 }, { ...going, rows: 200 }, 90],
    ["but once", { first: 150, last: 185, start: 90 }, { ...going, rows: 200 }, null],
    ["what has become short is asked for", { first: 210, last: 250, start: 200 }, { ...going, rows: 260 }, 150],
    ["a short table is whole", { first: 0, last: 9, start: 0 }, { ...going, rows: 10, hasMore: false }, null],
  ])("%s", (_, seen, held, start) => expect(nextStart(seen, held)).toBe(start));
  test("a place is what the server calls it", () => {
    const columns = { id: ["0f"], name: ["é?>"], duration: [null] };
    const told = (place: string) => atob(place.replaceAll("-", "+").replaceAll("_", "/"));
    expect(new TextDecoder().decode(Uint8Array.from(told(placeOf(columns, 0, "name")), (c) => c.charCodeAt(0)))).toBe(
      '["é?>","0f"]',
    );
    expect(told(placeOf(columns, 0, "duration"))).toBe('[-1,"0f"]');
  });
});

describe("lines of a log", () => {
  const columns = (from: number, to: number): LineColumns => {
    const seq = Array.from({ length: to - from }, (_, place) => from + place);
    const texts = seq.map(String);
    return { seq, time: seq, level: seq, logger: texts, message: texts, run_id: texts, title: texts, name: texts };
  };
  const held = (from: number, to: number): Window => ({ columns: columns(from, to), before: from, after: null });
  test("come behind once", () => {
    expect(behind(held(1, 10), columns(5, 15), null).columns.seq).toEqual(columns(1, 15).seq);
    expect(behind(held(1, 10), columns(1, 5), null).columns.seq).toEqual(columns(1, 10).seq);
  });
  test("those in front are given up when there are too many, and can be asked for again", () => {
    const all = behind(held(1, 20_001), columns(20_001, 20_101), null);
    expect(all.columns.seq.length).toBe(20_000);
    expect(all.before).toBe(101);
    const back = inFront(all, columns(1, 101), null);
    expect(back.columns.seq[0]).toBe(1);
    expect(back.after).toBe(20_000);
    expect(back.before).toBeNull();
    expect(moved(held(1, 20_001), all)).toBe(-100);
    expect(moved(all, back)).toBe(100);
    expect(moved(held(1, 5), behind(held(1, 5), columns(5, 9), null))).toBe(0);
  });
});
