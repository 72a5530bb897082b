"""An input read as choices; one that is used up says zero, so that any bytes are an input and each one ends."""

#: What lengths, counts and indices are wrong by.
EDGES = (
    *(0, 1, 2, 3, 4, 7, 8, 9, 43, 44, 45, 63, 64, 127, 128, 255, 256, 511, 512, 4096, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x3FFFF, 0x40000, 0x40001, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)


class Choices:
    """Takes an input's bytes one after the other."""

    def __init__(self, data):
        self._data, self._at, self._end = data, 0, len(data)
        #: Whether anything was bent.
        self.has_bent = False

    @property
    def left(self):
        """Whether there is more: what repeats itself ends when there is not."""
        return self._at < self._end

    def byte(self):
        at = self._at
        if at >= self._end:
            return 0
        self._at = at + 1
        return self._data[at]

    def bytes(self, count):
        """So many bytes or fewer."""
        self._at += count
        return self._data[self._at - count : self._at]

    def below(self, bound):
        """A number below 256 or 65536."""
        if bound <= 256:
            return self.byte() % bound
        return (self.byte() << 8 | self.byte()) % bound

    def pick(self, options):
        return options[self.below(len(options))]

    def rarely(self, of=16):
        """True once in so many times, and never once the input is used up."""
        return self.byte() % of == 1

    def number(self, bits):
        """Any number of so many bits, mostly one at an edge."""
        kind = self.byte()
        if kind < 160:
            return EDGES[kind % len(EDGES)] & (1 << bits) - 1
        if kind < 224:
            return (EDGES[self.byte() % len(EDGES)] + kind - 192) & (1 << bits) - 1
        return int.from_bytes(self.bytes(bits // 8), "little")

    def cut(self, data):
        """The bytes in one to four pieces."""
        pieces, view = [], memoryview(data)
        for _ in range(self.byte() % 4):
            at = self.below(len(view) + 1) if len(view) < 65535 else self.number(16)
            pieces.append(view[:at])
            view = view[at:]
        return [*pieces, view]

    def bend(self, data):
        """Bytes, or a text, of which a few are changed, taken out, put in, doubled; mostly none."""
        kind = self.byte()
        if kind < 128 or not data:
            return data
        self.has_bent = True
        at = self.below(min(len(data), 65536))
        if kind < 192:
            return data[:at] + self._piece(data, 1) + data[at + 1 :]
        if kind < 216:
            return data[:at] + data[at + 1 + self.byte() % 16 :]
        if kind < 240:
            return data[:at] + self._piece(data, 1 + self.byte() % 8) + data[at:]
        return data[:at] + data[at // 2 :]

    def _piece(self, data, count):
        piece = self.bytes(count)
        return piece.decode("latin-1") if isinstance(data, str) else piece
