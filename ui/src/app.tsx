import { signal } from "@preact/signals";
import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Link, Route, Router, Switch, useLocation } from "wouter-preact";
import { PREFIX } from "./base";
import { KEYS, keysOn, setKeys, useKeys } from "./keys";
import { AboutPage } from "./pages/about";
import { ComparePage } from "./pages/compare";
import { FlowPage, FlowsPage } from "./pages/flows";
import { RunPage } from "./pages/run";
import { RunsPage } from "./pages/runs";
import { TaskPage } from "./pages/task";
import { Dialog, useTitle } from "./parts/basics";
import { nextTheme, THEMES, theme } from "./theme";
import { enter, needed } from "./token";

const help = signal(false);

export function App() {
  return (
    <Router base={PREFIX}>
      <Frame />
    </Router>
  );
}

function Frame() {
  const [, go] = useLocation();
  const main = useRef<HTMLElement>(null);
  useKeys({
    "?": openHelp,
    t: nextTheme,
    "g r": () => go("/runs"),
    "g f": () => go("/flows"),
    "g c": () => go("/compare"),
    "g a": () => go("/about"),
  });
  useBeginning(main);
  return (
    <>
      <button type="button" class="skip" onClick={() => main.current?.focus()}>
        Skip to the content
      </button>
      <TopBar />
      <main id="main" ref={main} tabIndex={-1}>
        <Pages />
        {needed.value && <Key />}
      </main>
      {help.value && <Help />}
    </>
  );
}

function openHelp() {
  help.value = true;
}

// A new page begins at its top, for the eyes and for the keyboard.
function useBeginning(main: RefObject<HTMLElement>): void {
  const [path] = useLocation();
  const first = useRef(true);
  useEffect(() => {
    if (!first.current) {
      scrollTo(0, 0);
      main.current?.focus({ preventScroll: true });
    }
    first.current = false;
  }, [path]);
}

function TopBar() {
  return (
    <header class="top">
      <Link href="/runs" class="brand">
        <Mark />
        penstock
      </Link>
      <nav aria-label="pages">
        <Tab to="/runs" also="/tasks">
          Runs
        </Tab>
        <Tab to="/flows">Flows</Tab>
        <Tab to="/compare">Compare</Tab>
        <Tab to="/about">About</Tab>
      </nav>
      <div class="tools">
        <Themes />
        <button type="button" aria-label="Keyboard" title="Keyboard (?)" onClick={openHelp}>
          ?
        </button>
      </div>
    </header>
  );
}

function Themes() {
  return (
    <label>
      <span class="hidden">Theme</span>
      <select
        value={theme.value}
        onChange={(event) => {
          theme.value = THEMES.find((one) => one === event.currentTarget.value) ?? "system";
        }}
      >
        {THEMES.map((one) => (
          <option key={one} value={one}>
            {one}
          </option>
        ))}
      </select>
    </label>
  );
}

const Mark = () => (
  <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
    <path fill="currentColor" d="M2 2h5v3H2zM5 6.5h7v3H5zM9 11h5v3H9z" />
  </svg>
);

function Tab({ to, also, children }: { to: string; also?: string; children: ComponentChildren }) {
  const [path] = useLocation();
  const here = path.startsWith(to) || (also !== undefined && path.startsWith(also)) || (path === "/" && to === "/runs");
  return (
    <Link href={to} aria-current={here ? "page" : undefined}>
      {children}
    </Link>
  );
}

function Pages() {
  return (
    <Switch>
      <Route path="/" component={RunsPage} />
      <Route path="/runs" component={RunsPage} />
      <Route path="/runs/:id">{({ id }) => <RunPage key={id} id={id} />}</Route>
      <Route path="/tasks/:id">{({ id }) => <TaskPage key={id} id={id} />}</Route>
      <Route path="/flows" component={FlowsPage} />
      <Route path="/flows/:name">{() => <FlowPage key={lastSegment()} name={lastSegment()} />}</Route>
      <Route path="/compare" component={ComparePage} />
      <Route path="/about" component={AboutPage} />
      <Route component={Nowhere} />
    </Switch>
  );
}

// The router decodes a part of what is encoded, which is not enough for the name of a flow.
const lastSegment = () => decodeURIComponent(location.pathname.slice(location.pathname.lastIndexOf("/") + 1));

function Nowhere() {
  useTitle("No such page");
  return (
    <>
      <h1>There is no such page</h1>
      <p>
        <Link href="/runs">All runs</Link>
      </p>
    </>
  );
}

// The server does not know this tab: it was started again, or the address was typed without what is behind the #.
function Key() {
  const [text, setText] = useState("");
  return (
    <section class="panel key" aria-labelledby="key-title">
      <h2 id="key-title">This tab has no access yet</h2>
      <p>
        Open the address that <code>penstock ui</code> has printed, or paste it here. It is a new one each time the
        command is started.
      </p>
      <form
        class="controls"
        onSubmit={(event) => {
          event.preventDefault();
          enter(text);
        }}
      >
        <label class="grow">
          <span class="hidden">Address or token</span>
          <input
            value={text}
            autocomplete="off"
            spellcheck={false}
            placeholder="http://127.0.0.1:…/#token=…"
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </label>
        <button type="submit">Open</button>
      </form>
    </section>
  );
}

function Help() {
  return (
    <Dialog
      title="Keyboard"
      onClose={() => {
        help.value = false;
      }}
    >
      <dl class="keys">
        {KEYS.map(([key, what]) => (
          <div key={key}>
            <dt>
              {key.split(/ +/).map((one) => (
                <kbd key={one}>{one}</kbd>
              ))}
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog" class="controls">
        <label>
          <input type="checkbox" checked={keysOn.value} onChange={(event) => setKeys(event.currentTarget.checked)} />
          single keys do this
        </label>
        <button type="submit">Close</button>
      </form>
    </Dialog>
  );
}
