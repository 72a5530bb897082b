"""What clients have asked a kernel: its answers pass once, and what nobody asked for does not."""

#: Requests without an answer that are remembered of each channel; of more, the oldest are forgotten.
MAX_ASKED = 10_000
#: Prompts of one cell that nobody has answered: code may catch an interrupt, and ask again.
MAX_PROMPTS = 100


class Asked:
    """The requests of one kernel's clients on one channel, over all their connections.

    A client that connects anew still gets the answer to what it asked before.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}

    def ask(self, msg_id: object, answers: int = 1) -> None:
        """A request goes to the kernel.

        :param answers: how many may come.
        """
        if not isinstance(msg_id, str):
            return
        if len(self._waiting) >= MAX_ASKED:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[msg_id] = answers

    def take(self, msg_id: object) -> bool:
        """Whether an answer to this is waited for; it is no more then."""
        left = self._waiting.pop(msg_id, 0) if isinstance(msg_id, str) else 0
        if left > 1:
            self._waiting[str(msg_id)] = left - 1
        return left > 0
