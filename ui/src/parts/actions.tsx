// Cancel, retry, resume: shown only where the server allows them, done only after a question.
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import type { About, Actions as Done, Header, Run } from "../answers";
import { ask, send } from "../api";
import { State } from "../states";
import { token } from "../token";
import { Dialog, runPath, To, Trouble } from "./basics";

type Action = "cancel" | "retry" | "resume";

const about = signal<About | null>(null);
let nonce: string | null = null;

export function useAbout(): About | null {
  const secret = token.value;
  useEffect(() => {
    if (about.value) return;
    ask<About>("api/about").then(
      (answer) => {
        about.value = answer;
        nonce = answer.nonce;
      },
      () => {}, // the page says itself what is wrong with the server
    );
  }, [secret]);
  return about.value;
}

const QUESTIONS: Record<Action, [title: string, what: string]> = {
  cancel: [
    "Cancel this run?",
    "What has begun is told to stop, nothing else is started. What has ended stays as it is.",
  ],
  retry: [
    "Run it again, the failed part only?",
    "A new run goes on with the finished work of this one. The code of the flow is run as it is now.",
  ],
  resume: [
    "Go on with this run?",
    "A new run goes on where this one was interrupted. The code of the flow is run as it is now.",
  ],
};

const CONFIRM: Record<Action, string> = { cancel: "Cancel the run", retry: "Retry", resume: "Resume" };

function possible({ run, groups }: Header): Action[] {
  if (run.parent_id !== null) return [];
  if (run.ended === null) return ["cancel"];
  if (run.kind !== "flow") return [];
  if (run.fate === "crashed" || run.fate === "cancelled") return ["resume"];
  const someFailed = ["failed", "crashed"].some((fate) => groups.fates[fate]?.some((number) => number));
  return run.fate !== "completed" || someFailed ? ["retry"] : [];
}

// `again`: the header is to be asked for anew: a run that was begun again has another life.
export function Actions({ header, again }: { header: Header; again: () => void }) {
  const known = useAbout();
  const [asked, setAsked] = useState<Action | null>(null);
  const [begun, setBegun] = useState(0);
  const { run } = header;
  if (!known?.actions) return null;
  const closed = (done: boolean) => {
    setAsked(null);
    if (done) setBegun(begun + 1);
  };
  return (
    <div class="actions">
      {possible(header).map((action) => (
        <button key={action} type="button" class={action === "cancel" ? "danger" : ""} onClick={() => setAsked(action)}>
          {action[0]!.toUpperCase() + action.slice(1)}
        </button>
      ))}
      {asked && <Question run={run} action={asked} onClose={closed} />}
      {begun > 0 && <Progress key={begun} header={header} again={again} />}
    </div>
  );
}

interface QuestionProps {
  run: Run;
  action: Action;
  onClose: (done: boolean) => void;
}

function Question({ run, action, onClose }: QuestionProps) {
  const [title, what] = QUESTIONS[action];
  const { act, busy, error } = useAct(run, action, () => onClose(true));
  return (
    <Dialog title={title} onClose={() => onClose(false)}>
      <p>
        <strong>{run.title}</strong>
      </p>
      <p>{what}</p>
      <Trouble error={error} />
      <div class="controls">
        <button type="button" class={action === "cancel" ? "danger" : "main"} disabled={busy} onClick={act}>
          {CONFIRM[action]}
        </button>
        <button type="button" autofocus={action === "cancel"} onClick={() => onClose(false)}>
          Leave it
        </button>
      </div>
    </Dialog>
  );
}

function useAct(run: Run, action: Action, done: () => void) {
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const act = async () => {
    setBusy(true);
    try {
      const answer = await send<{ nonce: string }>(`api/actions/${action}`, { run: run.id, nonce });
      nonce = answer.nonce;
      done();
    } catch (problem) {
      setError(problem as Error);
      setBusy(false);
      nonce = await ask<About>("api/about").then(
        (answer) => answer.nonce,
        () => nonce,
      );
    }
  };
  return { act, busy, error };
}

// --- what has become of it --------------------------------------------------------------------------------------------

interface ProgressProps {
  header: Header;
  again: () => void;
}

// What the command that the action started has said so far, and the run that it has begun.
function Progress({ header, again }: ProgressProps) {
  const { said, error } = useProgress(header.run.id, again);
  const [known] = useState(header.lives.columns.id); // before the action
  if (error) return <Trouble error={error} />;
  const { action = [], status = [], output = [] } = said?.columns ?? {};
  const isBad = Boolean(status[0]);
  return (
    <div class={isBad ? "trouble" : "notice"} role="status">
      <p>{wordsFor(action[0] as Action | undefined, status[0] ?? null)}</p>
      <NewLife header={header} known={known} />
      {output[0] && (
        <pre tabIndex={0} role="region" aria-label="what the command said">
          {output[0]}
        </pre>
      )}
    </div>
  );
}

function useProgress(id: string, again: () => void) {
  const [said, setSaid] = useState<Done | null>(null);
  const [error, setError] = useState<Error | null>(null);
  useEffect(() => {
    let timer = 0;
    const look = async () => {
      try {
        const answer = await ask<Done>("api/actions", { run: id });
        setSaid(answer);
        if (answer.columns.status[0] === null) timer = window.setTimeout(look, 1000);
      } catch (problem) {
        setError(problem as Error);
      }
      again();
    };
    void look();
    return () => clearTimeout(timer);
  }, [id]);
  return { said, error };
}

function wordsFor(action: Action | undefined, status: number | null): string {
  const name = action ? action[0]!.toUpperCase() + action.slice(1) : "The action";
  if (status === null) return `${name} is under way.`;
  if (status === 0) return `${name} is done.`;
  if (action !== "cancel" && status === 1) return "The new run failed.";
  if (action !== "cancel" && status === 4) return "The new run was cancelled.";
  return `${name} was not possible (status ${status}):`;
}

function NewLife({ header, known }: { header: Header; known: string[] }) {
  const { id, title, state, fate } = header.lives.columns;
  const row = id.findIndex((one) => one !== header.run.id && !known.includes(one)); // the latest is the first
  if (row < 0) return null;
  return (
    <p class="life">
      The work goes on in <To to={runPath(id[row]!)}>{title[row]}</To> <State fate={fate[row]!} state={state[row]!} />
    </p>
  );
}
