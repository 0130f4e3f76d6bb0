"""Public home of `Progress`, the protocol of what shows how far work is."""

from subbyte.utils.progress import Progress, Silent

__all__ = ["Progress", "Silent"]
