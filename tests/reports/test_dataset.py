from reports.dataset import summarize


def image(name: str, split: str | None) -> dict:
    size = {"width": 4, "height": 3, "bytes": 9, "brightness": 100.0, "colour": 5.0}
    return {"path": f"can/{name}.jpg", "label": "can", "split": split, "issues": [], "broken": None, **size}


def test_pair_with_an_unused_image_does_not_cross_the_split():
    images = [image("a", "train"), image("b", "test"), image("c", None)]
    pairs = [{"rows": rows, "equal": True, "by": "pixels"} for rows in ([0, 1], [0, 2], [1, 2])]
    results = summarize({"classes": ["can"], "images": images, "pairs": pairs})
    assert (results["equal"], results["crossing"], results["crossing_by_pixels"]) == (3, 1, 1)
    assert results["leaked"] == 1.0
