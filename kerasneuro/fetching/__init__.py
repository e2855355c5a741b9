"""Find registered files on this computer or fetch them; nothing unverified is ever handed out."""

from kerasneuro.fetching.bundle import digest_weights, main_file, savedmodel_folder
from kerasneuro.fetching.cache import cache_directory, import_file
from kerasneuro.fetching.digest import digest_file, identify, verify
from kerasneuro.fetching.ensure import SOURCES, ensure, find_local
from kerasneuro.fetching.receive import Progress
from kerasneuro.fetching.remembered import recall_digest, remember_digest, state_of

__all__ = [
    "SOURCES",
    "Progress",
    "cache_directory",
    "digest_file",
    "digest_weights",
    "ensure",
    "find_local",
    "identify",
    "import_file",
    "main_file",
    "recall_digest",
    "remember_digest",
    "savedmodel_folder",
    "state_of",
    "verify",
]
