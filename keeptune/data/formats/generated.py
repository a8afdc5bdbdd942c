"""Text that the base model itself writes before training: a replay source when no general data is at hand."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from keeptune.data.formats import Format


class Generated(Format):
    """Settings of the generation; the rows are made when the recipe runs and kept in the run folder.

    Replaying the base's own text needs no licence and no download, and its distribution is by construction the one
    that the base must keep.
    """

    from_file: ClassVar[bool] = False

    rows: int = Field(400, gt=0, le=1_000_000, description="documents to generate")
    chats: float = Field(0.5, ge=0, le=1, description="share of conversations among the rows; the rest are documents")
    max_tokens: int = Field(256, gt=1, le=65_536, description="longest document in tokens")
    temperature: float = Field(1.0, ge=0, le=10, description="of sampling; 0 is greedy")
