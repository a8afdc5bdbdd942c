"""Who may speak after whom in a conversation that is to be learned."""

from __future__ import annotations

from collections.abc import Sequence

from keeptune.core.errors import DataError
from keeptune.core.example import Message
from keeptune.data.place import Place

FOLLOWERS = {
    "start": {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"tool", "assistant"},
}


def check_order(turns: Sequence[Message], key: str, place: Place) -> None:
    """One optional system turn, then user and assistant in turn, tool results after the assistant.

    A last turn of the user is accepted: it is read and not learned.

    Raises:
        DataError: E-DATA-ROLES, naming the turn.
    """
    before = "start"
    for number, turn in enumerate(turns):
        if turn.role not in FOLLOWERS[before]:
            raise _disorder(before, turn.role, f"{key}[{number}]", place)
        before = turn.role
    if all(turn.role != "assistant" for turn in turns):
        raise place.error(
            "no turn of the assistant: there is nothing to learn.", code="E-DATA-ROLES", key=key, fix="Delete the row."
        )


def _disorder(before: str, role: str, key: str, place: Place) -> DataError:
    if role == "system":
        what = f"a system turn after a turn of the {before}; only the first turn may be the system's."
        fix = "Move its text to the first turn."
    elif before == role:
        what, fix = f"two turns of the {role} in a row.", "Join them into one turn, or delete the row."
    elif before == "start":
        what, fix = f"the conversation starts with the {role}.", "It must start with the system or the user."
    else:
        what, fix = f"a turn of the {role} after the {before}.", "After the user comes the assistant."
    return place.error(what, code="E-DATA-ROLES", key=key, fix=fix)
