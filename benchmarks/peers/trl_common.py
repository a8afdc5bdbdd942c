"""What TRL's trainers have in common here: rows in order, PEFT's LoRA on all linear maps, one step at a time.

Run by the parent with the interpreter of the peer's environment, through TRL's public interface. The rows are tokenised
already, so what is timed is TRL's own loop: its collator, its loss, its optimiser, its clipping.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from benchmarks.peers.pipe import Turns
from benchmarks.peers.same_start import same_start
from benchmarks.peers.spanwise import watcher
from benchmarks.record import versions

PACKAGES = ("trl", "peft", "transformers", "torch", "triton", "liger-kernel", "flash-attn", "unsloth")


class InOrder:
    """Beside a trainer: rows in the order given, so that every contestant sees the same batch in the same round."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]


def lora(rank: int) -> LoraConfig:
    """On all linear maps, as the train stage has it by default."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")


def attention_there() -> str:
    """The fastest attention that this environment can import; torch's own where there is no other."""
    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def arguments(settings: dict[str, Any], rows: int) -> dict[str, Any]:
    """What TRL's settings are given; what is not named there is TRL's own choice.

    Args:
        settings: as `race` has them.
        rows: that count.
    """
    given = dict(settings["config"])
    asked = {"dtype": settings["dtype"], "attn_implementation": settings.get("attention")}
    if asked["attn_implementation"] == "best":
        asked["attn_implementation"] = attention_there()
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked:
        given["model_init_kwargs"] = asked
    return {
        "output_dir": settings["output"],
        "per_device_train_batch_size": settings["batch"],
        "learning_rate": settings["lr"],
        "lr_scheduler_type": "constant",
        "max_steps": rows // settings["batch"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": settings["device"] == "cpu",
        **given,
    }


def form(trainer: Any) -> dict[str, Any]:
    """How a trainer computes, read off itself."""
    args, model = trainer.args, trainer.model
    return {
        "weights": str(next(model.parameters()).dtype).removeprefix("torch."),
        "autocast": "bfloat16" if args.bf16 else None,
        "checkpointing": bool(args.gradient_checkpointing),
        "padding_free": bool(getattr(args, "padding_free", False)),
        "attention": model.config._attn_implementation,
        "liger": bool(args.use_liger_kernel),
    }


def race(settings: dict[str, Any], turns: Turns, config: Any, trainer: Any, **own: Any) -> None:
    """Builds the trainer and lets it run; it ends when the parent stops asking.

    Args:
        settings: `model` (a folder), `rows` (a file), `rank`, `batch`, `lr`, `device`, `dtype` of the weights, or None
            for TRL's own choice, likewise `attention` (`best`: what can be imported), `config`: further settings of the
            trainer, and `turns` (`steps` or `spans`).
        turns: the pipe.
        config: class of the trainer's settings.
        trainer: class of the trainer.
        own: settings of this kind of trainer.
    """
    rows = json.loads(Path(settings["rows"]).read_text(encoding="utf-8"))
    named = {"model": settings["model"], "peft_config": lora(settings["rank"])}
    run(settings, turns, config(**{**own, **arguments(settings, len(rows))}), trainer, rows, named)


def run(
    settings: dict[str, Any], turns: Turns, args: Any, trainer: Any, rows: list[Any], named: dict[str, Any]
) -> None:
    """Trains as `race` has it.

    Args:
        settings: likewise.
        turns: the pipe.
        args: the trainer's settings.
        trainer: class of the trainer.
        rows: what it trains on.
        named: its `model`, and what makes updates of it where they are not in it yet.
    """
    watching = watcher(settings, turns, lambda: {"settings": form(running)})
    running = trainer(
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        callbacks=[watching],
        **named,
    )
    elsewhere = {parameter.device.type for parameter in running.model.parameters()} - {settings["device"]}
    assert not elsewhere, f"a part of the model is on {elsewhere}"
    same_start(running.model.named_parameters())
    turns.answer(versions=versions(*PACKAGES))
    running.train()
