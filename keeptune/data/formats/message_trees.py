"""Trees of messages with ranked replies (OpenAssistant): each becomes one or all of its conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.formats import FileFormat, identity, licence
from keeptune.data.formats.messages import read_turn
from keeptune.data.json_rows import Row
from keeptune.data.place import Place
from keeptune.data.turn_order import check_order

DEEPEST = 200


class MessageTrees(FileFormat):
    """`{"message_tree_id", "prompt": {"text", "role", "replies": [...]}}`, as OpenAssistant publishes its trees.

    `threads: best` follows the best-ranked reply at each turn (rank 0 first, unranked ones last); `all` takes every way
    from the root to a last answer. A thread that ends with the user ends at the answer before. Deleted messages and
    their replies are left out.
    """

    threads: Literal["best", "all"] = Field("best", description="best: one conversation a tree; all: every path")

    def arrange(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One row a conversation."""
        for row in rows:
            root = None if isinstance(row.values, DataError) else row.values.get("prompt")
            if isinstance(row.values, DataError) or not isinstance(root, dict):
                yield row
                continue
            seen: set[tuple[str, ...]] = set()
            for path in self._paths(root, 1):
                while path and path[-1].get("role") == "prompter":
                    path.pop()
                key = tuple(str(turn.get("message_id") or turn.get("text")) for turn in path)
                if len(path) > 1 and key not in seen:
                    seen.add(key)
                    name = (
                        f"{row.values.get('message_tree_id', row.place.line)}/{path[-1].get('message_id', len(seen))}"
                    )
                    yield Row(row.place, {"id": name, "messages": path})
            if not seen:
                what = "the tree has no answer."
                yield Row(row.place, row.place.error(what, code="E-DATA-ROLES", fix="Leave it out with `skip_bad`."))

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One conversation."""
        given = row.get("messages")
        if not isinstance(given, list):
            raise place.missing(row, "prompt")
        said = [
            {"role": turn.get("role"), "content": turn.get("text")} if isinstance(turn, dict) else turn
            for turn in given
        ]
        turns = [read_turn(turn, f"messages[{number}]", place) for number, turn in enumerate(said)]
        check_order(turns, "messages", place)
        return Example(identity(row, place), tuple(turns), licence=licence(row), line=place.line)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure when the prompt is a message with replies."""
        prompt = row.get("prompt")
        return 1.0 if isinstance(prompt, dict) and {"text", "replies"} <= set(prompt) else 0.0

    def _paths(self, message: dict[str, Any], depth: int) -> Iterator[list[dict[str, Any]]]:
        listed = message.get("replies")
        usable = listed if isinstance(listed, list) else []
        replies = [one for one in usable if isinstance(one, dict) and not one.get("deleted")]
        if self.threads == "best" and replies:
            replies = [min(replies, key=_rank)]
        if not replies or depth >= DEEPEST:
            yield [message]
            return
        for reply in replies:
            for rest in self._paths(reply, depth + 1):
                yield [message, *rest]


def _rank(message: Mapping[str, Any]) -> float:
    rank = message.get("rank")
    return float(rank) if isinstance(rank, (int, float)) else float("inf")
