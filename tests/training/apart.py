"""A device that is apart from main memory, as a GPU is, on a machine without one: its tensors are computed on the
processor, but nothing that lies in main memory may meet them, and no generator of the processor may draw there."""

from __future__ import annotations

from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

APART = torch.device("meta")
_MOVES = ("aten::_to_copy", "aten::copy_")
_LOOKS_UP = ("aten::index", "aten::index_put", "aten::index_put_")


class ApartTensor(Tensor):
    """A tensor on the device; it passes for one on `meta`, which has no numbers, so that it can be told apart."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> ApartTensor:
        form = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, held.size(), **form, dtype=held.dtype, device=APART)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def tolist(self) -> Any:
        return self.held.tolist()

    def new_tensor(self, *args: Any, **kwargs: Any) -> ApartTensor:
        return ApartTensor(self.held.new_tensor(*args, **kwargs))

    def __getitem__(self, at: Any) -> Any:
        places = at if isinstance(at, tuple) else (at,)
        lists = (torch.tensor(x, dtype=torch.int64) if isinstance(x, list) else x for x in places)
        return super().__getitem__(tuple(lists))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class DeviceApart(TorchDispatchMode):
    """While it lasts, what is made on `APART` or moved there is an `ApartTensor`, and a parameter that moves stays the
    same object, as it does on its way to a GPU."""

    def __enter__(self) -> Self:
        self._patch = mock.patch.object(nn.Module, "to", _moved)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._patch.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


_to = nn.Module.to


def _moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return _to(module, *args, **kwargs)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = {id(x.held): x for x in given if isinstance(x, ApartTensor)}
    name, where = func._schema.name, kwargs.get("device")
    stays = bool(there) if where is None else torch.device(where) == APART
    if name not in _MOVES:
        _check(func, args, given)
        if (there or stays) and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: a generator of the processor draws on the device")
    on_processor = {} if where is None else {"device": torch.device("cpu")}
    found = func(*tree_map(_held, args), **(tree_map(_held, kwargs) | on_processor))
    if torch.Tag.inplace_view in func.tags and there:
        with no_dispatch():
            func(*args, **kwargs)
    if name == "aten::copy_":
        return args[0]
    if not stays:
        return found
    return tree_map(lambda x: there[id(x)] if id(x) in there else _apart(x), found)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, ApartTensor) else x


def _apart(x: Any) -> Any:
    return ApartTensor(x) if isinstance(x, Tensor) else x


def _check(func: Any, args: Any, given: list[Tensor]) -> None:
    """As on a GPU: a single number may lie in main memory where an operation goes entry by entry, and so may the
    positions that are looked up; nothing else may."""
    strangers = [x for x in given if not isinstance(x, ApartTensor)]
    if any(x.is_meta for x in strangers):
        raise RuntimeError(f"{func}: a tensor on {APART} that holds nothing")
    if len(strangers) in (0, len(given)):
        return
    if torch.Tag.pointwise in func.tags and not any(x.ndim for x in strangers):
        return
    if func._schema.name in _LOOKS_UP and isinstance(args[0], ApartTensor):
        written = args[2:3]
        if all(isinstance(x, ApartTensor) or not x.ndim for x in written):
            return
    where = [f"{'device' if isinstance(x, ApartTensor) else 'main memory'} {tuple(x.shape)}" for x in given]
    raise RuntimeError(f"{func}: tensors on two devices: {', '.join(where)}")
