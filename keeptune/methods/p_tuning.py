"""P-tuning: virtual tokens that an encoder makes while they are trained (Liu et al. 2021, arXiv:2103.10385).

    X' = [P; E(x)],    P = mlp(bilstm(Z)),    P, Z: p x D

`lstm` is the authors' encoder: two bidirectional layers of width m, then Linear(2m, D), ReLU, Linear(D, D), with
m = D / 2 as in their probing of facts, or D as in their few-shot tasks. `mlp` is PEFT's: three maps of width m = D with
ReLU between. Either serves training alone: a file keeps P, and without a template it is one of `prompt`.

A template says where the virtual tokens stand: `{soft:3} {text} {soft:3} {mask}`, with words between them as one likes.
In a masked language model it stands around the text, inside the tokenizer's own frame, as the authors' does in BERT
(`[CLS] P [MASK] P x P [SEP]`), and `{mask}` asks for a word:

    score_c = logit of verbaliser(c) at the mask

which the loss `label` learns and `label_accuracy` reads, as of a head. Rows of several texts have a `{text:column}` for
each, and what is between them stands before the later one. In an encoder-decoder a template stands around what the
encoder reads. In a decoder it stands around the request: what is behind the last text comes directly before the answer,
and its last vector predicts the first token of that; in a conversation so before each answer. Every inserted vector
takes a position, as a word there would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._choices import Encoder
from keeptune.methods._families import require_tokens
from keeptune.methods._template import MASK, Template, read_template
from keeptune.methods.prompt import Prompt
from keeptune.models.anatomy import anatomy_of
from keeptune.models.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PTuning(Method):
    """A soft prompt whose tokens learn through a common encoder."""

    identity_at_start: ClassVar[bool] = False

    length: int = Field(20, ge=1, le=4096, description="Virtual tokens p, where no template says.")
    encoder: Encoder = Field("lstm", description="What makes them from p trained vectors; none: they are those.")
    hidden: int | None = Field(None, ge=1, le=65536, description="Its width m; null: D / 2 for lstm, D for mlp.")
    template: str = Field("", description="Where they stand: {soft:3} {text} {soft:3} {mask}, words between them.")
    verbaliser: dict[str, str] = Field({}, description="Label to its word at {mask}; empty: the labels themselves.")

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.template:
            read_template(self.template)
        if self.verbaliser and MASK not in self.template:
            raise ValueError(f"'verbaliser' says what {MASK} means, and the template has none")
        return self

    def fitted(self, answers: Sequence[str]) -> Self:
        """With the labels of the data as their own words, where none are listed."""
        if MASK not in self.template or self.verbaliser:
            return self
        return self.model_copy(update={"verbaliser": {answer: answer for answer in sorted(set(answers))}})

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One block of virtual tokens at the input embedding; a template around the text, and what reads its mask."""
        from keeptune.engine.cloze import Cloze, cloze_paths
        from keeptune.engine.readout import Reading
        from keeptune.engine.soft_prompt import InputEmbedding
        from keeptune.engine.template_slot import AroundText
        from keeptune.methods._encoded_prompt import EncodedPrompt
        from keeptune.methods._template_prompt import TemplatePrompt, verbalised

        require_tokens(model.config.model_type, self.name)
        anatomy = anatomy_of(model)
        embedding = model.get_submodule(anatomy.embedding)
        width = embedding.weight.shape[1]
        soft = EncodedPrompt(self._count, width, self._inner(width), self.encoder)
        if not self.template:
            return [Placed(InputEmbedding(anatomy.embedding), soft)]
        template = read_template(self.template)
        if anatomy.kind != "encoder":
            self._check_writer(model.config.model_type, template)
        prompt = TemplatePrompt(model, embedding, template, soft, kind=anatomy.kind)
        if anatomy.kind != "encoder":
            return [Placed(InputEmbedding(anatomy.embedding), prompt)]
        placed = [Placed(AroundText(anatomy.embedding), prompt)]
        if template.masks:
            cloze_paths(model)
            placed.append(Placed(Reading(anatomy.body), Cloze(verbalised(model, self.verbaliser))))
        return placed

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Z normal, each map uniform within one over the root of its inputs, the LSTM within 1/sqrt(m)."""
        from keeptune.methods._template_prompt import TemplatePrompt

        (place, delta, _) = placed[0]
        soft = delta.soft if isinstance(delta, TemplatePrompt) else delta
        soft.start(named_generator(seed, place.path))

    def cost(self, shape: ModelShape) -> Cost:
        """Trained: p D and the encoder. Kept: p D."""
        require_tokens(shape.family, self.name)
        width, inner = shape.width, self._inner(shape.width)
        maps = [(width, inner), (inner, inner), (inner, width)] if self.encoder == "mlp" else []
        recurrent = 0
        if self.encoder == "lstm":
            maps = [(2 * inner, width), (width, width)]
            recurrent = sum(2 * 4 * inner * (inputs + inner + 2) for inputs in (width, 2 * inner))
        kept = self._count * width
        trained = kept + recurrent + sum((inputs + 1) * outputs for inputs, outputs in maps)
        found = Cost(trained, 4 * kept, held=Held(0))
        if not self.template:
            return found._replace(virtual_tokens=self.length)
        template = read_template(self.template)
        if shape.family in FAMILIES and FAMILIES[shape.family].kind != "encoder":
            self._check_writer(shape.family, template)
        return found._replace(template_tokens=template.room)

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """One for each virtual token, and for each token of the words of a template."""
        from keeptune.methods._template_prompt import words_in

        return (
            self.length if not self.template else read_template(self.template).soft + words_in(self.template, tokenizer)
        )

    def saved_settings(self) -> dict[str, Any]:
        """Those of a prompt, or of the template: no file keeps the encoder."""
        if not self.template:
            return Prompt(length=self.length).saved_settings()
        return {**self.to_dict(), "encoder": "none", "hidden": None}

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that the template names."""
        return tuple(filter(None, read_template(self.template).texts)) if self.template else ()

    @property
    def _count(self) -> int:
        """Virtual tokens that are trained."""
        return read_template(self.template).soft if self.template else self.length

    def _check_writer(self, family: str, template: Template) -> None:
        """A model that writes its answer has no mask."""
        if template.masks:
            raise PlanError(
                f"a {family} model writes its answer, so its template has no {MASK}.",
                code="E-METHOD-TEMPLATE",
                where={"key": "template"},
                fix=f"Take {MASK} out; or use a masked language model such as BERT.",
            )

    def _inner(self, width: int) -> int:
        return self.hidden or (max(1, width // 2) if self.encoder == "lstm" else width)
