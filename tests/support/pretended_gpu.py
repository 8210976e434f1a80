"""A GPU that is pretended: values are computed on the CPU, and a mix of devices is an error.

    PANOPTIC_PRETENDED_GPU=1 python -m pytest -m gpu

Where there is no GPU, this tells whether code and tests put each tensor where it belongs. All runs
as on a CPU, autograd too, but a tensor that came by `device="cuda"` or `.to("cuda")` is marked. So
is whatever is computed from it. An operator that gets both kinds raises what torch raises, as
does `.numpy()` of a marked tensor. It tells nothing of kernels, their rounding and their time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
_aten = torch.ops.aten
# Operators that take tensors of both kinds: copies, and indices that lie on the CPU.
_COPIES = {_aten.copy_, _aten._to_copy}
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_NUMPY = {torch.Tensor.numpy, torch.Tensor.__array__}


class _Marks:
    """Which storages lie on the pretended GPU, and which are where they are needed."""

    def __init__(self) -> None:
        # As long as a weak reference lives, no other storage gets the same address.
        self._gpu: dict[int, StorageWeakRef] = {}
        self._free: dict[int, StorageWeakRef] = {}
        # Where a tensor is made that comes of no other, innermost last. Autograd makes some in C++,
        # on the device of a gradient that cannot be seen from here: they lie where they are needed.
        self.making: list[dict[int, StorageWeakRef] | None] = [None]

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._gpu

    def is_free(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor lies where it is needed."""
        return tensor.untyped_storage()._cdata in self._free

    def place(self, result: Any, device: torch.device) -> Any:
        """Put the tensors of a result on a device."""
        return self._put(result, self._gpu if device.type == "cuda" else None)

    def release(self, result: Any) -> Any:
        """Let the tensors of a result lie where they are needed."""
        return self._put(result, self._free)

    def place_made(self, result: Any) -> Any:
        """Put what comes of no other tensor where such things are made now."""
        return self._put(result, self.making[-1])

    @contextlib.contextmanager
    def makes(self, where: str) -> Iterator[None]:
        """Say where tensors are made within the block: "gpu", "free" or "cpu"."""
        self.making.append({"gpu": self._gpu, "free": self._free, "cpu": None}[where])
        try:
            yield
        finally:
            self.making.pop()

    def _put(self, result: Any, where: dict[int, StorageWeakRef] | None) -> Any:
        for tensor in _tensors(result):
            reference = StorageWeakRef(tensor.untyped_storage())
            for storages in (self._gpu, self._free):
                storages.pop(reference.cdata, None)
            if where is not None:
                where[reference.cdata] = reference
        return result


class _Operators(TorchDispatchMode):
    """What is computed from marked tensors is marked; what mixes devices raises."""

    def __init__(self, marks: _Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, marks = kwargs or {}, self.marks
        given, packet = _tensors((args, kwargs)), func.overloadpacket
        if not given:
            return marks.place_made(func(*args, **kwargs))
        if packet in _COPIES:
            result = func(*args, **kwargs)
            return result if packet is _aten.copy_ else self._as(given, result)
        if packet in _INDEXED and args[0] in marks:  # the CPU's indices will do
            indices = {id(index) for index in args[1] if index is not None}
            given = [tensor for tensor in given if id(tensor) not in indices]
        # A number of the CPU goes with all.
        bound = [t for t in given if not marks.is_free(t) and (t.dim() > 0 or t in marks)]
        if len({tensor in marks for tensor in bound}) > 1:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{GPU} and {CPU}! (pretended, in {func})"
            )
        return self._as(given, func(*args, **kwargs))

    def _as(self, given: list[torch.Tensor], result: Any) -> Any:
        """Put a result where what was given lies, and what was free with it."""
        free = [tensor for tensor in given if self.marks.is_free(tensor)]
        if any(tensor in self.marks for tensor in given):
            self.marks.place((free, result), GPU)
        elif free and len(free) == len(given):
            self.marks.release(result)
        return result


class _Calls(TorchFunctionMode):
    """Reads and asks for devices as if there were one."""

    def __init__(self, marks: _Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _BACKWARD:
            # With this mode on, for what is written in Python and runs backward.
            with self, self.marks.makes("free"):
                return _BACKWARD[func](*args, **kwargs)
        special = _SPECIAL.get(func)
        if special is not None:
            return special(self.marks, *args, **kwargs)
        if func in _NUMPY and args[0] in self.marks:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. (pretended)")
        device, given = kwargs.pop("device", None), _tensors((args, kwargs))
        if device is None:
            # What an operator makes within, or `new_zeros`, lies beside what it is given.
            with self.marks.makes("gpu" if any(t in self.marks for t in given) else "cpu"):
                result = func(*args, **kwargs)
            if getattr(func, "__name__", "").startswith("new_") and args[0] in self.marks:
                self.marks.place(result, GPU)
            return result
        device = torch.device(device)
        result = func(*args, device=_real(device), **kwargs)
        owned = {tensor.untyped_storage()._cdata for tensor in given}
        if isinstance(result, torch.Tensor) and result.untyped_storage()._cdata in owned:
            result = result.clone()  # as_tensor of a tensor
        return self.marks.place(result, device)


def _backward(
    tensors: Any,
    gradients: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *_: Any,
    inputs: Any = None,
    gradient: Any = None,
    grad_tensors: Any = None,
) -> None:
    """`Tensor.backward` and `torch.autograd.backward`, as they are without a mode."""
    given = next((g for g in (gradients, gradient, grad_tensors) if g is not None), None)
    _run(tensors, given, retain_graph, create_graph, inputs or (), True, True)


def _grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    **_: Any,
) -> tuple[torch.Tensor, ...]:
    """`torch.autograd.grad`, as it is without a mode."""
    unused = bool(allow_unused)
    return _run(outputs, grad_outputs, retain_graph, create_graph, inputs, unused, False)


