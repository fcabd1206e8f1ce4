// The server's answers. Tables stay in columns, as they come: no object is made for a row.
export type Column<T> = T[];
export type Fates = Record<string, (number | null)[]>;
export type Texts<N extends string> = Record<N, string[]>;

export interface Page<C> {
  columns: C;
  next: string | null;
}

export interface About {
  version: string;
  home: string;
  store: string;
  store_schema: number;
  actions: boolean;
  nonce: string | null;
  settings: { columns: Texts<"name" | "value" | "source"> };
}

export interface RunColumns {
  id: string[];
  kind: string[];
  name: string[];
  run_name: string[];
  state: string[];
  fate: string[];
  created: number[];
  started: (number | null)[];
  ended: (number | null)[];
  tags: string[][];
  message: (string | null)[];
  error: (string | null)[];
  parameters: string[];
  resumed_from: (string | null)[];
}

export interface Runs extends Page<RunColumns> {
  tasks: Fates;
}

export interface Run {
  id: string;
  kind: string;
  name: string;
  run_name: string;
  title: string;
  key: string;
  version: string | null;
  state: string;
  fate: string;
  created: number;
  ready: number | null;
  started: number | null;
  ended: number | null;
  message: string | null;
  attempts: number;
  parent_id: string | null;
  root_id: string;
  resumed_from: string | null;
  tags: string[];
  error_type: string | null;
  error: string | null;
  traceback: string | null;
  user_line: string | null;
  result: string | null;
  map_index: number | null;
}

export interface Groups {
  columns: {
    group: string[];
    place: string[];
    kind: string[];
    name: string[];
    created: number[];
    total: number[];
    retried: number[];
  };
  fates: Fates;
}

export interface Errors {
  columns: {
    id: string[];
    title: string[];
    name: string[];
    state: string[];
    ended: (number | null)[];
    error_type: (string | null)[];
    error: (string | null)[];
    user_line: (string | null)[];
  };
  more: number;
}

export interface Where {
  wall: number;
  user: number;
  queue: number;
  retrying: number;
  waiting: number;
  engine: number | null;
  parallel: number | null;
  critical_path: {
    columns: { id: string[]; title: string[]; started: (number | null)[]; ended: (number | null)[]; waited: number[] };
  };
}

export interface Values {
  columns: Texts<"name" | "value">;
}

interface Described {
  run: Run;
  outcome: string;
  parents: { columns: Texts<"id" | "title" | "kind"> };
  parameters: Values;
}

export interface Header extends Described {
  info: Values;
  groups: Groups;
  errors: Errors;
  lives: {
    columns: {
      id: string[];
      title: string[];
      state: string[];
      fate: string[];
      created: number[];
      resumed_from: (string | null)[];
    };
  };
  where: Where | null;
}

export interface Timeline {
  begin: number | null;
  end: number | null;
  from: number;
  to: number;
  bin: number;
  states: string[];
  groups: {
    columns: {
      group: string[];
      place: string[];
      kind: string[];
      name: string[];
      total: number[];
      begin: (number | null)[];
      end: (number | null)[];
    };
    bins: { bin: number[]; state: number[]; number: number[]; busy: number[] }[];
    joined: number; // so many bins are together in a cell
  };
  more: number;
  open: Opened | null;
}

export interface Opened {
  group: string;
  first: number;
  total: number;
  columns: {
    id: string[];
    title: string[];
    fate: string[];
    state: string[];
    created: number[];
    ended: (number | null)[];
  };
  segments: { row: number[]; kind: string[]; from: number[]; to: (number | null)[] };
}

export interface Graph {
  nodes: {
    columns: {
      group: string[];
      place: string[];
      kind: string[];
      name: string[];
      total: number[];
      seconds: number[];
      begin: (number | null)[];
      end: (number | null)[];
    };
    fates: Fates;
  };
  edges: { columns: { from: string[]; to: string[]; kind: string[]; number: number[] }; all: boolean };
  more: number;
}

export interface GroupGraph {
  group: string;
  total: number;
  nodes: Page<{
    id: string[];
    title: string[];
    fate: string[];
    state: string[];
    created: number[];
    started: (number | null)[];
    ended: (number | null)[];
    attempts: number[];
  }>;
  edges: {
    columns: Texts<"from" | "from_title" | "from_group" | "to" | "kind"> & { parameter: (string | null)[] };
    more: number;
  };
}

export interface TaskColumns {
  id: string[];
  kind: string[];
  name: string[];
  run_name: string[];
  place: string[];
  group: string[];
  state: string[];
  fate: string[];
  attempts: number[];
  created: number[];
  started: (number | null)[];
  ended: (number | null)[];
  duration: (number | null)[];
  parameters: string[];
  error: (string | null)[];
  parent_id: (string | null)[];
}

export interface LineColumns {
  seq: number[];
  time: number[];
  level: number[];
  logger: string[];
  message: string[];
  run_id: string[];
  title: (string | null)[];
  name: (string | null)[];
}

export interface Lines {
  columns: LineColumns;
  first: number;
  last: number;
  before: number | null;
  after: number | null;
  complete: boolean;
}

export interface TaskRun extends Described {
  attempts: {
    columns: {
      number: number[];
      state: string[];
      fate: string[];
      started: (number | null)[];
      ended: (number | null)[];
      error_type: (string | null)[];
      error: (string | null)[];
      user_line: (string | null)[];
      traceback: (string | null)[];
    };
  };
  upstreams: {
    columns: Texts<"id" | "title" | "fate" | "state" | "kind"> & {
      parameter: (string | null)[];
      started: (number | null)[];
      ended: (number | null)[];
      result: (string | null)[];
    };
    more: number;
  };
  downstreams: Page<Texts<"id" | "title" | "fate" | "state" | "kind"> & { parameter: (string | null)[] }>;
  children: number;
}

export interface Flows {
  columns: {
    name: string[];
    runs: number[];
    last_id: string[];
    last_run: string[];
    last_state: string[];
    last_fate: string[];
    last_created: number[];
    last_ended: (number | null)[];
    median: (number | null)[];
  };
  fates: Fates;
  looked_at: number;
}

export interface Flow {
  name: string;
  runs: {
    columns: Texts<"id" | "run_name" | "state" | "fate" | "parameters"> & {
      created: number[];
      started: (number | null)[];
      ended: (number | null)[];
      version: (string | null)[];
    };
  };
  tasks: { columns: Texts<"group" | "name" | "kind"> };
  cells: {
    task: number[];
    run: number[];
    fate: string[];
    number: number[];
    bad: number[];
    seconds: number[];
    wall: (number | null)[];
  };
}

type Both<T> = { a: T; b: T };
type Said = (string | null)[];
interface Pairs {
  columns: { name: string[]; a: Said; b: Said; same: boolean[] };
}

export interface Comparison {
  complete: boolean; // false: there was no time to count the tasks; the next answer goes on
  runs: Both<Run>;
  outcomes: Both<string | null>;
  parameters: Pairs;
  info: Pairs;
  tasks: {
    columns: {
      group: string[];
      name: string[];
      kind: string[];
      a_total: (number | null)[];
      b_total: (number | null)[];
      a_bad: (number | null)[];
      b_bad: (number | null)[];
      a_seconds: (number | null)[];
      b_seconds: (number | null)[];
      a_wall: (number | null)[];
      b_wall: (number | null)[];
      same_code: (boolean | null)[];
      same_results: (boolean | null)[];
    };
  };
}

export interface Actions {
  columns: { action: string[]; run: string[]; time: number[]; status: (number | null)[]; output: string[] };
}
