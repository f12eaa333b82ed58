"""When a fit is taken: outputs are nearer to float's, and the divergence does not pay for it."""

import numpy as np
import pytest

from onnxmpq.refit.accept import gained

ALIKE = np.array([0.5, 1.5])


@pytest.mark.parametrize(
    ("losses", "errors", "better"),
    [
        ((0.14, 0.094), (0.153, 0.097), True),  # both fall
        ((0.0001, 0.0005), (0.0080, 0.0041), True),  # a loss of which few samples make up most
        ((0.073, 0.096), (0.048, 0.011), True),  # the error falls to a quarter
        ((0.055, 0.060), (0.0743, 0.0702), False),  # a little less error for a little more loss
        ((0.3, 0.2), (0.1, 0.2), False),
        ((0.2, 0.2), (0.1, 0.1), False),
        ((0.0, 0.0), (0.0, 0.0), False),
    ],
)
def test_loss_and_error_are_weighed(losses: tuple[float, float], errors: tuple[float, float], better: bool) -> None:
    assert (gained(losses[0] * ALIKE, losses[1] * ALIKE, *errors) > 1e-9) == better
