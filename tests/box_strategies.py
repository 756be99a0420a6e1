"""Boxes for tests: by hand, and drawn by hypothesis."""

import numpy as np
from hypothesis import strategies as st

edge = st.integers(-800, 4000).map(lambda eighths: eighths / 8)
"""Edges whose sums and differences are exact."""


def boxes(*rows):
    return np.array(rows, np.float64).reshape(-1, 4)


@st.composite
def some_boxes(draw, least=1, most=6):
    side = st.integers(0, 2400).map(lambda eighths: eighths / 8)
    corners = draw(st.lists(st.tuples(edge, edge, side, side), min_size=least, max_size=most))
    return np.array([[x, y, x + w, y + h] for x, y, w, h in corners], np.float64).reshape(-1, 4)
