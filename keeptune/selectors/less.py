"""LESS: the examples whose gradients point where the queries' gradients point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.digest import digest_of
from keeptune.core.example import Example
from keeptune.selectors import Context, Need, Selection, Selector, best, model_of, queries_of
from keeptune.selectors._states import whole_rows
from keeptune.selectors._vectors import unit


class Less(Selector):
    """Influence by gradient similarity (Xia et al. 2024, arXiv:2402.04333).

        score_i = max over subtasks of mean over the subtask's queries of cos(g_i, g_q)

    g is the gradient of the mean loss of a row's answers, at random projections of every linear map of the blocks
    (`keeptune.engine.gradient_features`). A subtask is a file of queries. Of the paper's form this is the one of a
    single checkpoint with plain gradients on both sides: its warm-up, the sum over checkpoints weighted by their rates,
    and Adam's moments are left out; give a model that was warmed up on a sample of the pool to come nearer.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"queries", "model"})

    width: int = Field(16, ge=1, le=128, description="k: every linear map gives k x k numbers")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples by falling score; one that teaches nothing is never chosen."""
        count = self.budget(examples)
        queries = queries_of(context)
        points_NF, queries_MF = self._features(examples, context), self._features(queries, context)
        tasks = sorted({query.source for query in queries})
        members = [[place for place, query in enumerate(queries) if query.source == task] for task in tasks]
        likeness_NT = np.stack([(points_NF @ queries_MF[own].T).mean(axis=1) for own in members], axis=1)
        scores = np.where(np.any(points_NF != 0, axis=1), likeness_NT.max(axis=1), np.nan)
        chosen = best(scores, count)
        found = [float(scores[place]) for place in chosen]
        nearest = [tasks[int(np.argmax(likeness_NT[place]))] for place in chosen]
        reasons = [
            f"mean cosine {score:.3f} to the gradients of {task or 'the queries'}"
            for score, task in zip(found, nearest, strict=True)
        ]
        return Selection(tuple(map(int, chosen)), tuple(found), tuple(reasons))

    def _features(self, examples: Sequence[Example], context: Context) -> NDArray[np.float32]:
        import torch

        from keeptune.engine.gradient_features import REVISION, gradient_features
        from keeptune.models.tensor_store import tensors_digest

        loaded = model_of(context)
        rows = whole_rows(examples, loaded)

        def make() -> dict[str, torch.Tensor]:
            return {"features": gradient_features(loaded.model, rows, width=self.width, seed=context.seed)}

        if context.store is None:
            features = make()["features"]
        else:
            given = [[list(row.tokens), [int(learned) for learned in row.learned]] for row in rows]
            weights, config = tensors_digest(loaded.model.state_dict()), loaded.model.config.to_json_string()
            settings = [REVISION, self.width, context.seed, torch.__version__]
            key = digest_of(["gradients", settings, weights, config, given])
            features = context.store.once(key, make)["features"]
        return unit(features.numpy())
