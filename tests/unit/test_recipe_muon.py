"""The optimizer of the language model's matrices, against torch's own, which computes in bfloat16."""

import pytest
import torch

from sglang_speechlm.demo.recipe.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 4), (4, 9), (5, 5)])
def test_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizers = (
        Muon([ours], lr=0.05, weight_decay=0.02),
        torch.optim.Muon([theirs], lr=0.05, momentum=0.95, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = theirs.detach() - start
    torch.testing.assert_close(ours.detach() - start, moved, rtol=0, atol=0.02 * float(moved.abs().max()))


def test_a_matrix_comes_out_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(40, 12)))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_parameter_without_a_gradient_stays() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    Muon([parameter], lr=0.05, weight_decay=0.02).step()
    assert torch.equal(parameter, torch.ones(2, 3))
