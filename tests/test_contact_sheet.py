"""What is written under the images of a sheet."""

import numpy as np

from fastgen.sets import contact_sheet

CELL = 96


def drawn(label: str, other: str = "") -> np.ndarray:
    """The two lines under the first of two images, and what is under the second."""
    black = np.zeros((8, 8, 3), np.uint8)
    return np.asarray(contact_sheet([(black, label, other, False), (black, "", "", False)]))[CELL - 1 : CELL + 24]


def test_letters_beyond_ascii_are_drawn():
    """And not as the box that stands for all that a font has not."""
    pictures = [drawn(letter)[:, :CELL].tobytes() for letter in "ÄÖßéžЖΩ"]
    assert len(set(pictures)) == len(pictures)


def test_a_long_text_ends_with_its_cell():
    long = drawn("W" * 40, "W" * 40)
    assert (long[:, :CELL] < 255).any() and np.array_equal(long[:, CELL:], drawn("")[:, CELL:])
