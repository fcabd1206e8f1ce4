import { render } from "preact";
import { App } from "./app";
import "./style.css";

// Whenever the address of the page changes the browser looks at the icon's again: it must not be a relative one then.
const icon = document.querySelector<HTMLLinkElement>("link[rel=icon]");
if (icon) icon.setAttribute("href", icon.href);

render(<App />, document.getElementById("page")!);
