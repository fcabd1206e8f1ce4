// Which part of a run is looked at, and where its rows are. Pure: no drawing, no page.

export const GROUP = 30; // heights of rows
export const LANE = 20;
export const AXIS = 26;

// The time between `from` and `to`, of a run between `begin` and `end`.
export class Sight {
  from: number;
  to: number;
  whole = true;

  constructor(
    public begin: number,
    public end: number,
  ) {
    this.from = begin;
    this.to = end;
  }

  // A run that goes on grows; who looks at all of it goes on seeing all of it.
  grow(begin: number, end: number): void {
    this.begin = begin;
    this.end = Math.max(end, begin + 1e-4);
    if (this.whole) this.all();
  }

  all(): void {
    const margin = (this.end - this.begin) * 0.01;
    this.from = this.begin - margin;
    this.to = this.end + margin;
    this.whole = true;
  }

  get length(): number {
    return this.to - this.from;
  }

  zoom(factor: number, at = (this.from + this.to) / 2): void {
    const longest = (this.end - this.begin) * 1.02;
    const length = Math.min(Math.max(this.length * factor, 2e-5), longest);
    if (length >= longest * 0.9999) {
      this.all();
      return;
    }
    const share = (at - this.from) / this.length;
    this.show(at - share * length, length);
  }

  pan(seconds: number): void {
    if (!this.whole) this.show(this.from + seconds, this.length);
  }

  show(from: number, length: number): void {
    const margin = length * 0.05;
    this.from = Math.max(this.begin - margin, Math.min(from, this.end + margin - length));
    this.to = this.from + length;
    this.whole = false;
  }

  x(time: number, left: number, width: number): number {
    return left + ((time - this.from) / this.length) * width;
  }

  time(x: number, left: number, width: number): number {
    return this.from + ((x - left) / width) * this.length;
  }
}

// A row of the timeline: a group, or with `run` >= 0 a run of the group that is open.
export interface Row {
  group: number;
  run: number;
}

// Groups one below the other, the runs of the open one below it.
export class Rows {
  constructor(
    readonly groups: number,
    readonly open: number, // -1: none
    readonly runs: number, // of the open group
  ) {}

  get height(): number {
    return this.groups * GROUP + (this.open >= 0 ? this.runs * LANE : 0);
  }

  top(row: Row): number {
    const behind = this.open >= 0 && row.group > this.open ? this.runs * LANE : 0;
    return row.group * GROUP + behind + (row.run >= 0 ? GROUP + row.run * LANE : 0);
  }

  at(y: number): Row | null {
    if (y < 0 || y >= this.height) return null;
    const opened = (this.open + 1) * GROUP;
    if (this.open < 0 || y < opened) return { group: Math.floor(y / GROUP), run: -1 };
    if (y < opened + this.runs * LANE) return { group: this.open, run: Math.floor((y - opened) / LANE) };
    return { group: Math.floor((y - this.runs * LANE) / GROUP), run: -1 };
  }

  next(row: Row | null): Row {
    if (!row) return { group: 0, run: -1 };
    const down = row.group === this.open ? row.run + 1 : this.runs;
    if (row.group === this.open && down < this.runs) return { group: row.group, run: down };
    return { group: Math.min(row.group + 1, this.groups - 1), run: row.group === this.groups - 1 ? row.run : -1 };
  }

  before(row: Row | null): Row {
    if (!row) return { group: 0, run: -1 };
    if (row.run >= 0) return { group: row.group, run: row.run - 1 };
    if (row.group === 0) return row;
    return { group: row.group - 1, run: row.group - 1 === this.open ? this.runs - 1 : -1 };
  }
}
