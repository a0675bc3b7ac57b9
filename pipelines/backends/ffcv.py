"""FFCV's loader over a baked file: it reads and decodes ahead in threads of its own, in our sampler's order.

FFCV's functions decode the images, `ffcv_kernels` resizes them; labels and indices come from the file's columns by the
same row numbers. Its hazards that matter here, and what is done about them:

- Batches are views of a ring of buffers, overwritten while the receiver may still hold them: here every batch is
  decoded into memory of its own, which then belongs to the receiver, without a copy.
- An exception in its thread leaves the consumer waiting for ever: it is handed over and raised there.
- Leaving an epoch early leaks the thread, or decodes the rest of it: closing the generator ends it at the next batch.
- Its order depends on seed + epoch, and its shards are padded: it is given row numbers, and decides nothing.
- It sets PyTorch's thread count: here it may not.
- It decodes in numba's threads, which make PyTorch's slower (`ffcv_kernels`): here the reader and its helpers do.
- It compiles for 9 to 17 seconds in each process: see `ffcv_kernels`.

Source: ffcv/loader/loader.py, ffcv/loader/epoch_iterator.py, ffcv/pipeline/ of FFCV 1.0.2.
"""

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from queue import Empty, Full
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.backends import Batch, check_shown
from pipelines.backends.columns import Columns
from pipelines.backends.transfer import Transfer
from pipelines.baked.beton import Beton
from pipelines.sampler import Sampler
from pipelines.view.regions import View

# isort: off
import numba

# Before anything else of ffcv: it makes importing the rest quick.
from pipelines.backends import ffcv_kernels
from ffcv.fields.decoders import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.state import State
# isort: on

Storage = tuple[np.ndarray, np.ndarray, np.ndarray]
Pixels = tuple[np.ndarray, np.ndarray]
Decode = Callable[[np.ndarray, Pixels, np.ndarray, Storage], None]

_PARTS = 8  # of a batch for each thread, so that none waits long for the last
_FEW = 2  # images that a thread takes at least, as it needs the interpreter's lock for each part
_LITTLE = 1 << 20  # bytes of pixels that it copies at least: what is less is done before another thread wakes up


def _set_num_threads(cls: type[Compiler], n: int) -> None:
    """FFCV's own version also sets PyTorch's thread count, in its constructor, every epoch and its thread.

    numba's is for FFCV's own loops alone, and starts its threads.
    """
    cls.num_threads = n
    if cls.is_enabled and not isinstance(threading.current_thread(), _Reader):
        numba.set_num_threads(n)


Compiler.set_num_threads = classmethod(_set_num_threads)


class _Decoder(SimpleRGBImageDecoder):
    """Stands in FFCV's graph for the loops of `ffcv_kernels`: what to show is the stream's to say, and it decodes.

    The memory asked for here is replaced by `_Reader`, and so kept small.
    """

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, AllocationQuery]]:
        byte = np.dtype("<u1")
        state = replace(previous_state, jit_mode=True, shape=(1,), dtype=byte)
        return state, (AllocationQuery((1,), byte), AllocationQuery((), byte))

    def generate_code(self) -> Callable:
        def decode(rows: np.ndarray, memory: Pixels, metadata: np.ndarray, storage: Storage) -> Pixels:
            reader = threading.current_thread()
            assert isinstance(reader, _Reader)
            reader.decode(rows, memory, metadata, storage)
            images, fine = memory
            return images[: len(rows)], fine[: len(rows)]

        return decode


class _FreshMemory:
    """Stands for FFCV's ring of batch buffers: each slot asked for is new memory, pinned for a GPU.

    PyTorch's pinned allocator keeps freed memory until copies from it are done, so nothing else has to wait.
    """

    def __init__(self, shape: tuple[int, ...], pinned: bool) -> None:
        self._shape, self._pinned = shape, pinned

    def __getitem__(self, slot: int) -> np.ndarray:
        return torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pinned).numpy()


