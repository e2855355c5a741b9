"""Data for training segmentation: labelled scans, classes, patches and whole scans for `fit`."""

from __future__ import annotations

from kerasneuro.training.changes.chain import Chain
from kerasneuro.training.changes.labelled_patches import Augmentation
from kerasneuro.training.changes.torchio import TorchioAugment
from kerasneuro.training.scans.adapters import to_grain, to_tf_data
from kerasneuro.training.scans.class_table import ClassTable, LabelClass
from kerasneuro.training.scans.labelled_dataset import LabelledDataset
from kerasneuro.training.scans.labelled_scan import LabelledScan, Voxelwise, read_scan, standardise
from kerasneuro.training.scans.pairs import Pair, find_pairs
from kerasneuro.training.scans.patch_dataset import PatchDataset
from kerasneuro.training.scans.tfrecords import read_tfrecords, unpack_tfrecords, write_tfrecords
from kerasneuro.training.scans.volume_cache import ScanStore
from kerasneuro.training.scans.whole_dataset import WholeDataset

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
