"""fix-shapes."""

import pytest

from onnxmpq.errors import InputError
from onnxmpq.model.passes import read_pass
from onnxmpq_passes import FixShapes
from tests.passes.proof import Case, FiveTests, parse, public

CASES = (
    Case("a batch", "g (float[n,2] x) => (float[n,2] y) { y = Relu(x) }", "Relu"),
    Case("a batch without a name", "g (float[?,2] x) => (float[?,2] y) { y = Relu(x) }", "Relu"),
    Case("a named dimension", "g (float[n,length] x) => (float[length,n] y) { y = Transpose(x) }", "Transpose"),
    Case(
        "in a body",
        """g (bool c, float[n,2] x) => (float[n,2] y) {
            y = If (c) <then_branch = t () => (float[n,2] a) { a = Exp(x) },
                        else_branch = e () => (float[n,2] b) { b = Neg(x) }>
        }""",
        "If Exp Neg",
    ),
    Case("fixed already", "g (float[1,2] x) => (float[1,2] y) { y = Relu(x) }", "", fires=False),
    Case("an open dimension behind the first", "g (float[1,w] x) => (float[1,w] y) { y = Relu(x) }", "", fires=False),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestFixShapes(FiveTests):
    make = FixShapes(batch=3, sizes=("length:3",))

    def test_public_names_types_and_shapes_stay(self, case: Case) -> None:
        """But for the dimensions that it fixes, by which it is asked for."""
        model = case.model()
        before = public(model)
        self.make(model)
        after = public(model)
        assert [value[:2] for value in after] == [value[:2] for value in before]
        assert [len(value[2]) for value in after] == [len(value[2]) for value in before]


def test_every_dimension_of_a_name_gets_its_number() -> None:
    model = parse("g (float[n,length] x) => (float[length,n] y) { y = Transpose(x) }")
    FixShapes(sizes=("length:7",))(model)
    assert [list(shape) for _, _, shape in public(model)] == [[1, 7], [7, 1]]


def test_the_text_of_the_pass_reads_as_it_is_written() -> None:
    made = FixShapes(batch=2, sizes=("length:7", "width:3"))
    assert made.spec() == "fix-shapes{batch=2,sizes=length:7+width:3}"
    assert read_pass(made.spec()) == made


@pytest.mark.parametrize("text", ["length", "length:", "length:x", ":3", "length:0"])
def test_what_fixes_no_dimension_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="fixes no dimension"):
        FixShapes(sizes=(text,))(parse("g (float[n] x) => (float[n] y) { y = Relu(x) }"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fix-shapes{batch=1", "no '}'"),
        ("fix-shapes{batch=one}", "no number"),
        ("fix-shapes{bath=1}", "no option 'bath'"),
    ],
)
def test_a_text_that_names_no_pass_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_pass(text)
