// The wheel and the pointer over the timeline.
import type { Signal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { type Scene, told } from "./draw";
import { AXIS, type Row } from "./sight";

export interface Tip {
  x: number;
  y: number;
  lines: string[];
}

export function turned(
  event: WheelEvent,
  { sight, label, width, rows }: Scene,
  element: HTMLElement,
  moved: () => void,
): void {
  const box = element.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
  const scrolls = rows.height + AXIS > element.clientHeight;
  if (sideways) sight.pan(((event.deltaX || event.deltaY) / (width - label)) * sight.length);
  else if (event.ctrlKey || event.metaKey || y < AXIS || (!scrolls && document.activeElement === element)) {
    sight.zoom(
      1.0025 ** Math.max(-120, Math.min(120, event.deltaY)),
      sight.time(Math.max(x, label), label, width - label),
    );
  } else return;
  event.preventDefault();
  moved();
}

interface Dragging {
  scene: () => Scene;
  moved: () => void;
  click: (row: Row) => void;
  tip: Signal<Tip | null>;
}

// Moving the whole drawing with the pointer; a press without a movement is a click.
export function useDrag({ scene, moved, click, tip }: Dragging) {
  const held = useRef<{ x: number; y: number; far: boolean } | null>(null);
  const drag = (event: PointerEvent, hold: { x: number; y: number; far: boolean }) => {
    const element = event.currentTarget as HTMLElement;
    const [dx, dy] = [event.clientX - hold.x, event.clientY - hold.y];
    if (!hold.far && Math.abs(dx) + Math.abs(dy) < 5) return;
    if (!hold.far) element.setPointerCapture(event.pointerId);
    const { sight, width, label } = scene();
    sight.pan((-dx / (width - label)) * sight.length);
    if (event.pointerType === "mouse") element.scrollTop -= dy;
    held.current = { x: event.clientX, y: event.clientY, far: true };
    tip.value = null;
    moved();
  };
  return {
    onPointerDown: (event: PointerEvent) => {
      if (event.button === 0) held.current = { x: event.clientX, y: event.clientY, far: false };
    },
    onPointerMove: (event: PointerEvent) => {
      if (held.current) drag(event, held.current);
      else tip.value = tipAt(event, scene());
    },
    onPointerUp: (event: PointerEvent) => {
      const clicked = held.current && !held.current.far;
      held.current = null;
      const { row } = placeOf(event, scene());
      if (clicked && row) click(row);
    },
    onPointerLeave: () => {
      tip.value = null;
    },
    onPointerCancel: () => {
      held.current = null;
    },
  };
}

function placeOf(event: PointerEvent, { rows, scroll }: Scene): { x: number; y: number; row: Row | null } {
  const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  return { x, y, row: y < AXIS ? null : rows.at(y - AXIS + scroll) };
}

function tipAt(event: PointerEvent, scene: Scene): Tip | null {
  const { x, y, row } = placeOf(event, scene);
  const lines = row ? told(scene, row, x) : [];
  return lines.length ? { x, y, lines } : null;
}
