"""Loaders that do the same work: random-resized-crop and flip of photographs, uint8 batches on the device.

Ours over baked sets, FFCV and DALI over the same files as their documents use them, and the loaders of folders of
photographs as their users write them.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from pipelines.backends import BACKENDS, open_engine
from pipelines.baked.encoding import BakeSpec
from pipelines.registry import Registry

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop

# How the photographs are stored for our backends, FFCV and DALI. All others read the original files.
FORMS = {
    "original": BakeSpec("jpeg"),
    "small": BakeSpec("jpeg", resolution=400, quality=90),
    "raw": BakeSpec("raw", resolution=400),
}


@dataclass(frozen=True)
class Work:
    """originals: folder of class folders of photographs. sets: the baked set's folder for each key of FORMS; shards:
    its export's. size: side of the batches' images in pixels. device: cpu or cuda."""

    originals: str
    sets: dict[str, str]
    shards: dict[str, str]
    size: int
    batch: int
    workers: int
    device: str


Epoch = Callable[[int], Iterable[torch.Tensor]]  # number of the epoch -> uint8 (B, 3, size, size) on the device


@dataclass(frozen=True)
class Contender:
    """open: makes the loader. needs: packages; without one, it is listed as absent. of: the key of FORMS that it shows.
    reads: the original files, or a baked set or its shards, which are made for it. against: of ours, the contender that
    shows the same and is its measure."""

    open: Callable[[Work], Epoch]
    needs: tuple[str, ...] = ()
    of: str = "original"
    reads: Literal["files", "set", "shards"] = "files"
    against: str | None = None

    @property
    def ours(self) -> bool:
        return self.against is not None


CONTENDERS: Registry[Contender] = Registry("loader")


def _ours(backend: str, of: str, work: Work) -> Epoch:
    from pipelines.baked.manifest import BakedSet
    from pipelines.sampler import Sampler
    from pipelines.view.augment import augmentation_key, flip, uniforms
    from pipelines.view.regions import View, ViewSpec

    baked = BakedSet.open(work.sets[of])
    stored = baked.splits["train"]
    if BACKENDS[backend].works_in_torch:
        torch.set_num_threads(work.workers)
    engine = open_engine(backend, stored, torch.device(work.device), 3, work.workers)
    sampler = Sampler(stored.samples, work.batch)
    spec = ViewSpec(0.875, random="area", area=list(AREA), aspect=list(ASPECT))
    key = augmentation_key(0)

    def epoch(number: int) -> Iterator[torch.Tensor]:
        sampler.epoch, sampler.offset = number, 0
        for batch in engine.batches(sampler, "label_true", View(spec, work.size, 0, number)):
            yield flip(batch.images, uniforms(batch.index, key, number)[:, 0] < 0.5)

    return epoch


def _raw_ffcv(of: str, work: Work) -> Epoch:
    """As in FFCV's ImageNet example, without normalisation."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToDevice, ToTensor, ToTorchImage

    device = torch.device(work.device)
    folder = Path(work.sets[of])
    crop = RandomResizedCropRGBImageDecoder((work.size, work.size), AREA, ASPECT)
    image = [crop, RandomHorizontalFlip(), ToTensor(), ToDevice(device, non_blocking=True), ToTorchImage()]
    label = [IntDecoder(), ToTensor(), Squeeze(), ToDevice(device, non_blocking=True)]
    loader = Loader(
        str(folder / "train.beton"),
        batch_size=work.batch,
        num_workers=work.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": image, "label_true": label, "clean_label": None, "index": None},
    )
    return lambda number: (batch[0] for batch in loader)


