"""hyperd's events, told by the server's own: whoever subscribes to /api/events/subscribe hears them."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from jupyter_events import EventLogger
from jupyter_events.schema_registry import SchemaRegistryException

from jupyter_ext.kernels import KERNEL_ID

SCHEMA = "https://events.hyper-kernel.org/sandbox/v1"
_SCHEMA_FILE = Path(__file__).parent / "events" / "sandbox-v1.yml"
#: Our word for Docker's.
_ACTIONS = {"create": "start", "start": "ready", "oom": "death", "die": "exit", "destroy": "removed"}
_OOM = "out of memory"
#: More names of deaths than that are counted together: names come from hyperd, but a metric must not grow for ever.
_MAX_DEATHS = 32


class Teller:
    """Tells what hyperd tells.

    :param logger: the server's.
    """

    def __init__(self, logger: EventLogger) -> None:
        self._logger = logger
        #: How often which death was met since the server started.
        self.deaths: Counter[str] = Counter()
        with contextlib.suppress(SchemaRegistryException):  # a server that was in this process before has done it
            logger.register_event_schema(_SCHEMA_FILE)

    def tell(self, event: dict[str, Any], reason: str = "") -> None:
        """Tell what there is to tell of one of hyperd's events.

        :param reason: of the death, where it is known.
        """
        for data in as_events(event, reason):
            if data["action"] == "death":
                name = data["death"] if data["death"] in self.deaths or len(self.deaths) < _MAX_DEATHS else "other"
                self.deaths[name] += 1
            self._logger.emit(schema_id=SCHEMA, data=data)


def as_events(event: dict[str, Any], reason: str = "") -> list[dict[str, Any]]:
    """What is told of an event of hyperd's (in Docker's shape): nothing, or one, or a death and the end it brought."""
    action = _ACTIONS.get(event["Action"])
    if action is None or event["Type"] != "container":
        return []
    attributes = event["Actor"]["Attributes"]
    death, code = attributes.get("death", ""), attributes.get("exitCode", "")
    told: dict[str, Any] = {
        "action": action,
        "sandbox": event["Actor"]["ID"],
        "name": attributes.get("name", ""),
        "image": attributes.get("image", ""),
        "kernel_id": attributes.get(KERNEL_ID, ""),
        "death": death,
        "reason": reason,
        "exit_code": int(code) if action == "exit" and code.lstrip("-").isdecimal() else -1,
    }
    # hyperd tells at once when memory ran out, as Docker does, and of other deaths with the end.
    before = [told | {"action": "death", "exit_code": -1}] if action == "exit" and death not in ("", _OOM) else []
    return [*before, told]
