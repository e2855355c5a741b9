"""Data for training segmentation: labelled scans, classes, patches and whole scans for `fit`."""

from __future__ import annotations

from kerasneuro.training.adapters import to_grain, to_tf_data
from kerasneuro.training.chain import Chain
from kerasneuro.training.class_table import ClassTable, LabelClass
from kerasneuro.training.labelled_dataset import LabelledDataset
from kerasneuro.training.labelled_scan import LabelledScan, Voxelwise, read_scan, standardise
from kerasneuro.training.pairs import Pair, find_pairs
from kerasneuro.training.patch_dataset import PatchDataset
from kerasneuro.training.segmentation_augment import Augmentation
from kerasneuro.training.tfrecords import read_tfrecords, unpack_tfrecords, write_tfrecords
from kerasneuro.training.torchio_augment import TorchioAugment
from kerasneuro.training.volume_cache import ScanStore
from kerasneuro.training.whole_dataset import WholeDataset

__all__ = [
    "Augmentation",
    "Chain",
    "ClassTable",
    "LabelClass",
    "LabelledDataset",
    "LabelledScan",
    "Pair",
    "PatchDataset",
    "ScanStore",
    "TorchioAugment",
    "Voxelwise",
    "WholeDataset",
    "find_pairs",
    "read_scan",
    "read_tfrecords",
    "standardise",
    "to_grain",
    "to_tf_data",
    "unpack_tfrecords",
    "write_tfrecords",
]
