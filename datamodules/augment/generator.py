"""Let torch operations draw from a separate random generator, without a change of the global state."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OwnGenerator(TorchDispatchMode):
    """Context in which torch operations on the CPU draw from a generator with this seed.

    Only operations of the current thread are affected. kornia's augmentations have no generator of their own, and
    `torch.random.fork_rng` changes the state of the whole process, from which the training thread may draw (for
    dropout) at the same time.

    >>> with OwnGenerator(3):
    ...     first = torch.rand(2)
    >>> with OwnGenerator(3):
    ...     torch.equal(torch.rand(2), first)
    True
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed % 2**63)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            func = _with_generator(func)
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)


def _with_generator(func: Any) -> Any:
    """Return the overload of an operation that takes a generator."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = func._overloadname
    overload = "generator" if name == "default" else f"{name}_generator"
    packet = func._overloadpacket
    if overload not in packet.overloads():
        raise NotImplementedError(f"{func} takes no generator: draw with torch.rand, torch.randn or torch.randint")
    return getattr(packet, overload)


def batch_seed(keys: np.ndarray, name: str) -> int:
    """Hash the keys of a batch, in order, and a name, to a number below 2^63."""
    salt = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return int.from_bytes(hashlib.blake2b(keys.tobytes(), salt=salt, digest_size=8).digest(), "little") >> 1
