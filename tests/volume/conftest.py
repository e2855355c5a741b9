"""Settings of the generated tests of this room."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure, so no example has a time limit.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
