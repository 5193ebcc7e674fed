"""Parameters gathered into one flat buffer, so that an update is a few passes over one array.

The buffer takes over the memory: every `Parameter` of the group becomes a view into it, with the
logical shape that it had. A convolution weight lies there in the order that the kernels of its
device like (`backend.weight_layout`), which its strides express.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minires.backend import Array, Device, array_module, shared_zeros, weight_layout
from minires.nn.module import Parameter, settle

ALIGNMENT = 128
"""Every parameter starts at a multiple of so many bytes: whole cache lines and vector loads."""


class FlatGroup:
    """Some parameters of one dtype on one device, with their gradients, in two 1-D arrays.

    `weights` and `grads` have shape (P,): P counts the parameters and the gaps between them, which
    stay zero. `slot()` makes further arrays of that shape, and `view` finds a parameter in any of
    them.
    """

    def __init__(self, named_parameters: Sequence[tuple[str, Parameter]]) -> None:
        self.names = [name for name, _ in named_parameters]
        self.parameters = [parameter for _, parameter in named_parameters]
        dtypes = sorted({str(parameter.data.dtype) for parameter in self.parameters})
        if len(dtypes) > 1:
            raise ValueError(f"one flat buffer has one dtype; these parameters have {dtypes}")
        self.starts: list[int] = []
        size = 0
        for parameter in self.parameters:
            self.starts.append(size)
            step = max(1, ALIGNMENT // parameter.data.dtype.itemsize)
            size += -(-parameter.data.size // step) * step
        like = [parameter.data for parameter in self.parameters[:1]]
        self.xp = array_module(*like)
        self.dtype = np.dtype(dtypes[0] if dtypes else np.float32)
        # Processes that are forked later see every update of the weights, and add to the gradients.
        zeros = shared_zeros if self.xp is np else self.xp.zeros
        self.weights, self.grads = zeros(size, self.dtype), zeros(size, self.dtype)
        for index, parameter in enumerate(self.parameters):
            parameter.rehome(self.view(self.weights, index), self.view(self.grads, index))

    def gradients(self) -> Array:
        """All gradients, (P,); zero where no backward pass came since the last `zero_grad`."""
        settle(self.parameters)
        for parameter in self.parameters:
            _ = parameter.grad  # a parameter puts its zeros off until someone looks
        return self.grads

    def slot(self) -> Array:
        """A new array of zeros for the optimizer, (P,), e.g. the velocity."""
        return self.xp.zeros(self.weights.size, self.dtype)

    def view(self, flat: Array, index: int) -> Array:
        """The part of `flat`, (P,), that belongs to parameter `index`, in its logical shape."""
        shape = self.parameters[index].data.shape
        start = self.starts[index]
        piece = flat[start : start + self.parameters[index].data.size]
        if len(shape) != 4:
            return piece.reshape(shape)
        order = weight_layout(_device_of(flat))
        return piece.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def _device_of(array: Array) -> Device:
    """The device that `array` lives on."""
    if isinstance(array, np.ndarray):
        return Device("cpu")
    return Device("gpu", array.device.id)
