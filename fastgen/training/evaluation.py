"""Accuracy over every sample exactly once, against given and true labels, on the clean and corrupted part; and whether
the training set is fitted, of which a few samples can tell."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from fastgen.runs.summary import Evaluation
from fastgen.training.capture import Captured
from fastgen.training.data import LEFT_OUT, Data
from fastgen.training.objective import logits_of
from pipelines.backends import Batch

_OF_GIVEN_LABELS = ("loss", "top1", "top5")  # the others compare with true labels
_NAMES = {"train": "train", LEFT_OUT: LEFT_OUT, "val": "test"}  # part -> what the fields of `Evaluation` begin with
_WANTED = {  # part -> what they end with
    part: [item.name.removeprefix(f"{name}_") for item in fields(Evaluation) if item.name.startswith(f"{name}_")]
    for part, name in _NAMES.items()
}


class _Stopped(Exception):
    """Within an evaluation, the run is to end."""


class Evaluator:
    """Measures a network on whole splits."""

    def __init__(
        self, accelerator: Accelerator, network: torch.nn.Module, data: Data, capture: bool, needed: bool = False
    ) -> None:
        """network: the bare one. Its DDP wrapper communicates in each forward, and would hang where the processes have
        different numbers of batches. capture, needed: count as a CUDA graph (`Captured`)."""
        self._accelerator, self._network, self._data = accelerator, network, data
        self._count = Captured(self._counts, needed) if capture else self._counts
        # By training sample: the number of the last look that found it wrong. No checkpoint needs it, as it decides
        # what `reaches` begins with, and no result.
        self._wrong_in = np.zeros(data.baked.splits["train"].samples, np.int64)
        self._looks = 0

    def splits(self, stopped: Callable[[int], bool], train: bool = True) -> Evaluation | None:
        """Evaluate on the training set, on what data.subset leaves out of it, and on the test set.

        Without a test split, the test set's fields are None; without `train`, where there is one, the others' are.
        With signs for labels, the test set's and all that compares with true labels are None. stopped: is asked with
        the numbers of batches, the same ones in all processes; where it says so, there is no evaluation.
        """
        self._share_buffers()
        result: dict[str, float | None] = {}
        data, signs = self._data, self._data.spec.labels.signs
        for part, rows in data.parts.items():
            if signs and part == "val":
                continue  # its labels are classes
            if part != "val" and not (train or signs or "val" not in data.parts):
                continue
            with closing(data.evaluation(part)) as batches:
                # The last batch may be too small for all processes to have a part of it.
                asked = _until(batches, len(rows) // data.eval_batch_size, stopped)
                try:
                    found = self.measure(asked)
                except _Stopped:
                    return None
            assert found["count"] == len(rows), f"{found['count']} of {len(rows)} {part} samples evaluated"
            wanted = _OF_GIVEN_LABELS if signs else _WANTED[part]
            result |= {f"{_NAMES[part]}_{key}": found[key] for key in wanted}
        return Evaluation(**result)

    @torch.inference_mode()
    def reaches(self, top1: float, stopped: Callable[[int], bool]) -> bool | None:
        """Whether at least `top1` percent of the training samples get their labels, the same on all processes.

        It looks at no more samples than that takes: at those first that were wrong in the last such looks, until there
        is one error too many. stopped: as for `splits`; None where it says so.
        """
        self._share_buffers()
        data, rows = self._data, self._data.parts["train"]
        last_wrong = self._wrong_in[data.baked.splits["train"].columns["index"][rows]]
        rows = rows[np.argsort(-last_wrong, kind="stable")]
        wrong = torch.zeros(len(self._wrong_in), dtype=torch.int32, device=self._accelerator.device)

        def may_reach(errors: torch.Tensor) -> bool:
            found = _percent(len(rows) - errors.item(), len(rows))
            return found is not None and found >= top1

        with self._evaluating(), closing(data.evaluation("train", rows)) as batches:
            for at, batch in enumerate(batches):
                common = at < len(rows) // data.eval_batch_size  # the last one may be too small for all processes
                if common and stopped(at):
                    return None
                hit = self._count(batch.images, batch.index, batch.label, batch.clean_label)[1]
                wrong[batch.index] = (~hit).int()
                if common and not may_reach(self._accelerator.reduce(wrong.sum(), "sum")):
                    break
        wrong = self._accelerator.reduce(wrong, "sum")
        self._looks += 1
        self._wrong_in[wrong.bool().cpu().numpy()] = self._looks
        return may_reach(wrong.sum())

    @torch.inference_mode()
    def measure(self, batches: Iterable[Batch]) -> dict[str, float | None]:
        """Evaluate this process's shard, add up over the processes, and return the same numbers on each of them.

        Returns count (samples) and, in percent but for the loss, the fields of `Evaluation` without their split.
        """
        sums = torch.zeros(8, dtype=torch.float64, device=self._accelerator.device)
        with self._evaluating():
            for batch in batches:
                sums += self._count(batch.images, batch.index, batch.label, batch.clean_label)[0]
        totals = self._accelerator.reduce(sums, "sum")
        count, loss, top1, top5, true, corrupted, top1_corrupted, true_corrupted = totals.tolist()

        return {
            "count": int(count),
            "loss": loss / count,
            "top1": _percent(top1, count),
            "top5": _percent(top5, count),
            "top1_true_labels": _percent(true, count),
            "top1_clean_part": _percent(top1 - top1_corrupted, count - corrupted),
            "top1_corrupted_part": _percent(top1_corrupted, corrupted),
            "top1_corrupted_part_true_labels": _percent(true_corrupted, corrupted),
        }

    @torch.inference_mode()
    def left_out_probabilities(self) -> torch.Tensor:
        """The probabilities of all classes for the training samples that data.subset leaves out: float32 (samples of
        the training set, classes) by sample index, NaN for the others. The same on all processes."""
        index = torch.from_numpy(self._data.baked.splits["train"].columns["index"][self._data.parts[LEFT_OUT]])
        found = torch.zeros(self._data.baked.splits["train"].samples, self._data.classes)
        found = found.to(self._accelerator.device)
        with self._evaluating(), closing(self._data.evaluation(LEFT_OUT)) as batches:
            for batch in batches:
                found[batch.index] = self._logits(batch.images, batch.index)[: len(batch.label)].float().softmax(1)
        known = torch.zeros(len(found), 1, dtype=torch.bool)
        known[index] = True
        return self._accelerator.reduce(found, "sum").where(known.to(found.device), torch.nan)

    @torch.inference_mode()
    def predictions(self, split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the network says of every sample of a split, by sample index, the same on all processes.

        Returns whether it gives the given label and the true one, bool (n,) each, and the margin, the given label's
        logit minus the largest other, float32 (n,).
        """
        # One process looks at a sample; in the others its row is zero, so that the sum over the processes is exact.
        rows = torch.zeros(self._data.baked.splits[split].samples, 4, device=self._accelerator.device)
        parts = ("train", LEFT_OUT) if split == "train" else (split,)
        for part in [part for part in parts if part in self._data.parts]:
            with self._evaluating(), closing(self._data.evaluation(part)) as batches:
                for batch in batches:
                    logits = self._logits(batch.images, batch.index)[: len(batch.label)].float()
                    given, best = batch.label[:, None], _best(logits)[:, 0]
                    margin = logits.gather(1, given) - logits.scatter(1, given, -torch.inf).amax(1, keepdim=True)
                    found = [best == batch.label, best == batch.clean_label, margin[:, 0], torch.ones_like(best)]
                    rows[batch.index] += torch.stack([each.float() for each in found], 1)
        correct, correct_true, margin, looked_at = self._accelerator.reduce(rows, "sum").T
        assert (looked_at == 1).all(), f"not every {split} sample was evaluated exactly once"
        return correct.bool(), correct_true.bool(), margin

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The network in its mode for evaluation, and then in the one that it was in."""
        was_training = self._network.training
        self._network.eval()
        try:
            yield
        finally:
            self._network.train(was_training)

    def _share_buffers(self) -> None:
        """Batch norm's statistics are the main process's: DDP would spread them at the next training forward alone."""
        if self._accelerator.num_processes > 1:
            for buffer in self._network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _logits(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        with self._accelerator.autocast():
            return logits_of(self._network(self._data.prepare_eval(images, index)))

    def _counts(
        self, images: torch.Tensor, index: torch.Tensor, label: torch.Tensor, clean_label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch's sums, float64 (8,), and which samples get the given label, bool (B,)."""
        logits = self._logits(images, index)[: len(label)].float()  # some images may only fill the batch
        best = _best(logits)
        hit = best[:, 0] == label
        hit_true = best[:, 0] == clean_label
        changed = label != clean_label
        sums = [
            torch.ones_like(label).sum(),
            F.cross_entropy(logits, label, reduction="sum").double(),
            hit.sum(),
            (best == label[:, None]).any(1).sum(),
            hit_true.sum(),
            changed.sum(),
            (hit & changed).sum(),
            (hit_true & changed).sum(),
        ]
        return torch.stack([each.double() for each in sums]), hit


def _percent(part: float, whole: float) -> float | None:
    return 100.0 * part / whole if whole else None


def _best(logits: torch.Tensor) -> torch.Tensor:
    """The classes with the five largest logits, or all: int64 (B, up to 5), the largest first."""
    return logits.topk(min(5, logits.shape[1])).indices


def _until(batches: Iterable[Batch], number: int, stopped: Callable[[int], bool]) -> Iterator[Batch]:
    for at, batch in enumerate(batches):
        if at < number and stopped(at):
            raise _Stopped
        yield batch
