// Cancel, retry, resume: shown only where the server allows them, done only after a question.
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import type { About, Actions as Done, Run } from "../answers";
import { ask, send } from "../api";
import { token } from "../token";
import { Dialog, Trouble } from "./basics";

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

function possible(run: Run): Action[] {
  if (run.parent_id !== null) return [];
  if (run.ended === null) return ["cancel"];
  if (run.kind !== "flow" || run.fate === "completed") return [];
  return run.fate === "crashed" || run.fate === "cancelled" ? ["resume"] : ["retry"];
}

export function Actions({ run }: { run: Run }) {
  const known = useAbout();
  const [asked, setAsked] = useState<Action | null>(null);
  const [begun, setBegun] = useState(0);
  if (!known?.actions) return null;
  return (
    <div class="actions">
      {possible(run).map((action) => (
        <button key={action} type="button" class={action === "cancel" ? "danger" : ""} onClick={() => setAsked(action)}>
          {action[0]!.toUpperCase() + action.slice(1)}
        </button>
      ))}
      {asked && (
        <Question
          run={run}
          action={asked}
          onClose={(done) => {
            setAsked(null);
            if (done) setBegun(begun + 1);
          }}
        />
      )}
      {begun > 0 && <Progress key={begun} run={run} />}
    </div>
  );
}

function Question({ run, action, onClose }: { run: Run; action: Action; onClose: (done: boolean) => void }) {
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const [title, what] = QUESTIONS[action];
  const act = async () => {
    setBusy(true);
    try {
      const answer = await send<{ nonce: string }>(`api/actions/${action}`, { run: run.id, nonce });
      nonce = answer.nonce;
      onClose(true);
    } catch (problem) {
      setError(problem as Error);
      setBusy(false);
      nonce = await ask<About>("api/about").then(
        (answer) => answer.nonce,
        () => nonce,
      );
    }
  };
  return (
    <Dialog title={title} onClose={() => onClose(false)}>
      <p>
        <strong>{run.title}</strong>
      </p>
      <p>{what}</p>
      <Trouble error={error} />
      <div class="controls">
        <button type="button" class={action === "cancel" ? "danger" : "main"} disabled={busy} onClick={act}>
          {action === "cancel" ? "Cancel the run" : action === "retry" ? "Retry" : "Resume"}
        </button>
        <button type="button" onClick={() => onClose(false)}>
          Leave it
        </button>
      </div>
    </Dialog>
  );
}

// What the command that the action started has said so far.
function Progress({ run }: { run: Run }) {
  const [said, setSaid] = useState<Done | null>(null);
  const [error, setError] = useState<Error | null>(null);
  useEffect(() => {
    let timer = 0;
    const look = async () => {
      try {
        const answer = await ask<Done>("api/actions", { run: run.id });
        setSaid(answer);
        if (answer.columns.status[0] === null) timer = window.setTimeout(look, 1000);
      } catch (problem) {
        setError(problem as Error);
      }
    };
    void look();
    return () => clearTimeout(timer);
  }, [run.id]);
  if (error) return <Trouble error={error} />;
  const status = said?.columns.status[0];
  const action = said?.columns.action[0] ?? "";
  const words =
    status === undefined || status === null ? "is under way" : status === 0 ? "done" : `ended with status ${status}`;
  return (
    <div class="notice" role="status">
      {action} {words}
      {said?.columns.output[0] && <pre>{said.columns.output[0]}</pre>}
    </div>
  );
}
