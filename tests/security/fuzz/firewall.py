"""The message firewall whole, from a kernel that has its key: what it shows, says and asks, as hostile as can be."""

import json
from html.parser import HTMLParser

from hyper_kernel.channels.cells import Cells
from hyper_kernel.channels.firewall import Firewall
from hyper_kernel.channels.message import Resigner
from hyper_kernel.channels.meter import Meter
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import Codec, ZmtpError
from hyper_kernel.policy.output import OutputPolicy
from tests.security.fuzz.zmtp_stream import DELIMITER, GREETING, READY, message, read_stream, sign

_KERNEL, _CLIENTS = b"the key of the kernel", b"the key of the clients"
_MAX_OUTPUT = 20_000
_KINDS = (
    *("display_data", "execute_result", "update_display_data", "stream", "error", "status", "execute_reply"),
    *("comm_open", "comm_msg", "comm_close", "input_request", "inspect_reply", "clear_output", "no such kind"),
)
_HTML = (
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg onload=alert(1)>",
        "<iframe src=//x>",
        "<b>ok</b>",
    ),
    *(
        "<a href='javascript:alert(1)'>x</a>",
        "<form action=/api/terminals><button>",
        "<base href=//x>",
        "<math><mtext>",
    ),
    *(
        "<style>*{position:fixed}</style>",
        "<table><tr><td onclick=x>",
        "<object data=x>",
        "<embed src=x>",
        "<!--",
        "-->",
    ),
    *(
        "<noscript><p title='</noscript><script>x</script>'>",
        "<template><script>x</script>",
        "<meta http-equiv=refresh>",
    ),
    *(
        "<svg><style><img src=x onerror=x>",
        "<xmp><script>",
        "<textarea>",
        "</textarea>",
        "<link rel=stylesheet href=//x>",
    ),
    *(
        "<td class='x y' style='color: red; background: url(//x)'>",
        "<a href='https://x.example/' id=a title='t'>",
        "<img src='data:image/png;base64,AAAA' alt='a\\b'>",
        "<svg viewBox='0 0 9 9'><path fill='url(#a)' d='M0 0'/><use href='#a'/></svg>",
        "<p id='a b' style='position:fixed'>$x$",
        "&lt;script&gt;",
        "\0",
        "\u202e",
        "\ud800",
        "<",
        ">",
        '"',
        "'",
        "<![CDATA[",
        "]]>",
        "<a xlink:href='data:text/html,x'>",
    ),
)
_TYPES = (
    *("text/html", "text/plain", "image/svg+xml", "application/javascript", "text/markdown", "text/latex", "image/png"),
    *("application/json", "text/html; charset=utf-8", "TEXT/HTML", "application/vnd.jupyter.widget-view+json", "x/y"),
    *(
        "application/vnd.plotly.v1+json",
        "application/geo+json",
        "application/pdf",
        "text/vnd.mermaid",
        "application/ecmascript",
    ),
)
_KEYS = (
    *("data", "metadata", "transient", "name", "text", "ename", "evalue", "traceback", "execution_state", "payload"),
    *(
        "comm_id",
        "target_name",
        "state",
        "method",
        "prompt",
        "password",
        "status",
        "user_expressions",
        "value",
        "source",
    ),
    *("_model_module", "_view_module", "_model_name", "_esm", "description", "model_id", "display_id", "", "text/html"),
)
#: Elements and attributes that no browser may be given.
_BAD_ELEMENTS = {"script", "iframe", "object", "embed", "base", "form", "meta", "link", "frame", "applet", "template"}


def run(choices):
    cells = Cells(_MAX_OUTPUT, clock=lambda: 1.0)
    overs = []
    firewall = Firewall(OutputPolicy("sanitize"), cells, lambda: overs.append(True))
    channel = choices.pick(("iopub", "iopub", "iopub", "shell", "stdin", "control"))
    judge = firewall.from_kernel(channel, Meter(cells, clock=lambda: 1.0))
    codec = Codec(Resigner(Signer(_KERNEL), Signer(_CLIENTS), _refuse, judge))
    stream, count = bytearray(GREETING + READY), 0
    asks = 0
    while choices.left and count < 20:
        stream += _make_message(choices)
        count += 1
        if choices.byte() & 1:
            asks += channel in ("shell", "stdin")
            ask = firewall.from_client("shell", None)
            ask([b'{"msg_id":"p","msg_type":"execute_request"}', b"{}", b"{}", b"{}"])
    passed = bytearray()
    try:
        for piece in choices.cut(bytes(stream)):
            for chunk in codec.feed(piece):
                passed += chunk
    except ZmtpError as exc:
        assert 0 < len(str(exc)) < 500
    messages, *_ = read_stream(bytes(passed))
    for parts in messages:
        _check(channel, parts)
    # To one request at most one answer passes; of one that is asked again, as here, the last counts.
    assert channel == "iopub" or len(messages) <= asks * (1 if channel == "shell" else 100)
    assert len(firewall.removed) <= 100 and len(overs) <= count
    # What is removed is told in a few words; what passes is hardly longer than what came.
    assert len(passed) <= 8 * len(stream) + 20_000


