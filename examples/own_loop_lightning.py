"""Lightning over a baked set (pip install lightning): python examples/own_loop_lightning.py [RECIPE] [EPOCHS]"""

import sys

import lightning
import timm
import torch
from torch.nn.functional import cross_entropy

import fastgen

recipe, epochs = sys.argv[1:] or ("quickstart", "10")


class Memorise(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.data = fastgen.open(recipe, **{"data.labels.kind": "random"})
        example = next(iter(self.data.batches("test", batch_size=1))).images
        sizes = {"in_chans": example.shape[1], "img_size": example.shape[-1]}
        self.network = timm.create_model("fastgen_mlp_1x512", num_classes=len(self.data.class_names), **sizes)

    def train_dataloader(self):  # called in each epoch, as the trainer is told below; each process gets its part
        return self.data.batches("train", epoch=self.current_epoch, batch_size=64, device=self.device)

    def val_dataloader(self):
        return self.data.batches("test", batch_size=512, device=self.device)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch  # it is there already

    def training_step(self, batch):
        return cross_entropy(self.network(batch.images), batch.label)

    def validation_step(self, batch):
        hits = (self.network(batch.images).argmax(1) == batch.label).float().mean()
        self.log("test_top1_percent", 100 * hits, batch_size=len(batch.label))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


lightning.seed_everything(0, verbose=False)
trainer = lightning.Trainer(
    max_epochs=int(epochs), reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False, num_sanity_val_steps=0,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Memorise())
print(f"{recipe}, random labels, {epochs} epochs: test {trainer.callback_metrics['test_top1_percent']:.1f} %")
