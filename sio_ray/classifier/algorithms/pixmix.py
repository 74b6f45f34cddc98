"""PixMix: pictures are mixed, in a few random rounds, with fractals and with bent copies of themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.classifier.algorithms.algorithm import StepContext
from sio_ray.classifier.algorithms.cross_entropy import CrossEntropy
from sio_ray.classifier.algorithms.pixmix_operations import ALL_OPERATIONS, OPERATIONS, Operation
from sio_ray.classifier.batch import MixedBatch
from sio_ray.config import Section

#: Of the authors' code, which draws levels from here to the severity.
_LOWEST_LEVEL = 0.1


class PixMixOptions(Section):
    """Of PixMix; defaults are those of the authors' code on CIFAR and of OpenOOD v1.5.

    Attributes:
        k: largest number of rounds of mixing; the number is drawn from 0 to k.
        beta: of the shares; the larger, the weaker the mixing.
        severity: largest level of an operation, of 10.
        all_operations: with color, contrast, brightness and sharpness, as OpenOOD v1.5 has it.
    """

    k: int = Field(4, ge=0)
    beta: float = Field(3.0, gt=0)
    severity: float = Field(3.0, ge=_LOWEST_LEVEL, le=10)
    all_operations: bool = True


class PixMix(CrossEntropy):
    """l_i = CE(m_i, y_i), with m_i made from x_i in up to k rounds (Hendrycks et al., arXiv:2112.05135).

    m starts as x or as a bent copy of it; each round mixes in another bent copy of x, or the mixing picture, by adding
    or by multiplying, with shares that depend on beta. "Bent" is one random operation of `pixmix_operations`. All
    pictures of a batch go through at once on the training device, each with draws of its own, which depend on the step
    and its position in the global batch alone. The authors round to 8 bits after each operation; here only those do
    that are made of levels.
    """

    Options = PixMixOptions
    needs = frozenset({"mixing"})
    options: PixMixOptions

    def mix(self, batch: MixedBatch, context: StepContext) -> MixedBatch:
        """See `Algorithm`."""
        assert batch.mixing is not None, "PixMix declares that it needs mixing pictures"
        operations = list((ALL_OPERATIONS if self.options.all_operations else OPERATIONS).values())
        plan = _draw_plan(self.options, len(operations), context, batch.positions.cpu())
        rows, turns, copies = _bent_copies(batch.images, plan, operations)
        mixed = batch.images
        for turn in range(self.options.k + 1):
            of_turn = (turns == turn).nonzero().squeeze(1)
            source = batch.images if turn == 0 else batch.mixing
            source = source.index_copy(0, rows[of_turn].to(source.device), copies[of_turn.to(source.device)])
            mixed = source if turn == 0 else _mix_in(mixed, source, plan, turn)
        return replace(batch, images=mixed)


@dataclass(frozen=True)
class _Plan:
    """What is done to each picture; (B, k + 1) unless said, on the CPU, turn 0 being the start.

    Attributes:
        num_rounds: (B,), in [0, k].
        is_bent: the turn takes a bent copy of the picture, rather than itself (turn 0) or the mixing picture.
        operation: number of the operation that bends it.
        level: how strongly.
        sign: in which direction, 1 or -1.
        is_added: the turn adds rather than multiplies.
        a: share or power of what there is.
        b: share or power of what is mixed in.
    """

    num_rounds: Tensor
    is_bent: Tensor
    operation: Tensor
    level: Tensor
    sign: Tensor
    is_added: Tensor
    a: Tensor
    b: Tensor


def _draw_plan(options: PixMixOptions, num_operations: int, context: StepContext, positions: Tensor) -> _Plan:
    """Draw for the global batch, and take the rows of `positions`."""
    generator = context.generator("pixmix")
    size = (context.composition.batch_size, options.k + 1)
    num_rounds = torch.randint(options.k + 1, size[:1], generator=generator)[positions]
    operation = torch.randint(num_operations, size, generator=generator)[positions]
    is_bent, is_turned, is_added, is_blend = (torch.rand(4, *size, generator=generator) < 0.5)[:, positions]
    level, of_a, of_b = torch.rand(3, *size, generator=generator)[:, positions]
    # U^(1/beta) is Beta(beta, 1), and 1 less it Beta(1, beta).
    of_a, of_b = of_a ** (1 / options.beta), of_b ** (1 / options.beta)
    return _Plan(
        num_rounds=num_rounds,
        is_bent=is_bent & (torch.arange(options.k + 1) <= num_rounds[:, None]),
        operation=operation,
        level=_LOWEST_LEVEL + (options.severity - _LOWEST_LEVEL) * level,
        sign=1.0 - 2.0 * is_turned,
        is_added=is_added,
        a=torch.where(is_blend, of_a, 2 - of_a),
        b=torch.where(is_blend, 1 - of_b, of_b - 1),
    )


def _bent_copies(images: Tensor, plan: _Plan, operations: list[Operation]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and turns, on the CPU, of all bent copies, and these; each operation is applied once, to all it is for."""
    where, copies = [plan.is_bent.new_zeros(0, 2, dtype=torch.int64)], [images[:0]]
    for number, operation in enumerate(operations):
        rows, turns = (plan.is_bent & (plan.operation == number)).nonzero(as_tuple=True)
        if len(rows):
            level, sign = plan.level[rows, turns].to(images.device), plan.sign[rows, turns].to(images.device)
            copies.append(operation(images[rows.to(images.device)], level, sign))
            where.append(torch.stack([rows, turns], dim=1))
    rows, turns = torch.cat(where).unbind(1)
    return rows, turns, torch.cat(copies)


def _mix_in(mixed: Tensor, source: Tensor, plan: _Plan, turn: int) -> Tensor:
    """One round: add in [-1, 1] or multiply in [0, 2], as the authors do; pictures without the round stay the same."""
    for is_added in (True, False):
        rows = ((turn <= plan.num_rounds) & (plan.is_added[:, turn] == is_added)).nonzero().squeeze(1)
        a, b = (share[rows, turn, None, None, None].to(mixed.device) for share in (plan.a, plan.b))
        rows = rows.to(mixed.device)
        one, other = mixed[rows], source[rows]
        if is_added:
            result = (a * (2 * one - 1) + b * (2 * other - 1) + 1) / 2
        else:
            result = (2 * one) ** a * (2 * other).clamp(min=1e-37) ** b / 2
        mixed = mixed.index_copy(0, rows, result.clamp(0, 1))
    return mixed
