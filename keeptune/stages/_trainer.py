"""`transformers.Trainer` with our batches, our losses, our commits and our resume.

Trainer drives: the loop, callbacks, device placement, trackers. One item of its data is the rows of one optimiser step;
`_step.Objective` cuts it into micro-batches, so that the gradient can be begun again when memory is short. Nothing of
Trainer's own saving is used: it pickles, and it picks up half-written folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from keeptune.stages._commits import WEIGHTS, read_optimizer, read_random, write_state
from keeptune.stages._session import Session
from keeptune.stages._step import StepResult


class StepTrainer(Trainer):  # type: ignore[misc]
    """One epoch of Trainer's is the whole plan; an epoch of the recipe is the plan's affair."""

    def __init__(self, session: Session, folder: Path, callbacks: list[TrainerCallback]) -> None:
        self.session = session
        self.result: StepResult
        self.lr: float
        self.optimizer: Any
        self.lr_scheduler: Any
        model = session.objective.model
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=session.total,
            per_device_train_batch_size=1,
            max_grad_norm=0.0,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_nan_inf_filter=False,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=next(model.parameters()).device.type == "cpu",
            seed=session.plan.seed,
        )
        use_cache = getattr(model.config, "use_cache", False)
        super().__init__(model=model, args=arguments, train_dataset=session.plan, callbacks=callbacks)
        model.config.use_cache = use_cache
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The plan in its order; item i is the number of the step."""
        return DataLoader(self.session.plan, batch_size=1, shuffle=False, collate_fn=lambda items: {"step": items[0]})

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The recipe's optimiser over the masters; every update is published to the model's own parameters."""
        if self.optimizer is None:
            masters, asked = self.session.objective.masters, self.session.stage.optimizer
            used = asked.stand_in(masters.named) or asked
            if used is not asked:
                self.session.run.event(
                    "optimizer_replaced", stage=self.session.label, asked=asked.name, used=used.name, device="cpu"
                )
            self.optimizer = used.build(masters.named)
            self.optimizer.register_step_post_hook(lambda *_: masters.publish())
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The recipe's schedule, halved after a roll-back."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.session.rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Gradient of one global batch, clipped; or none when it is not finite, so that the update does nothing."""
        step, masters = inputs["step"], self.session.objective.masters
        result = self.session.objective.backward(self.session.plan.rows(step))
        if not self.session.judge(step, result):
            masters.drop_gradients()
        elif self.session.stage.optimizer.clip:
            torch.nn.utils.clip_grads_with_norm_(
                [master for _, master in masters.named], self.session.stage.optimizer.clip, torch.tensor(result.norm)
            )
        self.result, self.lr = result, self.optimizer.param_groups[0]["lr"]
        return torch.zeros((), device=self.args.device)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        """Known already; Trainer would walk through all gradients once more."""
        return self.result.norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trackers get the numbers of `metrics.jsonl`; Trainer's own averages are of no use here."""
        if "train_loss" not in logs:
            self.callback_handler.on_log(self.args, self.state, self.control, logs=dict(self.numbers))

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: Trainer's formula knows no packed batch."""
        return 0

    @property
    def numbers(self) -> dict[str, float]:
        """What a step is recorded with."""
        sizes = {"tokens": self.result.tokens, "learned": self.result.learned}
        return {
            "loss": self.result.loss,
            **self.result.parts,
            **self.result.sources,
            "gradient_norm": self.result.norm,
            "lr": self.lr,
            **sizes,
        }

    def commit(self) -> Path:
        """Writes the whole state; only ever called between two steps."""

        def fill(folder: Path) -> None:
            plain = self.session.counters.to_dict()
            write_state(folder, self.session.objective.masters.kept, self.optimizer, plain)
            self.state.log_history = []
            self.state.save_to_json(str(folder / "trainer_state.json"))

        return self.session.commits.write(self.state.global_step, fill)

    def begin_from_weights(self, step: int) -> Path:
        """A commit of the weights that are in place with a fresh optimiser; where the training then resumes."""
        self.create_optimizer_and_scheduler(self.session.total)
        self.state.global_step, self.state.train_batch_size = step, 1
        return self.commit()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Ours instead."""
        self.commit()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The weights were loaded before the trainer was made."""
        assert (Path(resume_from_checkpoint) / WEIGHTS).exists()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """State and rate as they were at the commit."""
        if checkpoint is not None:
            self.optimizer.load_state_dict(read_optimizer(Path(checkpoint)))
            self.lr_scheduler.last_epoch = self.state.global_step
            for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.base_lrs, strict=True):
                group["lr"] = rate * self.session.rate(self.state.global_step)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """After the data was skipped, so that the next step draws what it would have drawn."""
        if checkpoint is not None:
            read_random(Path(checkpoint)).restore()

    def _load_scaler(self, checkpoint: str | None) -> None:
        """There is none: masters make loss scaling needless."""