def _run(
    outputs: Any,
    gradients: Any,
    retain_graph: bool | None,
    create_graph: bool,
    inputs: Any,
    allow_unreachable: bool,
    accumulate_grad: bool,
) -> Any:
    """Run autograd's engine; the libraries' own functions would call this mode over and over."""
    outputs, inputs = ((x,) if isinstance(x, torch.Tensor) else tuple(x) for x in (outputs, inputs))
    if isinstance(gradients, torch.Tensor):
        gradients = (gradients,)
    gradients = [None] * len(outputs) if gradients is None else gradients
    return torch.autograd.Variable._execution_engine.run_backward(
        outputs,
        tuple(
            torch.ones_like(output) if gradient is None else gradient
            for output, gradient in zip(outputs, gradients, strict=True)
        ),
        create_graph if retain_graph is None else retain_graph,
        create_graph,
        inputs,
        allow_unreachable=allow_unreachable,
        accumulate_grad=accumulate_grad,
    )


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _real(device: torch.device) -> torch.device:
    return CPU if device.type == "cuda" else device


def _device(marks: _Marks, tensor: torch.Tensor) -> torch.device:
    return GPU if tensor in marks else CPU


def _moved(marks: _Marks, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor if it is there already, or a copy there."""
    if _device(marks, tensor).type == device.type:
        return tensor
    return marks.place(tensor.clone(), device)


def _to(marks: _Marks, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to`: to a device, a type, or those of another tensor."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for word in args:
        if isinstance(word, torch.Tensor):
            device, dtype = _device(marks, word), word.dtype
        elif isinstance(word, torch.dtype):
            dtype = word
        elif isinstance(word, (str, torch.device)):
            device = word
    target = _device(marks, tensor) if device is None else torch.device(device)
    layout = {key: kwargs[key] for key in ("memory_format",) if kwargs.get(key) is not None}
    return _moved(marks, torch.Tensor.to(tensor, dtype or tensor.dtype, **layout), target)


_SPECIAL: Mapping[Any, Callable[..., Any]] = {
    torch.Tensor.device.__get__: _device,
    torch.Tensor.is_cuda.__get__: lambda marks, tensor: tensor in marks,
    torch.Tensor.is_cpu.__get__: lambda marks, tensor: tensor not in marks,
    torch.Tensor.to: _to,
    torch.Tensor.cuda: lambda marks, tensor, *_, **__: _moved(marks, tensor, GPU),
    torch.Tensor.cpu: lambda marks, tensor, *_, **__: _moved(marks, tensor, CPU),
    torch.Tensor.pin_memory: lambda marks, tensor, *_: tensor,
}


_BACKWARD: Mapping[Any, Callable[..., Any]] = {
    torch.Tensor.backward: _backward,
    torch.autograd.backward: _backward,
    torch.autograd.grad: _grad,
}


class _Event:
    """`torch.cuda.Event`, with the clock of the CPU."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: _Event) -> float:
        return 1000 * (later.time - self.time)


# What libraries ask `torch.cuda`, and what a machine with one GPU says.
_ANSWERS: Mapping[str, Any] = {
    "is_available": True,
    "device_count": 1,
    "current_device": 0,
    "is_current_stream_capturing": False,
    "max_memory_allocated": 0,
    "memory_allocated": 0,
    "synchronize": None,
    "manual_seed_all": None,
    "reset_peak_memory_stats": None,
    "empty_cache": None,
}


@contextlib.contextmanager
def pretended_gpu() -> Iterator[None]:
    """Let "cuda" be a device within the block."""
    marks = _Marks()
    answers = {name: mock.Mock(return_value=answer) for name, answer in _ANSWERS.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, Event=_Event, **answers))
        if hasattr(torch, "accelerator"):  # since torch 2.6; optimizers ask it
            stream = mock.Mock(**{"is_capturing.return_value": False})
            stack.enter_context(
                mock.patch.object(torch.accelerator, "current_stream", lambda *_: stream)
            )
        stack.enter_context(_Operators(marks))
        stack.enter_context(_Calls(marks))
        yield
