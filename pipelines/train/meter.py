"""Counts what a training loop does, without waiting for the device in between."""

import time

import torch
import torch.distributed

from pipelines.data.stream import Batch
from pipelines.train.session import Session
from pipelines.train.step import StepResult

_NEVER = float(2**52)  # a step that never comes, exact in float64


class NonFiniteLossError(RuntimeError):
    """A loss was NaN or infinite."""

    def __init__(self, step: int, rate: float, checkpoint: str | None):
        way_out = f"The last good checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint yet."
        super().__init__(
            f"The loss was not finite at step {step}, learning rate {rate:.3g}. {way_out} "
            "Try a lower --optim.lr, a longer --optim.warmup-epochs or --precision fp32."
        )


def all_reduce(
    values: torch.Tensor,
    session: Session,
    op: torch.distributed.ReduceOp.RedOpType = torch.distributed.ReduceOp.SUM,
) -> torch.Tensor:
    """`values` reduced over all ranks, in place; all ranks call it."""
    if session.world > 1:
        torch.distributed.all_reduce(values, op=op)
    return values


class _Span:
    """Sums over some steps: losses and the first bad step on the device, times and images here."""

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, gradient norm, steps
        self.first_bad = torch.full((), _NEVER, dtype=torch.float64, device=device)
        self.rates: dict[int, float] = {}
        self.began = time.perf_counter()
        self.waited = 0.0
        self.images = 0
        self.bad_images = 0

    def add(self, result: StepResult, step: int, rate: float) -> None:
        self.rates[step] = rate
        one = torch.ones_like(result.loss)
        self.sums += torch.stack([result.loss, result.grad_norm, one])
        bad = torch.where(torch.isfinite(result.loss), _NEVER, float(step))
        self.first_bad = torch.minimum(self.first_bad, bad)


class Meter:
    """Loss, speed and waiting time over the last steps and over the epoch.

    Args:
        session: whose ranks are counted together.

    Attributes:
        steps: done since the start of this process.
        saved: name of the newest checkpoint, for the message when a loss is not finite.
    """

    def __init__(self, session: Session):
        self._session = session
        self._epoch = self._window = _Span(session.device)
        self._ready = time.perf_counter()
        self._seconds = 0.0
        self._images = 0
        self.steps = 0
        self.saved: str | None = None

    def start_epoch(self) -> None:
        self._epoch = _Span(self._session.device)
        self.start_window()

    def start_window(self) -> None:
        self._window = _Span(self._session.device)
        self._ready = time.perf_counter()

    def got_batch(self, batch: Batch) -> None:
        """Call when a batch has come; the time since the last step's end is time spent waiting for data."""
        waited = time.perf_counter() - self._ready
        for span in (self._epoch, self._window):
            span.waited += waited
            span.images += len(batch.rows)
            span.bad_images += int(batch.bad.sum())

    def stepped(self, result: StepResult, step: int, rate: float) -> None:
        self.steps += 1
        for span in (self._epoch, self._window):
            span.add(result, step, rate)
        self._ready = time.perf_counter()

    def window(self) -> dict[str, float]:
        """What the steps since the last call came to, over all ranks; all ranks call it at the same step.

        Raises:
            NonFiniteLossError: on all ranks, if a loss was not finite on any.
        """
        values = self._summary(self._window, "train")
        self.start_window()
        return values

    def epoch(self) -> dict[str, float]:
        """The same for the epoch so far, or since training went on with it."""
        values = self._summary(self._epoch, "epoch")
        self._seconds += values["epoch/seconds"]
        self._images += int(values["epoch/images"])
        return values

    def totals(self) -> dict[str, float]:
        """Images trained on and images/s over all epochs, evaluation and checkpoints left out."""
        return {"images": self._images, "images_per_second": self._images / max(self._seconds, 1e-9)}

    def _summary(self, span: _Span, prefix: str) -> dict[str, float]:
        counts = torch.tensor([span.images, span.bad_images, span.waited], dtype=torch.float64, device=span.sums.device)
        sums = all_reduce(torch.cat([span.sums, counts]), self._session)
        first_bad = all_reduce(span.first_bad.clone(), self._session, torch.distributed.ReduceOp.MIN).item()
        if first_bad < _NEVER:
            raise NonFiniteLossError(int(first_bad), span.rates[int(first_bad)], self.saved)
        loss, grad_norm, steps, images, bad_images, waited = sums.tolist()
        seconds = time.perf_counter() - span.began  # after the reduction: the device has caught up
        return {
            f"{prefix}/loss": loss / max(steps, 1),
            f"{prefix}/grad_norm": grad_norm / max(steps, 1),
            f"{prefix}/images_per_second": images / seconds,
            f"{prefix}/data_wait_share": waited / self._session.world / seconds,
            f"{prefix}/images": images,
            f"{prefix}/bad_images": bad_images,
            f"{prefix}/seconds": seconds,
            "train/lr": next(reversed(span.rates.values()), 0.0),
        }
