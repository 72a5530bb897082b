"""What a hostile kernel may send on the channels that publish nothing: as bounded as what it shows."""

import pytest

from hyper_kernel.channels.cells import Cells
from hyper_kernel.channels.firewall import Firewall
from hyper_kernel.channels.message import Resigner
from hyper_kernel.channels.meter import Meter
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import Codec
from hyper_kernel.policy.output import OutputPolicy
from tests.security.fuzz.zmtp_stream import DELIMITER, GREETING, READY, message, sign

_KERNEL, _LIMIT = b"the key of the kernel", 4 << 20


@pytest.mark.parametrize("channel", ["iopub", "shell", "control", "stdin"])
@pytest.mark.parametrize("kind", ["complete_reply", "inspect_reply", "execute_reply", "history_reply", "no_such_reply"])
def test_a_flood_of_answers_that_nobody_asked_for_is_bounded(channel, kind):
    cells = Cells(_LIMIT)
    judge = Firewall(OutputPolicy(), cells, lambda: None).from_kernel(channel, Meter(cells))
    codec = Codec(Resigner(Signer(_KERNEL), Signer(b"the key of the clients"), lambda: None, judge))
    passed = sum(map(len, codec.feed(GREETING + READY)))
    header = b'{"msg_id":"m","msg_type":"%s","session":"s","username":"u","date":"","version":"5.3"}' % kind.encode()
    content = b'{"status":"ok","matches":["%s"],"cursor_start":0,"cursor_end":0,"metadata":{}}' % (b"x" * (1 << 20))
    parts = [header, b'{"msg_id":"nobody asked"}', b"{}", content]
    flood = message(b"client", DELIMITER, sign(_KERNEL, parts), *parts)
    for _ in range(40):
        passed += sum(map(len, codec.feed(flood)))
    assert passed < 4 * _LIMIT
