"""The answer is JSON, and the JSON that was asked for."""

from __future__ import annotations

import importlib
import json
from functools import cached_property
from typing import Any

from pydantic import Field

from keeptune.core.errors import MachineError, RecipeError
from keeptune.core.example import Example
from keeptune.data.verifiers import Verifier


class JSONSchema(Verifier):
    """The whole answer parses as JSON and satisfies `schema`; with `same`, it also equals the gold answer's JSON.

    Two answers go the same way when they hold the same JSON. The schema is checked by the package `jsonschema`, which
    fetches nothing: a reference to another document is refused.
    """

    rules: dict[str, Any] = Field(default_factory=dict, description="the JSON schema; empty: any JSON")
    same: bool = Field(False, description="also require the value of the gold answer")

    @cached_property
    def _validator(self) -> Any:
        try:
            jsonschema = importlib.import_module("jsonschema")
        except ModuleNotFoundError as error:
            raise MachineError(
                "answers cannot be held against a schema here.",
                code="E-MACHINE-PACKAGE",
                why="The package jsonschema is not installed.",
                fix="pip install jsonschema",
            ) from error
        kind = jsonschema.validators.validator_for(self.rules, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(self.rules)
        except jsonschema.SchemaError as error:
            raise RecipeError(
                f"the schema is not a JSON schema: {error.message}",
                code="E-VERIFY-SCHEMA",
                where={"key": "verifier.rules"},
                fix="See https://json-schema.org for what a schema may hold.",
            ) from error
        return kind(self.rules)

    def fault(self, example: Example, answer: str) -> str | None:
        """`no JSON`, `another form`, `another value`, or None."""
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            return "no JSON"
        if self.rules and not self._validator.is_valid(found):
            return "another form"
        return "another value" if self.same and found != json.loads(example.target) else None

    def way(self, answer: str) -> str:
        """The JSON in canonical form."""
        return json.dumps(json.loads(answer), sort_keys=True, separators=(",", ":"))