class _Reader(EpochIterator):
    """One pass over given rows. Use `next`, and `stop` when done or not."""

    def __init__(self, loader: Loader, rows: np.ndarray, decode: Decode, shape: tuple[int, ...], pinned: bool) -> None:
        """decode: what `_Decoder` does for this stream. shape: of a batch of images, (batch, H, W, 3)."""
        self.decode = decode
        self._shape, self._pinned = shape, pinned
        self._failure: BaseException | None = None
        super().__init__(loader, rows)

    def start(self) -> None:
        # Called at the end of the constructor, when the buffers have just been made (and not been touched yet).
        (node,) = self.memory_allocations["operation"]
        self.memory_allocations["operation"][node] = (
            _FreshMemory(self._shape, self._pinned),
            _FreshMemory(self._shape[:1], pinned=False),
        )
        super().start()

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self._failure = error
            while not self.terminate_event.is_set():
                try:
                    self.output_queue.put(None, timeout=0.1)
                    return
                except Full:
                    continue

    def run_pipeline(self, *arguments: Any) -> Any:
        if self.terminate_event.is_set():
            raise StopIteration  # as at the rows' end: FFCV's loop looks at the event only where it waits for room
        return super().run_pipeline(*arguments)

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (n, H, W, 3), and uint8 (n,) with 0 where the decoder complained."""
        try:
            return super().__next__()[0]
        except StopIteration:
            if self._failure is not None:
                raise RuntimeError(f"FFCV's reader failed: {self._failure}") from self._failure
            raise

    def stop(self) -> None:
        """End the thread, wherever it is."""
        self.terminate_event.set()
        while self.is_alive():
            try:
                self.output_queue.get_nowait()  # it may be waiting for room
            except Empty:
                self.join(0.01)
        self.close()


class FFCVEngine:
    """One FFCV loader for a file; a reader thread per stream, and helpers that the streams share."""

    def __init__(self, beton: Beton, device: torch.device, channels: int, threads: int | None) -> None:
        self.device, self._channels = device, channels
        self._columns = Columns(beton, device)
        self._index = beton.columns["index"]
        cores = len(os.sched_getaffinity(0))
        self._threads = min(threads or cores, cores)
        self._helpers = ThreadPoolExecutor(max(1, self._threads - 1), "ffcv")  # the reader's own thread decodes too
        enabled = Compiler.is_enabled
        # Our kernels are compiled already; what FFCV would compile beside them is not used.
        Compiler.set_enabled(False)
        try:
            self._loader = Loader(
                str(beton.path),
                batch_size=1,  # each stream sets its own
                num_workers=self._threads,
                os_cache=True,
                seed=0,  # not used, but without one FFCV draws it from numpy's global generator
                pipelines={"image": [_Decoder()], **dict.fromkeys(beton.names)},
                drop_last=False,
            )
        finally:
            Compiler.set_enabled(enabled)
        self._beton = beton
        self._transfer = Transfer(device)

    @property
    def transfer_seconds(self) -> float:
        return self._transfer.seconds

    def batches(self, sampler: Sampler, label: str, view: View | None = None) -> Generator[Batch]:
        rows_of_batches = sampler.batches()
        if not rows_of_batches:
            return
        sizes = [len(rows) for rows in rows_of_batches]
        assert len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0], "FFCV cuts an epoch into equal batches"
        labels_of_batches = self._columns.of(rows_of_batches, label)
        decode, side = self._decoding(view, rows_of_batches)
        self._loader.batch_size = sizes[0]
        rows = np.concatenate(rows_of_batches).astype(np.uint64)
        reader = _Reader(self._loader, rows, decode, (sizes[0], *side, 3), pinned=self.device.type == "cuda")

        def decoded() -> Iterator[torch.Tensor]:
            for batch_rows in rows_of_batches:
                pixels, fine = next(reader)
                if not fine.all():
                    self._decode_again(pixels, batch_rows, np.flatnonzero(fine == 0), view)
                yield torch.from_numpy(pixels)

        try:
            for pixels, labels in zip(self._transfer(decoded()), labels_of_batches, strict=True):
                images = pixels.permute(0, 3, 1, 2)
                if self._channels == 1:
                    images = images[:, :1].contiguous(memory_format=torch.channels_last)
                yield Batch(images, *labels)
        finally:
            reader.stop()

    def _decoding(self, view: View | None, rows_of_batches: list[np.ndarray]) -> tuple[Decode, tuple[int, int]]:
        """What a stream calls for each batch in turn, and the height and width of its images."""
        check_shown(self._beton, view)
        if view is None:
            assert self._beton.fixed_size is not None
            height, width = self._beton.fixed_size
            least = -(-_LITTLE // (height * width * 3)) if self._beton.raw.all() else _FEW
            nothing = [()] * self._threads
            return partial(self._in_threads, nothing, least, ffcv_kernels.decode_fixed_kernel), (height, width)
        # Decoded whole by each thread in turn. (FFCV's own decoders hold such an image for each sample of a batch.)
        largest = int((self._beton.height.astype(np.int64) * self._beton.width).max()) * 3
        scratch = np.empty((self._threads, largest), np.uint8)
        regions = view.regions_of(rows_of_batches, self._index, self._beton.height, self._beton.width)

        def decode(*batch: Any) -> None:
            own = [(image,) for image in scratch]
            self._in_threads(own, _FEW, ffcv_kernels.decode_regions_kernel, *batch, next(regions))

        return decode, (view.size, view.size)

    def _in_threads(self, own: Sequence[tuple], least: int, kernel: Callable, rows: np.ndarray, *batch: Any) -> None:
        """Decode a batch in at most as many threads as `own` has items: what each hands over for itself.

        least: how many images a thread takes at a time.
        """
        size = max(least, -(-len(rows) // (_PARTS * len(own))))
        firsts = range(0, len(rows), size)
        left = iter(firsts)  # shared: who is done takes the next few

        def work(mine: tuple) -> None:
            for first in left:
                kernel(first, min(first + size, len(rows)), rows, *batch, *mine)

        others: list[Future] = []
        try:
            others += (self._helpers.submit(work, mine) for mine in own[1 : len(firsts)])
            work(own[0])
        finally:
            others = [other for other in others if not other.cancel()]  # who has not begun is not needed any more
            wait(others)  # they write into the batch's memory
        for other in others:
            other.result()

    def _regions(self, rows: np.ndarray, view: View) -> np.ndarray:
        return view.regions(self._index[rows], self._beton.height[rows], self._beton.width[rows])

    def _decode_again(self, pixels: np.ndarray, rows: np.ndarray, failed: np.ndarray, view: View | None) -> None:
        """Where FFCV's decoder complained, let Pillow judge: it decodes files that merely draw a warning (bytes too
        many before a marker), as it did when they were baked, and raises for damaged ones."""
        for at in failed:
            image = self._beton.image(int(rows[at]))
            if view is not None:
                ((top, left, height, width),) = self._regions(rows[at : at + 1], view)
                shown = Image.fromarray(image[top : top + height, left : left + width])
                image = np.asarray(shown.resize((view.size, view.size), Image.Resampling.BILINEAR))
            pixels[at] = image


def open_engine(beton: Beton, device: torch.device, channels: int, threads: int | None) -> FFCVEngine:
    return FFCVEngine(beton, device, channels, threads)
