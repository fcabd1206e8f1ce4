import { useEffect, useRef, useState } from "preact/hooks";

interface TypedProps {
  value?: string;
  onText: (text: string) => void;
  hint?: string;
  field?: { current: HTMLInputElement | null };
}

// A field whose text counts when the typing stops.
export function Typed({ value = "", onText, hint, field }: TypedProps) {
  const [text, setText] = useState(value);
  const timer = useRef(0);
  useEffect(() => setText(value), [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return (
    <input
      ref={field}
      type="search"
      value={text}
      placeholder={hint}
      autocomplete="off"
      spellcheck={false}
      onInput={(event) => {
        const typed = event.currentTarget.value;
        setText(typed);
        clearTimeout(timer.current);
        timer.current = window.setTimeout(() => onText(typed), 250);
      }}
    />
  );
}

interface ChoiceProps {
  name: string;
  value?: string;
  choices: (string | [value: string, said: string])[];
  none?: string; // the word for no choice
  onChoose: (value: string) => void;
}

// A list of which one is chosen, or none. What is chosen is in it, even if nobody offers it any more.
export function Choice({ name, value = "", choices, none = "any", onChoose }: ChoiceProps) {
  const offered = choices.map((one): [string, string] => (typeof one === "string" ? [one, one] : one));
  if (value && !offered.some(([one]) => one === value)) offered.unshift([value, value]);
  return (
    <label>
      <span>{name}</span>
      <select value={value} onChange={(event) => onChoose(event.currentTarget.value)}>
        <option value="">{none}</option>
        {offered.map(([one, said]) => (
          <option key={one} value={one}>
            {said}
          </option>
        ))}
      </select>
    </label>
  );
}
