"""What a Jupyter server is to a kernel: it asks for one cell and hears what comes. ``python -m tests.security.server``

Reads connection info and code as JSON from its input and says ``asked`` once the cell was asked; when its input ends it
prints what it heard, by kind, the end of what was printed, and the most memory that it took, in MiB.
"""

import json
import select
import sys
from collections import Counter
from pathlib import Path
from queue import Empty

from jupyter_client import BlockingKernelClient


def main():
    order = json.loads(sys.stdin.readline())
    client = BlockingKernelClient()
    client.load_connection_info(order["connection"] | {"key": order["connection"]["key"].encode()})
    client.start_channels()
    started_mib = peak_mib()
    client.execute(order["code"])
    print("asked", flush=True)
    kinds, longest, texts = Counter(), 0, ""
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            message = client.get_iopub_msg(timeout=0.1)
        except Empty:
            continue
        kinds[message["msg_type"]] += 1
        longest = max(longest, len(str(message["content"])))
        texts = (texts + str(message["content"].get("text", "")))[-1000:]
    client.stop_channels()
    print(
        json.dumps({"kinds": kinds, "longest": longest, "texts": texts, "grown_mib": peak_mib() - started_mib}),
        flush=True,
    )


def peak_mib():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
