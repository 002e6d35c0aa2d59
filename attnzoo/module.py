"""The base class of every module with parameters."""

import inspect
from typing import Any

from flax import nnx


class _InitSignature:
    """The signature of ``__init__``, seen from the class alone: an instance has ``__call__``'s."""

    def __get__(self, instance: Any, owner: Any) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        if owner.__init__ is object.__init__:
            return inspect.Signature()
        signature = inspect.signature(owner.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class Module(nnx.Module):
    """``nnx.Module`` whose subclasses show the arguments of their ``__init__``.

    The metaclass of ``nnx.Module`` creates instances with ``__call__(*args, **kwargs)``, which is
    all that ``help``, editors and ``inspect.signature`` would show of a class otherwise.
    """

    __signature__ = _InitSignature()
