// Numbers, lengths of time and moments as people read them: to the millisecond wherever that says something.

export const count = (number: number) => number.toLocaleString("en");

export const plural = (number: number, word: string) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

// `seconds` to three significant places or milliseconds: 0.21 ms, 12 ms, 4.213 s, 3 min 20.4 s, 2 h 05 min.
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "-";
  const ms = Math.max(0, seconds * 1000);
  if (ms === 0) return "0 ms";
  if (ms < 0.01) return "< 0.01 ms";
  if (ms < 9.995) return `${ms.toFixed(ms < 0.995 ? 2 : 1)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  if (ms < 59_999.5) return `${(ms / 1000).toFixed(3)} s`;
  const tenths = Math.round(ms / 100);
  if (tenths < 36_000) return `${Math.floor(tenths / 600)} min ${((tenths % 600) / 10).toFixed(1)} s`;
  const minutes = Math.round(ms / 60_000);
  if (minutes < 2880) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

// Of what goes on: no more places than can be read while they change.
export function sofar(seconds: number): string {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  return seconds < 60 ? `${Math.floor(seconds)} s` : duration(Math.floor(seconds)).replace(/\.0 s$/, " s");
}

const two = (number: number) => String(number).padStart(2, "0");

export function day(seconds: number): string {
  const time = new Date(seconds * 1000);
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
}

export function clock(seconds: number): string {
  const time = new Date(seconds * 1000);
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

const millis = (seconds: number) => String(Math.floor((((seconds * 1000) % 1000) + 1000) % 1000)).padStart(3, "0");

export const clockMs = (seconds: number) => `${clock(seconds)}.${millis(seconds)}`;

// Local time. In a list no more of it than is needed: the day only if it is another one.
export function moment(seconds: number | null | undefined): string {
  return seconds === null || seconds === undefined ? "-" : `${day(seconds)} ${clockMs(seconds)}`;
}

export function brief(seconds: number | null | undefined, now = Date.now() / 1000): string {
  if (seconds === null || seconds === undefined) return "-";
  return day(seconds) === day(now) ? clock(seconds) : `${day(seconds)} ${clock(seconds).slice(0, 5)}`;
}

// How the times of something from `begin` to `end` (null: until now) are told: with the day if they need one.
export function timesOf(begin: number, end: number | null, now = Date.now() / 1000): (seconds: number) => string {
  return day(begin) === day(now) && day(end ?? now) === day(now) ? clockMs : moment;
}

// Of a path that is too long the end, which says most. Names that follow each other are told once, and how often: all
// levels of a recursion end in the same way.
export function ending(path: string, length: number): string {
  if (path.length <= length) return path;
  const told = path.replace(/(?<![^/])([^/]+)\/(?:\1\/)+/g, (all, name: string) => {
    return `${name}×${all.length / (name.length + 1)}/`;
  });
  return told.length > length ? `…${told.slice(1 - length)}` : told;
}

// What a reader may type into a field for local time, and back.
export const toField = (seconds: number) => `${day(seconds)}T${clock(seconds)}`;

export function fromField(text: string): number | null {
  const ms = text ? new Date(text).getTime() : Number.NaN;
  return Number.isFinite(ms) ? ms / 1000 : null;
}

// A step of 1, 2 or 5 times a power of ten (of minutes and hours beyond a minute) that is not smaller than `least`.
export function niceStep(least: number): number {
  if (least > 30) {
    const steps = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];
    return steps.find((step) => step >= least) ?? 86_400 * Math.ceil(least / 86_400);
  }
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * 0.999) ?? 10 * power;
}

// An offset on a time axis whose marks are `step` apart.
export function offset(seconds: number, step: number): string {
  if (seconds === 0) return "0";
  if (step < 0.001) return `${(seconds * 1000).toFixed(Math.min(4, Math.ceil(-Math.log10(step * 1000))))} ms`;
  if (step < 1 && Math.abs(seconds) < 1) return `${(seconds * 1000).toFixed(0)} ms`;
  if (step < 1) return `${seconds.toFixed(Math.ceil(-Math.log10(step)))} s`;
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  if (hours) return `${hours} h${minutes || rest ? ` ${two(minutes)} min` : ""}`;
  return rest ? `${minutes}:${two(rest)} min` : `${minutes} min`;
}
