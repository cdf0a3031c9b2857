import math
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from reports.pareto import MAX_NAMED, Box, front, place_labels

NUMBER = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan])


@given(st.lists(st.tuples(NUMBER, NUMBER), max_size=12))
def test_front_contains_the_points_that_no_other_dominates(points):
    def dominates(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    finite = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    expected = {i for i in finite if not any(dominates(points[j], points[i]) for j in finite)}
    found = front([cost for cost, _ in points], [value for _, value in points])
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), min_size=1, max_size=25, unique=True))
def test_place_labels_keeps_labels_apart_and_inside(spots):
    best = front([x for x, _ in spots], [y for _, y in spots])
    room = Box(-20, -20, 320, 220)
    labels = dict(place_labels(spots, [(40.0, 10.0)] * len(spots), best, room))
    boxes = [label.box for label in labels.values()]
    assert all(room.contains(box) for box in boxes)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert not any(box.left < x < box.right and box.bottom < y < box.top for box in boxes for x, y in spots)
    assert len(spots) <= MAX_NAMED or set(labels) <= set(best)


def test_place_labels_prefers_the_upper_left_and_draws_a_line_to_a_far_label():
    room = Box(-100, -100, 100, 100)
    ((_, near),) = place_labels([(0, 0)], [(30, 10)], [0], room)
    assert (near.box.right, near.box.bottom, near.line) == (-5, 4, False)
    crowd = [(float(x), float(y)) for x in (-12, 0, 12) for y in (-12, 0, 12)]
    labels = dict(place_labels([(0, 0), *crowd[:4], *crowd[5:]], [(20, 5)] * 9, [0], room))
    assert labels[0].line
