"""Cross-entropy of masked tokens: what an encoder learns plain texts by (Devlin et al. 2019, arXiv:1810.04805)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from keeptune.engine.batch import PackedBatch

SHOWN_AS_MASK, SHOWN_AS_ANOTHER = 0.8, 0.1
"""Of the tokens that are asked for; the others are shown as they are."""
ALWAYS = 0
"""Seed of the masks where nothing is learned, so that two looks at the same rows compare."""


class MaskedToken(Loss):
    """-log p(token), in nats, on tokens that the model sees masked, replaced or unchanged; new ones in every step.

    A token of a document is asked for with probability `share`; of those, 80% are shown as the mask, 10% as a token
    drawn from the vocabulary, 10% as they are. The model's own masked-language-model head gives p.
    """

    alters: ClassVar[bool] = True

    share: float = Field(0.15, gt=0, lt=1, description="of a text's tokens that are asked for")

    def given(self, batch: PackedBatch, model: PreTrainedModel) -> PackedBatch:
        """The batch with masks in the rows of `on`, and with what they hide as targets.

        Raises:
            PlanError: the model has no masked-language-model head, or its tokenizer no mask (E-MODEL-CLOZE).
        """
        import torch

        from keeptune.engine.batch import IGNORED
        from keeptune.engine.cloze import mask_of

        mask, special = mask_of(model)
        device = batch.tokens.device
        seed = int(torch.randint(2**31, ())) if model.training else ALWAYS
        generator = torch.Generator().manual_seed(seed)
        ours = torch.zeros(len(batch.tokens), dtype=torch.bool)
        for source, start, end in zip(batch.sources, batch.offsets[:-1], batch.offsets[1:], strict=True):
            ours[start:end] = self.on in (None, source) and bool((batch.targets[start:end] != IGNORED).any())
        chance, shown = torch.rand(2, len(ours), generator=generator)
        open_to = ours & ~torch.isin(batch.tokens.cpu(), torch.tensor(special))
        asked = open_to & (chance < self.share)
        if not asked.any() and open_to.any():  # in a batch of few tokens
            asked[int(chance.masked_fill(~open_to, 1.0).argmin())] = True
        others = torch.randint(model.config.vocab_size, (len(ours),), generator=generator)
        tokens, targets = batch.tokens.clone(), batch.targets.clone()
        targets[ours.to(device)] = IGNORED
        targets[asked.to(device)] = batch.tokens[asked.to(device)]
        tokens[(asked & (shown < SHOWN_AS_MASK)).to(device)] = mask
        drawn = asked & (shown >= SHOWN_AS_MASK) & (shown < SHOWN_AS_MASK + SHOWN_AS_ANOTHER)
        tokens[drawn.to(device)] = others[drawn].to(device)
        return replace(batch, tokens=tokens, targets=targets)

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The sum over the masked tokens, and their number."""
        import torch

        rows = self.rows(view.batch)
        logits = view.cloze(rows)
        targets = view.batch.targets[rows]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(wide, targets, reduction="sum"), len(rows)
