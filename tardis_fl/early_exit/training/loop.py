"""Training of a network with several exits on one machine."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from rich import get_console
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.early_exit.training.loading import EMPTY_LOADER, check_labels, chosen_device
from tardis_fl.early_exit.training.losses import (
    Criterion,
    Distillation,
    check_exit_weights,
    targets_for,
)
from tardis_fl.early_exit.training.phases import Mode, Phase, epochs_of, phases_of, training_only

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class EpochRecord:
    """What was seen on the way through one epoch.

    Attributes:
        phase: Name of the phase.
        epoch: Its number, from 0, over all phases.
        loss: Mean of the loss that was minimised.
        num_samples: Samples seen.
        num_correct: Right answers by number of the exit, for those whose losses were used.
        learning_rate: Of the optimiser's first group, at the end.
    """

    phase: str
    epoch: int
    loss: float
    num_samples: int
    num_correct: dict[int, int]
    learning_rate: float


def train_model(
    eenet: EarlyExitNetwork,
    loader: Iterable,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    epochs: int | Sequence[int] = 1,
    exit_chosen: int | None = None,
    device: torch.device | str | None = None,
    exit_weights: Sequence[float] | None = None,
    *,
    mode: Mode = "joint",
    distillation: Distillation | None = None,
    label_smoothing: float = 0.0,
    precision: Precision = "float32",
    max_grad_norm: float | None = None,
    scheduler: object | None = None,
    step_scheduler: Literal["epoch", "batch"] = "epoch",
    seed: int | None = None,
    progress: bool = True,
) -> list[EpochRecord]:
    """Trains a network in place.

    Parameters that the mode doesn't train don't change, whatever the optimiser holds, and neither
    do their buffers.

    Args:
        eenet: The network.
        loader: Gives batches of images and labels: class numbers (B,), or rows (B, classes) of
            floats.
        criterion: Any loss of logits (B, classes). PyTorch's modules that compare element by
            element, such as `BCEWithLogitsLoss` and `MSELoss`, get one-hot targets; others get the
            labels as they are.
        optimizer: Holds the parameters that the mode trains; it may hold more.
        epochs: Passes over the loader in each phase, or one number a phase.
        exit_chosen: Train this exit alone; all that lies before it stays as it is.
        device: Where to train; None: a GPU where there is one. The network is moved there.
        exit_weights: Weight of each exit's loss; None: an equal share, so that the loss is the mean
            over the exits in use.
        mode: What is trained in which order; see `phases.Mode`.
        distillation: Exits that learn from other exits too.
        label_smoothing: Share of a label's weight that is spread over all classes, in [0, 1).
        precision: Arithmetic of the forward pass; float16 scales the loss.
        max_grad_norm: Gradients are scaled down to this norm; None: never.
        scheduler: Any of torch's learning rate schedulers.
        step_scheduler: When it steps.
        seed: Makes shuffling and dropout repeatable, and leaves the global generator as it was;
            None: uses the global one.
        progress: Show a bar in a terminal.

    Returns:
        A record an epoch.

    Raises:
        ValueError: An argument is out of its range, the loader is empty, a label is out of range,
            an exit doesn't fit its features, the optimiser holds nothing that is trained, or the
            loss isn't finite.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: got {label_smoothing}; wanted a share in [0, 1)")
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision: got {precision!r}; wanted one of {', '.join(get_args(Precision))}"
        )
    if step_scheduler not in ("epoch", "batch"):
        raise ValueError(f"step_scheduler: got {step_scheduler!r}; wanted 'epoch' or 'batch'")
    if exit_weights is not None:
        exit_weights = [float(weight) for weight in exit_weights]
        check_exit_weights(exit_weights, len(eenet))
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm: got {max_grad_norm}; wanted a number above 0, or None")
    phases = phases_of(mode, len(eenet), exit_chosen, eenet.last_exit_is_body)
    for phase in phases:
        if exit_weights is not None and not any(exit_weights[exit] for exit in phase.losses):
            raise ValueError(
                f"exit_weights: got {exit_weights}; {phase.name} would be trained by no loss"
            )
    if distillation is not None and all(len(phase.losses) < 2 for phase in phases):
        raise ValueError(
            "distillation: it has no effect where one exit is trained at a time; leave it out, or train several with mode='joint'"
        )
    counts = epochs_of(epochs, phases)
    device = chosen_device(device, eenet)
    eenet.to(device)
    if isinstance(criterion, nn.Module):
        criterion = copy.copy(criterion).to(device)
    if (
        isinstance(criterion, nn.CrossEntropyLoss) and label_smoothing
    ):  # its own smoothing heeds class weights
        criterion.label_smoothing, label_smoothing = label_smoothing, 0.0
    step = _Step(
        eenet,
        criterion,
        optimizer,
        exit_weights,
        distillation,
        label_smoothing,
        precision,
        max_grad_norm,
        device,
    )
    records: list[EpochRecord] = []
    with (
        _generators(seed, device),
        Progress(transient=True, disable=not (progress and _bar_can_be_shown())) as bar,
    ):
        for phase, count in zip(phases, counts, strict=True):
            task = bar.add_task(phase.name, total=_num_batches(loader) * count or None)
            with training_only(eenet, phase) as parameters:
                _check_optimizer(optimizer, parameters, phase)
                for _ in range(count):
                    sums = _Sums()
                    for images, labels in loader:
                        part_of_epoch = min(1.0, sums.num_batches / max(1, _num_batches(loader)))
                        loss, right = step(
                            images, labels, phase, (len(records) + part_of_epoch) / sum(counts)
                        )
                        sums.add(loss, len(images), right)
                        if step_scheduler == "batch":
                            _advance(scheduler, loss)
                        bar.update(task, advance=1, description=f"{phase.name}  loss {loss:.3f}")
                    if sums.num_samples == 0:
                        raise ValueError(EMPTY_LOADER)
                    loss = sums.loss / sums.num_samples
                    if step_scheduler == "epoch":
                        _advance(scheduler, loss)
                    records.append(
                        EpochRecord(
                            phase.name,
                            len(records),
                            loss,
                            sums.num_samples,
                            dict(sums.num_correct),
                            optimizer.param_groups[0]["lr"],
                        )
                    )
    return records


