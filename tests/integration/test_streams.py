"""Much data through a sandbox's streams."""

import hashlib
import subprocess
import sys
from pathlib import Path

from hyper_kernel.host.usage import read_pss
from hyper_kernel.spec import ProcessSpec, SandboxSpec

SIZE = 256 << 20
#: What the shim may grow by while that passes, in bytes.
GROWTH = 32 << 20
HYPER = Path(sys.executable).parent / "hyper"


def test_a_quarter_gibibyte_arrives_intact_and_the_shim_stays_small(client):
    record = client.create(SandboxSpec(process=ProcessSpec(argv=("sleep", "1000"))))
    client.start(record.id)
    record = client.sandbox(record.id)
    before = read_pss(record.shim_pid)
    words = [HYPER, "exec", record.id, "sh", "-c", f"yes 0123456789abcde | head -c {SIZE}"]
    found, most = hashlib.sha256(), before
    with subprocess.Popen(words, stdout=subprocess.PIPE) as reader:
        while data := reader.stdout.read(8 << 20):
            found.update(data)
            most = max(most, read_pss(record.shim_pid))
    expected = hashlib.sha256()
    for _ in range(SIZE >> 20):
        expected.update(b"0123456789abcde\n" * (1 << 16))
    assert reader.returncode == 0
    assert found.digest() == expected.digest()
    assert most - before < GROWTH
