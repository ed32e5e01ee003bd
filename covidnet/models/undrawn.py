"""Parameters that get no random values, because others are loaded into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset(
    (
        nn.init.uniform_,
        nn.init.normal_,
        nn.init.kaiming_uniform_,
        nn.init.kaiming_normal_,
        Tensor.uniform_,
        Tensor.normal_,
    )
)


class Undrawn(TorchFunctionMode):
    """A context in which random numbers are not drawn for parameters of networks, in this thread alone.

    What they hold then is arbitrary. Buffers are drawn as always: a state dict need not have them.

    Example:
        >>> import torch
        >>> with Undrawn():
        ...     state = torch.random.get_rng_state()
        ...     layer = nn.Linear(2, 3)
        ...     print(torch.equal(state, torch.random.get_rng_state()))
        True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Leave a parameter as it is where `func` would draw it."""
        kwargs = kwargs or {}
        if func in _DRAWS and isinstance(tensor := args[0] if args else kwargs.get("tensor"), nn.Parameter):
            return tensor
        return func(*args, **kwargs)
