"""The optimizer of the language model's matrices, compared with torch's own, which computes in bfloat16."""

import pytest
import torch

from sglang_speechlm.demo.recipe.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 4), (4, 9), (5, 5)])
def test_steps_equal_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape)
    parameter, torch_parameter = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizers = (
        Muon([parameter], lr=0.05, weight_decay=0.02),
        torch.optim.Muon([torch_parameter], lr=0.05, momentum=0.95, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        parameter.grad = torch.randn(shape)
        torch_parameter.grad = parameter.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    expected = torch_parameter.detach() - start
    torch.testing.assert_close(parameter.detach() - start, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_the_result_is_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(40, 12)))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_parameter_without_a_gradient_is_unchanged() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    Muon([parameter], lr=0.05, weight_decay=0.02).step()
    assert torch.equal(parameter, torch.ones(2, 3))
