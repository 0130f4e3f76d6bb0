"""The 1,797 handwritten digits that come with scikit-learn: data without a download."""

from __future__ import annotations

import numpy as np

# Not the experiment's seed: the bundled weights were trained on the training half, so a split
# that moved with a seed would score them on images they have seen.
SPLIT_SEED = 20180605
TRAIN_IMAGES = 898
CLASSES = tuple(str(digit) for digit in range(10))


def digits_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The training and the evaluation half, stratified by class and the same on every call.

    Returns training images (uint8 [898, 8, 8], 0 to 255), their labels (int64 [898], 0 to 9),
    evaluation images (uint8 [899, 8, 8]) and their labels (int64 [899]).
    """
    # Here and not above: scikit-learn takes long to import, and only this function needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train, evaluation = train_test_split(
        np.arange(len(labels)),
        train_size=TRAIN_IMAGES,
        test_size=len(labels) - TRAIN_IMAGES,
        random_state=SPLIT_SEED,
        stratify=labels,
    )
    return images[train], labels[train], images[evaluation], labels[evaluation]
