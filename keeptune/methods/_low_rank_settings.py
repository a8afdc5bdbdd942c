"""Settings of low-rank updates, written once for the methods that have them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Rank = Annotated[int, Field(ge=1, le=4096, description="Inner width of the update.")]
Alpha = Annotated[float | None, Field(gt=0, description="Scale times rank; 2 * rank when null.")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="Dropout on the input of the update, in training.")]
Targets = Annotated[Literal["all"] | list[str], Field(description="Linear maps by role (q), name (q_proj) or path.")]
RsLoRA = Annotated[bool, Field(description="Divide alpha by the square root of the rank.")]
Ranks = Annotated[dict[str, int], Field(description="Another rank for some of the targets.")]
Alphas = Annotated[dict[str, float], Field(description="Another alpha for some of the targets.")]
