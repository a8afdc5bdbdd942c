"""Runs a chat template: the tokenizer's own, or plain `User:` / `Assistant:` lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from keeptune.core.errors import DataError, ModelError

# Llama's own default. Templates that would print today's date get it, so that a run gives the same tokens tomorrow.
DATE = "26 Jul 2024"
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}Assistant: {{ message['content'] }}"
    "{{ eos_token }}\n{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

Turns = Sequence[Mapping[str, Any]]
Tools = list[Any] | None
Text = tuple[str, list[tuple[int, int]]]
Found = TypeVar("Found")


class Rendering:
    """One template of one tokenizer.

    Args:
        tokenizer: of transformers.
        name: `plain`, `tokenizer`, or None for the tokenizer's own when it has one.

    Attributes:
        name: `plain` or `tokenizer`.
        source: the template's text (Jinja).
        marks_answers: whether the template says itself what is generated, with `{% generation %}`.
    """

    def __init__(self, tokenizer: Any, name: str | None) -> None:
        assert name in (None, "plain", "tokenizer"), f"no template is called {name!r}"
        own = getattr(tokenizer, "chat_template", None)
        self.tokenizer = tokenizer
        self.name = "tokenizer" if own and name != "plain" else "plain"
        begin = "{{ bos_token }}" if beginning(tokenizer) else ""
        self.source = str(own) if self.name == "tokenizer" else begin + PLAIN
        self.marks_answers = GENERATION.search(self.source) is not None

    def text(self, turns: Turns, *, prompt: bool, tools: Tools = None) -> str:
        """The conversation as the template writes it, with the generation prompt at its end when `prompt`.

        Raises:
            DataError: the template refuses the conversation (E-TEMPLATE-DROPS for its system turn, E-TEMPLATE-ROLES).
        """
        return self._told(lambda: self._written([turns], prompt, tools)[0][0], turns, prompt, tools)

    def generated(self, turns: Turns, tools: Tools = None) -> Text:
        """The conversation as `text` writes it, and its spans inside `{% generation %}`, in one rendering.

        Raises:
            DataError: as `text`.
        """
        return self._told(lambda: self._written([turns], False, tools, answers=True)[0], turns, False, tools)

    def _told(self, rendered: Callable[[], Found], turns: Turns, prompt: bool, tools: Tools) -> Found:
        """What `rendered` gives; a template's refusal is told in our words."""
        import jinja2

        try:
            return rendered()
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            if turns and turns[0]["role"] == "system" and self._renders(turns[1:], prompt, tools):
                raise dropped("system", 0, f'The template says: "{error}".') from error
            raise DataError(
                f'the chat template cannot write this conversation: "{error}".',
                code="E-TEMPLATE-ROLES",
                fix="Check the order of the turns, or use `template: plain`.",
            ) from error

    def together(self, conversations: Sequence[Turns], *, answers: bool = False) -> list[Text] | None:
        """As `text`, or `generated` with `answers`, of many conversations in one go, without tools.

        Returns:
            What each becomes; None when the template refuses one of them.
        """
        import jinja2

        try:
            return self._written(conversations, False, None, answers=answers)
        except (jinja2.TemplateError, TypeError, KeyError):
            return None

    def _written(
        self, conversations: Sequence[Turns], prompt: bool, tools: Tools, *, answers: bool = False
    ) -> list[Text]:
        """What `apply_chat_template` writes, without what it does around that, a third of its time.

        Raises:
            ValueError: a conversation has no turns.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        if not all(conversations):
            raise ValueError("a conversation has turns")
        texts, spans = render_jinja_template(
            conversations=[list(turns) for turns in conversations],
            tools=tools,
            chat_template=self.source if self.name == "plain" else self.tokenizer.get_chat_template(None, tools),
            return_assistant_tokens_mask=answers,
            add_generation_prompt=prompt,
            date_string=DATE,
            **self.tokenizer.special_tokens_map,
        )
        stated = spans if answers else [()] * len(texts)
        return [
            (str(text), [(int(start), int(end)) for start, end in own]) for text, own in zip(texts, stated, strict=True)
        ]

    def _renders(self, turns: Turns, prompt: bool, tools: Tools) -> bool:
        import jinja2

        try:
            return bool(self._written([turns], prompt, tools)[0][0])
        except (jinja2.TemplateError, TypeError, KeyError, ValueError):
            return False


def beginning(tokenizer: Any) -> list[int]:
    """Ids that the tokenizer puts before every text by itself, such as `<s>`."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    given = tokenizer("a", add_special_tokens=True)["input_ids"]
    places = [start for start in range(len(given) - len(alone) + 1) if given[start : start + len(alone)] == alone]
    return list(given[: places[0]]) if places else []


def dropped(role: str, number: int, why: str = "") -> DataError:
    """The template leaves a turn, or a part of one, out (E-TEMPLATE-DROPS)."""
    fix = "Put its text into the first user turn, or use `template: plain`." if role == "system" else ""
    return DataError(
        f"the chat template does not write the {role} of turn {number + 1}."
        if role not in ("system", "user", "assistant", "tool")
        else f"the chat template leaves the {role} turn (turn {number + 1}) out.",
        code="E-TEMPLATE-DROPS",
        why=why,
        fix=fix or "Use the template that belongs to this kind of data, or leave the field out of the rows.",
    )


def no_end(tokenizer: Any) -> ModelError:
    """The template never ends the assistant's turn, so that no model could learn to stop (E-TEMPLATE-NO-END)."""
    return ModelError(
        "the chat template writes no control token after an answer: the model could not learn to stop.",
        code="E-TEMPLATE-NO-END",
        where={"file": getattr(tokenizer, "name_or_path", None) or None, "key": "chat_template"},
        why="The template may belong to another model's tokenizer, or the tokenizer has no end-of-sequence token.",
        fix="Use the template of this model, or `template: plain` with a tokenizer that has an `eos_token`.",
    )
