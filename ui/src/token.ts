// The secret that the address printed by `penstock ui` carries behind its #. It is never part of a request's address, and
// lives as long as the tab; another tab of this dashboard may ask for it.
import { signal } from "@preact/signals";
import { PREFIX } from "./base";

const NAME = `penstock.token${PREFIX}`;
const channel = new BroadcastChannel(NAME);

export const token = signal<string | null>(fromAddress() ?? sessionStorage.getItem(NAME));

export const needed = signal(false); // the server wants a token, and not this one

export function enter(text: string): void {
  const found = /token=([\w.~-]+)/.exec(text)?.[1] ?? text.trim();
  if (found) keep(found);
}

export function forget(): void {
  sessionStorage.removeItem(NAME);
  token.value = null;
  needed.value = true;
  channel.postMessage("?");
}

function keep(found: string): string {
  sessionStorage.setItem(NAME, found);
  token.value = found;
  needed.value = false;
  return found;
}

function fromAddress(): string | null {
  const found = /^#token=([\w.~-]+)$/.exec(location.hash)?.[1];
  if (!found) return null;
  history.replaceState(history.state, "", location.pathname + location.search);
  sessionStorage.setItem(NAME, found);
  return found;
}

channel.onmessage = ({ data }) => {
  if (data === "?" && token.value) channel.postMessage({ token: token.value });
  else if (typeof data?.token === "string" && !token.value) keep(data.token);
};
if (!token.value) channel.postMessage("?");
addEventListener("hashchange", () => {
  const found = fromAddress();
  if (found) keep(found);
});
