"""CIFAR-100 in its twenty superclasses."""

from pipelines.sources.cifar100 import coarse

open_split, where = coarse.open_split, coarse.where