def _refuse():
    raise ZmtpError("forged")


def _check(channel, parts):
    at = parts.index(DELIMITER)
    head = parts[at + 2 : at + 6]
    assert parts[at + 1] == sign(_CLIENTS, head)
    header, parent, metadata, content = (json.loads(part) for part in head)
    assert all(part.isascii() for part in head) and all(isinstance(part, dict) for part in (header, parent, metadata))
    assert all(value is None or len(value) <= 1024 for value in (*header.values(), *parent.values()))
    kind = header.get("msg_type")
    if channel == "iopub" and kind in ("display_data", "execute_result", "update_display_data"):
        data = content.get("data")
        assert isinstance(data, dict)
        for name, value in data.items():
            assert "javascript" not in name.lower() and "ecmascript" not in name.lower()
            if name in ("text/html", "image/svg+xml"):
                _Reader().check(value)


class _Reader(HTMLParser):
    """Another reading of HTML than the product's."""

    def check(self, text):
        assert isinstance(text, str)
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        assert tag not in _BAD_ELEMENTS, tag
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("srcdoc", "action", "formaction"), (tag, name)
            if name in ("href", "src", "xlink:href") and value:
                assert not value.strip().lower().startswith(("javascript:", "vbscript:", "data:text")), (tag, value)


def _make_message(choices):
    kind = choices.pick(_KINDS)
    header = {"msg_id": "m", "msg_type": kind, "session": "s", "username": "u", "date": "", "version": "5.3"}
    if choices.rarely(8):
        header[choices.pick((*header, "x"))] = _make_value(choices, 2)
    parent = {"msg_id": "p", "msg_type": "execute_request"} if choices.byte() & 3 else _make_object(choices, 2)
    content = {"data": _make_data(choices), "metadata": {}, "transient": {}} if choices.byte() & 1 else {}
    content |= _make_object(choices, 3)
    parts = [json.dumps(part).encode() for part in (header, parent, _make_object(choices, 1), content)]
    if choices.rarely():
        at = choices.below(4)
        parts[at] = choices.pick(
            (b"[" * 300, b"{}{}", b"[1]", b'{"a":NaN}', b"\xff", b"", b'{"a":1,"a":2}', b'{"a":1e999}')
        )
    buffers = [choices.bytes(choices.byte() % 20) for _ in range(choices.pick((0, 0, 0, 1, 2)))]
    return message(b"topic", DELIMITER, sign(_KERNEL, parts), *parts, *buffers)


def _make_data(choices):
    data = {}
    for _ in range(1 + choices.byte() % 3):
        name = choices.pick(_TYPES)
        data[name] = _make_html(choices) if choices.byte() & 7 else _make_value(choices, 2)
    return data


def _make_html(choices):
    return "".join(
        choices.bend(choices.pick(_HTML)) if choices.byte() & 1 else choices.pick(_HTML)
        for _ in range(choices.byte() % 6)
    )


def _make_object(choices, depth):
    return {choices.pick(_KEYS): _make_value(choices, depth - 1) for _ in range(choices.byte() % 4)}


def _make_value(choices, depth):
    kind = choices.byte() % 10
    if kind < 3 and depth > 0:
        return _make_object(choices, depth)
    if kind == 3 and depth > 0:
        return [_make_value(choices, depth - 1) for _ in range(choices.byte() % 4)]
    if kind < 7:
        return _make_html(choices)
    return choices.pick(
        (None, True, 0, -1, 1e308, 1 << 80, "", "x" * 2000, "idle", "@jupyter-widgets/controls", "anywidget")
    )
