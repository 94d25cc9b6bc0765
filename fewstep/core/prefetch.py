"""Images that stay in the host's memory, and are gathered there while the device computes. Used by apps/images/tasks.py.

What a meta-step will ask for is known before it begins: the numbers of images follow from keys alone. So whoever draws
episodes says early what comes next (`ahead`), and threads of the host gather it meanwhile."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

MOST_WAITING = 64
"""So many gathered arrays may wait to be asked for; of more, the oldest are forgotten. A device needs one for each part of an
episode."""

_listening: ContextVar[list[jax.Array] | None] = ContextVar("listening", default=None)


class OnHost:
    """An array of images on the host: `images[numbers]`, in a compiled program, sends those to the device."""

    def __init__(self, images: np.ndarray):
        self.images = images
        """uint8 [images, height, width, channels]"""
        self._waiting: OrderedDict[bytes, Future[np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(2, "prefetch")

    def __getitem__(self, numbers: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct((*numbers.shape, *self.images.shape[1:]), self.images.dtype)
        if (asked := _listening.get()) is not None:
            asked.append(numbers)
            return jnp.zeros(shape.shape, shape.dtype)
        return jax.pure_callback(self._taken, shape, numbers, vmap_method="expand_dims")

    def ahead(self, draw: Callable[..., Any], keys: Any) -> None:
        """Has the host gather what `draw` will ask for, mapped over these [n] keys, while the compiled program in which this is
        called goes on. Nothing of `draw` but the numbers of images is computed."""

        def asked_by(key: Any) -> list[jax.Array]:
            asked: list[jax.Array] = []
            token = _listening.set(asked)
            try:
                draw(key)
            finally:
                _listening.reset(token)
            return asked

        io_callback(self._begin, None, jax.vmap(asked_by)(keys))

    def _begin(self, parts: list[Any]) -> None:
        with self._lock:
            for numbers in map(np.asarray, parts):
                asked = numbers.tobytes()
                if asked not in self._waiting:
                    self._waiting[asked] = self._threads.submit(self._gathered, numbers)
            while len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)

    def _taken(self, numbers: Any) -> np.ndarray:
        numbers = np.asarray(numbers)
        with self._lock:
            waiting = self._waiting.pop(numbers.tobytes(), None)
        found = self._gathered(numbers) if waiting is None else waiting.result()
        return found.reshape(*numbers.shape, *self.images.shape[1:])

    def _gathered(self, numbers: np.ndarray) -> np.ndarray:
        return np.take(self.images, numbers, axis=0)
