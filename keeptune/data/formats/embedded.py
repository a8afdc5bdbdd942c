"""The embedded task: name the library area of a docstring; rows come from the packages of this machine."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from keeptune.data.formats import Format


class Embedded(Format):
    """Settings of the embedded task; its rows are harvested when the recipe runs, and nothing is stored.

    It brings its own splits: train, dev, test, and out-of-distribution rows of packages that were not trained on.
    """

    from_file: ClassVar[bool] = False

    seed: int = Field(0, ge=0, description="fixes which rows are drawn")
    train: int = Field(170, gt=0, le=10_000, description="most training rows per label")
    dev: int = Field(25, gt=0, le=10_000, description="most dev rows per label")
    test: int = Field(50, gt=0, le=10_000, description="most test rows per label, and as many out of distribution")
    worse: bool = Field(False, description="each row brings a worse answer too: another label, fixed by its id")
