"""The kernel end's addresses and ports, with the real device."""

import asyncio
import os

import pytest

from hyper_kernel.errors import ConflictError, HostError
from hyper_kernel.vsock.end import RefusedError
from hyper_kernel.vsock.kernel import KernelEnd, claim_cid

PORT = 3000


def test_addresses_and_ports_have_one_owner():
    async def work():
        one, other = KernelEnd(), KernelEnd()
        assert one.cid != other.cid
        with pytest.raises(HostError, match="cannot be claimed"):
            claim_cid(one.cid)
        one.listen(PORT)
        with pytest.raises(ConflictError, match="listener already"):
            other.listen(PORT)
        await one.close()
        other.listen(PORT)
        os.close(claim_cid(one.cid)[0])
        with pytest.raises(RefusedError):
            await one.connect(PORT)
        await other.close()

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(work())
    assert set(os.listdir("/proc/self/fd")) <= before
