import math

from hypothesis import given
from hypothesis import strategies as st

from reports.pareto import front

NUMBER = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan])


@given(st.lists(st.tuples(NUMBER, NUMBER), max_size=12))
def test_the_front_is_what_no_other_point_beats(points):
    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    real = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    expected = {i for i in real if not any(beats(points[j], points[i]) for j in real)}
    found = front([cost for cost, _ in points], [value for _, value in points])
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)
