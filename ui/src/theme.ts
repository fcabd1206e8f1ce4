import { effect, signal } from "@preact/signals";

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const NAME = "penstock.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const kept = localStorage.getItem(NAME);

export const theme = signal<Theme>(THEMES.find((one) => one === kept) ?? "system");
export const painted = signal(0); // grows when colours have changed: canvases are to be drawn again

effect(() => {
  document.documentElement.dataset.theme = theme.value;
  localStorage.setItem(NAME, theme.value);
  painted.value = painted.peek() + 1;
});
dark.addEventListener("change", () => painted.value++);

export const nextTheme = () => {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]!;
};

export const still = matchMedia("(prefers-reduced-motion: reduce)");

// Colours as a canvas needs them: `light-dark()` in a custom property has no value of its own, so an element that uses it is asked.
const known = new Map<string, string>();
let knownAt = -1;
let probe: HTMLElement | null = null;

export function colour(name: string): string {
  if (knownAt !== painted.peek()) {
    known.clear();
    knownAt = painted.peek();
  }
  let found = known.get(name);
  if (found === undefined) {
    probe ??= document.body.appendChild(Object.assign(document.createElement("i"), { hidden: true }));
    probe.style.color = `var(--${name})`;
    found = getComputedStyle(probe).color;
    known.set(name, found);
  }
  return found;
}
