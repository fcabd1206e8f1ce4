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
