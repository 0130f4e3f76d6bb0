"""Public home of `Progress`, which shows how far work is, and `Observer`, which takes losses."""

from subbyte.utils.observer import Observer
from subbyte.utils.progress import Progress, Silent

__all__ = ["Observer", "Progress", "Silent"]