def _raw_dali(of: str, threads_a_core: int, work: Work) -> Epoch:
    """As in DALI's ImageNet example, over WebDataset shards, without normalisation."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    shards = sorted(Path(work.shards[of]).glob("train-*.tar"))
    on_gpu = work.device == "cuda"
    device_id: Any = 0 if on_gpu else None

    @pipeline_def(batch_size=work.batch, num_threads=threads_a_core * work.workers, device_id=device_id)
    def images() -> Any:
        read: Any = fn.readers.webdataset(
            paths=[str(path) for path in shards],
            index_paths=[str(path.with_suffix(".idx")) for path in shards],
            ext=["jpg", "clean_label.i64"],
            dtypes=[types.DALIDataType.UINT8, types.DALIDataType.INT64],
            random_shuffle=True,
            name="reader",
        )
        jpeg, label = read
        decoded = fn.decoders.image_random_crop(
            jpeg, device="mixed" if on_gpu else "cpu", random_area=AREA, random_aspect_ratio=ASPECT
        )
        resized: Any = fn.resize(decoded, size=(work.size, work.size), interp_type=types.DALIInterpType.INTERP_LINEAR)
        return fn.flip(resized, horizontal=fn.random.coin_flip()), label

    pipeline = images()
    pipeline.build()
    loader = DALIGenericIterator(
        [pipeline], ["image", "label"], reader_name="reader", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )
    return lambda number: (outputs[0]["image"].permute(0, 3, 1, 2) for outputs in loader)


def _data_loader(dataset: torch.utils.data.Dataset[Any], work: Work) -> Epoch:
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        dataset,
        work.batch,
        shuffle=True,
        drop_last=True,
        num_workers=work.workers,
        persistent_workers=work.workers > 0,
        pin_memory=work.device == "cuda",
    )
    return lambda number: (images.to(work.device, non_blocking=True) for images, _ in loader)


def _torchvision_pil(work: Work) -> Epoch:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    crop = transforms.RandomResizedCrop(work.size, AREA, ASPECT)
    seen = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    return _data_loader(ImageFolder(work.originals, seen), work)


def _torchvision_v2(work: Work) -> Epoch:
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    seen = v2.Compose([v2.RandomResizedCrop(work.size, AREA, ASPECT, antialias=True), v2.RandomHorizontalFlip()])

    def read(path: str) -> torch.Tensor:
        return decode_jpeg(read_file(path), ImageReadMode.RGB)

    return _data_loader(ImageFolder(work.originals, seen, loader=read), work)


def _timm(work: Work) -> Epoch:
    """timm's training loader; its prefetcher, which also normalises, needs a GPU."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", work.originals),
        (3, work.size, work.size),
        work.batch,
        is_training=True,
        use_prefetcher=work.device == "cuda",
        scale=AREA,
        ratio=ASPECT,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=work.workers,
        device=torch.device(work.device),
    )
    return lambda number: (images for images, _ in loader)


def _webdataset(work: Work) -> Epoch:
    import webdataset
    from torchvision import transforms

    crop = transforms.RandomResizedCrop(work.size, AREA, ASPECT)
    seen = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    shards = sorted(str(path) for path in Path(work.shards["original"]).glob("train-*.tar"))
    workers = min(work.workers, len(shards))  # each reads shards of its own
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("pil")
    batches = dataset.to_tuple("jpg", "clean_label.i64").map_tuple(seen).batched(work.batch, partial=False)
    loader = webdataset.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return lambda number: (images.to(work.device, non_blocking=True) for images, _ in loader)


for _of in FORMS:
    _suffix = "" if _of == "original" else f", {_of}"
    _raw = {"ffcv": f"FFCV{_suffix}", "dali": f"DALI{_suffix}"}
    for _name, _backend in BACKENDS.items():
        _needs = (_backend.package,) if _backend.package else ()
        _against = _raw.get(_name, "torchvision, PIL")
        CONTENDERS.add(f"fastgen {_name}{_suffix}", Contender(partial(_ours, _name, _of), _needs, _of, "set", _against))
        if _name == "ffcv":
            CONTENDERS.add(_against, Contender(partial(_raw_ffcv, _of), _needs, _of, "set"))
        if _name == "dali" and FORMS[_of].encoding == "jpeg":  # DALI's readers read files
            CONTENDERS.add(_against, Contender(partial(_raw_dali, _of, 1), _needs, _of, "shards"))
            # As the dali backend has them on a CPU, to see what that alone does.
            CONTENDERS.add(
                f"{_against}, 2 threads a core", Contender(partial(_raw_dali, _of, 2), _needs, _of, "shards")
            )
CONTENDERS.add("torchvision, PIL", Contender(_torchvision_pil))
CONTENDERS.add("torchvision.io, v2", Contender(_torchvision_v2))
CONTENDERS.add("timm", Contender(_timm))
CONTENDERS.add("webdataset, PIL", Contender(_webdataset, ("webdataset",), reads="shards"))


def default_workers() -> int:
    return len(os.sched_getaffinity(0))
