"""Amounts of memory as they are typed."""

import pytest

from onnxmpq.errors import InputError
from onnxmpq.options import parse_bytes


@pytest.mark.parametrize(("text", "amount"), [("4GB", 4 * 10**9), ("1.5 MiB", 3 << 19), ("300k", 300_000), ("7", 7)])
def test_an_amount_of_memory_is_read(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text", ["", "4TB", "-1GB", "0", "0.1", "inf", "nan", "1e9", "٤GB", pytest.param("9" * 5000, id="digits")]
)
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is no amount of memory\. Expected a number and a unit") as error:
        parse_bytes(text)
    assert len(str(error.value)) < 200
