// The keyboard: single keys and "g" followed by a letter. A page says what its keys do while it is shown; the one that
// was added last comes first.
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";

export type Keys = Record<string, () => void>;

const NAME = "penstock.keys";
const layers: { current: Keys }[] = [];
let first = "";
let forgotten = 0;

export const keysOn = signal(localStorage.getItem(NAME) !== "off"); // who speaks to the computer may turn them off

export function setKeys(on: boolean): void {
  keysOn.value = on;
  localStorage.setItem(NAME, on ? "on" : "off");
}

export const KEYS: [string, string][] = [
  ["?", "this list"],
  ["/", "search or filter"],
  ["j  k", "next and previous row"],
  ["Enter", "open the row"],
  ["x", "choose the run, to compare it"],
  ["Esc", "close, leave a field, clear"],
  ["g r", "go to runs"],
  ["g f", "go to flows"],
  ["g c", "compare two runs"],
  ["g a", "about this store"],
  ["1 … 6", "tabs of a run or task run"],
  ["f", "follow the log, or pause"],
  ["t", "theme: system, light, dark"],
  ["+  −", "timeline: zoom in and out"],
  ["← →", "timeline: earlier, later"],
  ["↑ ↓", "timeline: choose a row; Enter opens it"],
  ["0", "timeline: the whole run"],
];

export function useKeys(keys: Keys): void {
  const [layer] = useState(() => ({ current: keys }));
  layer.current = keys;
  useEffect(() => {
    layers.push(layer);
    return () => void layers.splice(layers.indexOf(layer), 1);
  }, [layer]);
}

const FIELDS = "input:not([type=checkbox]), select, textarea";

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.target as HTMLElement;
  if (event.key === "Escape" && target.matches(FIELDS)) return target.blur();
  if (target.matches(FIELDS) || document.querySelector("dialog[open]")) return;
  if (!keysOn.value && event.key.length === 1) return;
  const key = first && Date.now() - forgotten < 1500 ? `${first} ${event.key}` : event.key;
  first = "";
  const found = layers.findLast((layer) => key in layer.current);
  if (found) {
    event.preventDefault();
    found.current[key]!();
  } else if (event.key === "g") {
    first = "g";
    forgotten = Date.now();
  }
});
