// Where the dashboard is served: scripts lie one directory below it, whatever the port and the path prefix are.
const here = import.meta.url; // not written into the call: the build tool would look for a file
export const BASE = new URL("..", here);
export const PREFIX = BASE.pathname.replace(/\/$/, "");

export type Parameters = Record<string, string | number | null | undefined>;

// The parameters that say something, as a query: "?flow=etl", or nothing.
export function query(parameters: Parameters): string {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") said.set(name, String(value));
  }
  const text = said.toString();
  return text && `?${text}`;
}

export function address(path: string, parameters: Parameters = {}): string {
  return new URL(path + query(parameters), BASE).href;
}
