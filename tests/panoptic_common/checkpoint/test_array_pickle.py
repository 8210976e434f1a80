"""Forged pickles of arrays: nothing is called, nothing is read but the file, nothing grows."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from programs import run_program
from project import ROOT

from panoptic_common.checkpoint.array_pickle import load_arrays
from panoptic_common.checkpoint.pickled_values import UnsafePickle


class Forged:
    """Pickles as a call of any function, with any state after it."""

    def __init__(self, function, arguments, state=None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.float32(1).__reduce__()[0]
FLOAT = np.dtype("f4")
EMPTY = (np.ndarray, (0,), b"b")


def dtype(code: str, *state) -> Forged:
    return Forged(np.dtype, (code, False, True), state or None)


def array(shape, kind, data, fortran=False) -> Forged:
    return Forged(RECONSTRUCT, EMPTY, (1, shape, kind, fortran, data))


FORGERIES = {
    "object dtype": array((1,), dtype("O8"), [1]),
    "object dtype with bytes": array((1,), dtype("O8"), b"\x41" * 8),
    "object in a field": array(
        (1,), dtype("V8", 3, "|", None, ("x",), {"x": (dtype("O8"), 0)}, 8, 1, 27), b"\x41" * 8
    ),
    "numeric dtype with forged fields": array(
        (1,), dtype("f8", 3, "<", None, ("x",), {"x": (dtype("f8"), 4096)}, 8, 1, 0), b"\x41" * 8
    ),
    "subarray dtype": array((1,), dtype("f4", 3, "<", (dtype("f4"), (9,)), None, None), b"1234"),
    "text for a dtype": array((1,), "O", b"\x41" * 8),
    "fewer bytes than the shape": array((1 << 40,), FLOAT, b"1234"),
    "negative lengths": array((-1, -1), FLOAT, b"1234"),
    "lengths that overflow": array((1 << 32, 1 << 32), FLOAT, b""),
    "no bytes but a list": array((1,), FLOAT, [1.0]),
    "no shape but a list": array([1], FLOAT, b"1234"),
    "structured text": array((1,), dtype("f4,O"), b"\x41" * 12),
    "scalar of objects": Forged(SCALAR, (dtype("O8"), b"\x41" * 8)),
    "scalar too short": Forged(SCALAR, (FLOAT, b"1")),
    "array without a state": Forged(RECONSTRUCT, EMPTY),
    "array that is no array": Forged(RECONSTRUCT, (dict, (0,), b"b"), (1, (), FLOAT, False, b"")),
    "a class itself": np.ndarray,
    "bytearray of a number": Forged(bytearray, (1 << 40,)),
    "tuple as a key": {(1, 2): 3},
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", FORGERIES)
def test_forged_array_is_refused(name, protocol):
    data = pickle.dumps({"model": FORGERIES[name]}, protocol)
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        load_arrays(data)


@pytest.mark.parametrize("name", ["object dtype", "structured text", "object in a field"])
def test_refusal_of_a_dtype_names_it(name):
    with pytest.raises(UnsafePickle, match="numpy.dtype"):
        load_arrays(pickle.dumps(FORGERIES[name], 2))


@pytest.mark.parametrize(
    "code", ["b1", "i1", "u2", "<i4", ">i4", "i8", "f2", ">f4", "f8", "c8", "c16"]
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numeric_arrays_come_back_in_the_byte_order_of_the_machine(code, protocol):
    for shape in ((2, 3), (0, 4), ()):
        whole = (
            np.ones(shape, code) if shape != (2, 3) else np.arange(6).reshape(shape).astype(code)
        )
        for value in (whole, whole.T, np.asfortranarray(whole)):
            read = load_arrays(pickle.dumps(value, protocol))
            np.testing.assert_array_equal(read, value)
            assert read.dtype == value.dtype.newbyteorder("=") and read.dtype.isnative
            assert read.flags.writeable


def test_arrays_of_python_2_in_text_and_in_bytes():
    """Protocols 0 and 2 as Python 2 wrote them: data as text in latin-1."""
    zoo = "(lp0\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt"
    kind = "cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    values = np.array([-1.5, 250.25], np.float32)
    escaped = "".join(f"\\x{byte:02x}" for byte in values.tobytes())
    in_text = f"{zoo}{kind}I00\nS'{escaped}'\ntba.".encode()
    in_bytes = f"{zoo}{kind}I00\n".encode() + b"U\x08" + values.tobytes() + b"tba."
    for data in (in_text, in_bytes):
        np.testing.assert_array_equal(load_arrays(data)[0], values)


def test_shared_and_nested_containers_cannot_grow_the_result():
    """Doubled 60 times by one opcode each; a list in itself; a thousand lists deep."""
    doubled = b"\x80\x04)" + b"2\x86" * 60 + b"."
    endless = b"\x80\x04]q\x00h\x00a."
    deep = b"\x80\x04" + b"]" * 1000 + b"a" * 999 + b"."
    for data in (doubled, endless, deep):
        with pytest.raises(pickle.UnpicklingError):
            load_arrays(data)


def test_one_array_repeated_cannot_grow_the_result():
    weights = np.zeros(100_000, np.uint8)
    with pytest.raises(pickle.UnpicklingError, match="more data"):
        load_arrays(pickle.dumps({f"{i}": weights for i in range(100)}, 4))
    tied = load_arrays(pickle.dumps({"a": weights, "b": weights}, 4))
    assert tied["a"].shape == tied["b"].shape == (100_000,)


def test_lengths_and_places_of_the_file_allocate_nothing():
    for data in (
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",  # 2^63 - 1 bytes
        b"\x80\x04\x8b\xff\xff\xff\x7f.",  # an integer of 2 GiB
        b"\x80\x04Nr\xff\xff\xff\xffj\xff\xff\xff\xff",  # a place in the memo: kept, then no end
        b"\x80\x04(((((",
        b"\x82\x01.",
        b"Pabc\n.",
    ):
        with pytest.raises((pickle.UnpicklingError, IndexError)):
            load_arrays(data)


def fuzz(seed: int, count: int) -> tuple[int, int]:
    program = str(ROOT / "tests/support/array_pickle_fuzzer.py")
    done = run_program(program, str(seed), str(count))
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    read, refused = map(int, done.stdout.split())
    return read, refused


def test_mutated_pickles_neither_crash_nor_hang_nor_fill_the_memory():
    read, refused = fuzz(seed=1, count=4000)
    assert read + refused == 4000 and read > 100 and refused > 1000


@pytest.mark.slow
def test_many_more_mutated_pickles():
    """PANOPTIC_FUZZ_COUNT sets how many."""
    count = int(os.environ.get("PANOPTIC_FUZZ_COUNT", "60000"))
    assert sum(fuzz(seed=2, count=count)) == count
