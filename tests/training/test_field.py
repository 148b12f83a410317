"""The distance field against SciPy's distances, cell by cell."""

import numpy as np
from scipy import ndimage

from reunet.training.data.field import distance_field


def test_it_is_the_distance_to_the_next_pixel_outside_of_the_cell() -> None:
    rows, columns = np.mgrid[:60, :60]
    truth = np.zeros((60, 60), np.int32)
    for cell, (row, column) in enumerate([(20, 20), (20, 38), (45, 5)], 1):
        truth[(rows - row) ** 2 + (columns - column) ** 2 < 121] = cell
    field = distance_field(truth)
    for cell in range(1, 4):
        # a cell cut by the frame goes on beyond it
        distance = ndimage.distance_transform_edt(np.pad(truth == cell, 30, mode="edge"))
        expected = distance[30:-30, 30:-30][truth == cell]
        np.testing.assert_allclose(field[truth == cell], expected / expected.max(), atol=1e-5)
    assert not field[truth == 0].any()


def test_a_cell_that_fills_the_picture_and_a_picture_without_one() -> None:
    assert (distance_field(np.ones((20, 30), np.int32)) == 1).all()
    assert not distance_field(np.zeros((20, 30), np.int32)).any()
    assert distance_field(np.ones((20, 30), np.int32)).dtype == np.float32