class _Sums:
    """What one epoch saw so far."""

    def __init__(self) -> None:
        self.loss, self.num_samples, self.num_batches = 0.0, 0, 0
        self.num_correct: Counter[int] = Counter()

    def add(self, loss: float, num_samples: int, num_correct: dict[int, int]) -> None:
        self.loss += loss * num_samples
        self.num_samples += num_samples
        self.num_batches += 1
        self.num_correct.update(num_correct)


class _Step:
    """One gradient step over the exits of a phase."""

    def __init__(
        self,
        network: EarlyExitNetwork,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        weights: Sequence[float] | None,
        distillation: Distillation | None,
        label_smoothing: float,
        precision: Precision,
        max_grad_norm: float | None,
        device: torch.device,
    ) -> None:
        self._network, self._criterion, self._optimizer, self._weights = (
            network,
            criterion,
            optimizer,
            weights,
        )
        self._distillation, self._label_smoothing, self._max_grad_norm, self._device = (
            distillation,
            label_smoothing,
            max_grad_norm,
            device,
        )
        self._dtype = getattr(torch, precision)
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")

    def __call__(
        self, images: Tensor, labels: Tensor, phase: Phase, progress: float
    ) -> tuple[float, dict[int, int]]:
        """Returns the loss before the step, and the right answers of each of the phase's exits."""
        images, labels = images.to(self._device), torch.as_tensor(labels, device=self._device)
        first: list[tuple[Tensor, dict[int, Tensor]]] = []

        def closure() -> Tensor:  # optimisers such as LBFGS call it several times
            loss, all_logits = self._loss(images, labels, phase, progress)
            first.append((loss.detach(), all_logits))
            self._network.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()
            if self._max_grad_norm is not None:
                self._scaler.unscale_(self._optimizer)
                nn.utils.clip_grad_norm_(
                    [p for group in self._optimizer.param_groups for p in group["params"]],
                    self._max_grad_norm,
                )
            return loss

        if self._scaler.is_enabled():
            closure()
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._optimizer.step(closure)
        loss, all_logits = first[0]
        answers = labels.argmax(1) if labels.dim() == 2 else labels
        return float(loss), {
            exit: int((logits.argmax(1) == answers).sum()) for exit, logits in all_logits.items()
        }

    def _loss(
        self, images: Tensor, labels: Tensor, phase: Phase, progress: float
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns the loss, and the logits (B, classes) of each of the phase's exits."""
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            if len(phase.losses) == 1:
                all_logits = {phase.losses[0]: self._network(images, exit_chosen=phase.losses[0])}
            else:
                stacked = self._network(images)
                all_logits = {exit: stacked[:, exit] for exit in phase.losses}
        all_logits = {exit: logits.float() for exit, logits in all_logits.items()}
        num_classes = next(iter(all_logits.values())).shape[1]
        if not labels.is_floating_point():
            check_labels(labels, num_classes)
        elif labels.shape != (len(images), num_classes) or num_classes < 2:
            raise ValueError(
                f"labels: got floats of shape {tuple(labels.shape)}; wanted class numbers ({len(images)},) or rows ({len(images)}, {num_classes})"
            )
        targets = targets_for(self._criterion, labels, num_classes, self._label_smoothing)
        loss = images.new_zeros(())
        for exit, logits in all_logits.items():
            loss = loss + (
                self._weights[exit] if self._weights else 1 / len(all_logits)
            ) * self._criterion(logits, targets)
        if self._distillation is not None and len(all_logits) > 1:
            loss = loss + self._distillation.weight_at(progress) * self._distillation.loss(
                list(all_logits.values())
            )
        if not loss.isfinite():
            raise ValueError(
                f"the loss became {float(loss.detach())}: lower the learning rate, or set max_grad_norm"
            )
        return loss, all_logits


def _check_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], phase: Phase
) -> None:
    """Refuses an optimiser that holds nothing of what is trained, and warns of one that lacks a part."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    lacking = [tuple(parameter.shape) for parameter in parameters if id(parameter) not in held]
    if len(lacking) == len(parameters):
        raise ValueError(
            f"the optimizer holds none of the parameters that are trained here ({phase.name}); make it from eenet.parameters(), or from those of the chosen exit"
        )
    if lacking:
        shown = ", ".join(map(str, lacking[:3]))
        warnings.warn(
            f"the optimizer lacks {len(lacking)} of {len(parameters)} parameters that {phase.name} would train (of shape {shown}), which stay as they are; "
            "was an exit replaced after it was made?",
            stacklevel=3,
        )


def _advance(scheduler: object | None, loss: float) -> None:
    if scheduler is None:
        return
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()  # type: ignore[attr-defined]


def _bar_can_be_shown() -> bool:
    """In a notebook, rich's bars need ipywidgets, and warn without it."""
    return not get_console().is_jupyter or importlib.util.find_spec("ipywidgets") is not None


def _num_batches(loader: Iterable) -> int:
    """Batches of an epoch, 0 where the loader doesn't say."""
    return len(loader) if hasattr(loader, "__len__") else 0


@contextmanager
def _generators(seed: int | None, device: torch.device) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
