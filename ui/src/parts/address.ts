// What a page shows is in its address: filters, tab, order.
import { useLocation, useSearch } from "wouter-preact";
import { type Parameters, query } from "../base";

export function useAddress(): [Record<string, string>, (changes: Parameters) => void] {
  useSearch(); // tells when it changes, but decoded once too often
  const [path, go] = useLocation();
  const now = Object.fromEntries(new URLSearchParams(location.search));
  const change = (changes: Parameters) => go(path + query({ ...now, ...changes }), { replace: true });
  return [now, change];
}
