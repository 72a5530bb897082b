"""Memory of a guest as bytes of this process, for fuzzers; whoever reaches outside it fails the run."""

from hyper_kernel.vsock.memory import ProcessMemory, Region

#: Two regions that the guest sees side by side and QEMU has apart, and one behind a hole.
REGIONS = (Region(0x1000, 0x1000, 0x70000000), Region(0x2000, 0x1000, 0x50000000), Region(0x8000, 0x2000, 0x60000000))


class GuestMemory(ProcessMemory):
    """See ``hyper_kernel.vsock.memory.Memory``.

    :param regions: at most a few KiB each.
    """

    def __init__(self, regions=REGIONS):
        super().__init__(0)
        self.set_regions(regions)
        self.bytes = [(region.user_address, bytearray(region.size)) for region in regions]
        self.reads = self.moved = 0

    def _place(self, address, length):
        for start, content in self.bytes:
            if start <= address and address + length <= start + len(content):
                return content, address - start
        raise AssertionError(f"{length} bytes at {address:#x} are not the guest's")

    def read(self, spans):
        self.reads += 1
        out = bytearray()
        for address, length in spans:
            content, at = self._place(address, length)
            out += content[at : at + length]
        self.moved += len(out)
        return out

    def write(self, spans, data):
        assert sum([length for _, length in spans]) == len(data)
        done = 0
        for address, length in spans:
            content, at = self._place(address, length)
            content[at : at + length] = data[done : done + length]
            done += length
        self.moved += done
