"""What must be known of a calibration on very few images."""

from __future__ import annotations

FEW = 32  # below which ranges depend on which images they happen to be


def note_on_few(images: int) -> tuple[str, ...]:
    """A sentence where so many calibration images are very few; else nothing."""
    if images >= FEW:
        return ()
    said = "1 calibration image is" if images == 1 else f"{images} calibration images are"
    return (
        f"{said} very few: another choice of images would give other ranges; give {FEW} at least, "
        "better 512",
    )
