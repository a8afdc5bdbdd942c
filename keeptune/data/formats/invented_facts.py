"""Made-up facts as plain texts, with questions about them: new knowledge of which no model has read."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from keeptune.data.formats import Format


class InventedFacts(Format):
    """Settings of the facts; texts and questions are made when the recipe runs.

    The texts are the training rows, a question about each fact the test rows, another wording the out-of-distribution
    rows. The suite is asked two tasks more: `taught`, the end of a sentence that was taught, and `neighbours`, the same
    question about words that were always there.
    """

    from_file: ClassVar[bool] = False

    seed: int = Field(0, ge=0, description="fixes the facts")
    count: int = Field(64, ge=2, le=2000, description="facts")
    documents: int = Field(8, ge=1, le=1000, description="texts that state each of them, in changing wordings")
