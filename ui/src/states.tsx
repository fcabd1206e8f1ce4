// What has become of a run: a word, a sign and a colour, never the colour alone.
import { count } from "./format";

export type Kind =
  | "completed"
  | "cached"
  | "failed"
  | "crashed"
  | "blocked"
  | "cancelled"
  | "running"
  | "waiting"
  | "pending"
  | "retried"
  | "queued";

// In the order in which bars are stacked and counts are said.
export const KINDS: Kind[] = [
  "completed",
  "cached",
  "running",
  "failed",
  "crashed",
  "blocked",
  "cancelled",
  "waiting",
  "pending",
];

export const kindOf = (fate: string): Kind => (fate in PATHS ? (fate as Kind) : "pending");

// Drawn on a field of 12 by 12; stroked, so that they keep their weight in both themes.
const PATHS: Record<Kind, string> = {
  completed: "M2 6.5 5 9.5 10 3",
  cached: "M6 1.5 10.5 6 6 10.5 1.5 6Z",
  failed: "M2.5 2.5 9.5 9.5M9.5 2.5 2.5 9.5",
  crashed: "M6 1.5V7M6 9.2V10.5",
  blocked: "M2 2H10V10H2Z",
  cancelled: "M6 1.5A4.5 4.5 0 1 0 6 10.5 4.5 4.5 0 1 0 6 1.5M3 9 9 3",
  running: "M3.5 2 9.5 6 3.5 10Z",
  waiting: "M2.5 6H2.6M6 6H6.1M9.5 6H9.6",
  pending: "M6 1.5A4.5 4.5 0 1 0 6 10.5 4.5 4.5 0 1 0 6 1.5",
  retried: "M9.8 4.2A4.3 4.3 0 1 0 10.3 6.5M10 1.5V4.3H7.2",
  queued: "M2.5 6H9.5",
};
const FILLED = new Set<Kind>(["cached", "running"]);

export function Sign({ kind }: { kind: Kind }) {
  return (
    <svg class={`sign s-${kind}`} viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
      <path d={PATHS[kind]} class={FILLED.has(kind) ? "filled" : ""} />
    </svg>
  );
}

// The same sign on a canvas, on a field of 12 by 12.
export function traced(pen: CanvasRenderingContext2D, kind: Kind, shade: string): void {
  const path = new Path2D(PATHS[kind]);
  pen.strokeStyle = pen.fillStyle = shade;
  pen.lineWidth = 1.8;
  pen.lineCap = pen.lineJoin = "round";
  pen.stroke(path);
  if (FILLED.has(kind)) pen.fill(path);
}

// `state`: the name that users see; the fate says how it looks.
export function State({ fate, state }: { fate: string; state: string }) {
  const kind = kindOf(fate);
  return (
    <span class="state">
      <Sign kind={kind} />
      <span class={`word s-${kind}`}>{state}</span>
    </span>
  );
}

export type Numbers = Partial<Record<Kind, number>>;

// What columns of numbers by fate say about one row; null: it is not counted yet.
export function numbersAt(fates: Record<string, (number | null)[]>, row: number): Numbers | null {
  if (fates.completed?.[row] === null) return null;
  const numbers: Numbers = {};
  for (const kind of KINDS) {
    const number = fates[kind]?.[row];
    if (number) numbers[kind] = number;
  }
  return numbers;
}

export const total = (numbers: Numbers) => Object.values(numbers).reduce((sum, number) => sum + number, 0);

export function words(numbers: Numbers): string {
  const said = KINDS.filter((kind) => numbers[kind]).map((kind) => `${count(numbers[kind]!)} ${kind}`);
  return said.join(", ") || "none";
}

// How many are in each state: a bar with parts as wide as their share, the words beside it. On a bar states differ by
// their pattern, too.
export function Bar({ numbers, said = true }: { numbers: Numbers | null; said?: boolean }) {
  if (!numbers) return <span class="soft">…</span>;
  const all = total(numbers);
  if (!all) return <span class="soft">-</span>;
  const kinds = KINDS.filter((kind) => numbers[kind]);
  return (
    <span class="outcomes" title={words(numbers)}>
      <span class="bar" role="img" aria-label={words(numbers)}>
        {kinds.map((kind) => (
          <span key={kind} class={`part b-${kind}`} style={{ flexGrow: numbers[kind]! / all }} />
        ))}
      </span>
      {said && (
        <span class="said" aria-hidden="true">
          {count(all)}
          {kinds
            .filter((kind) => kind !== "completed")
            .map((kind) => (
              <span key={kind} class="told">
                <Sign kind={kind} />
                {count(numbers[kind]!)}
              </span>
            ))}
        </span>
      )}
    </span>
  );
}
