"""A small COCO file, as a dict, for the tests that read one."""

CATEGORIES = {"can": 7, "foil": 3, "bag": 9}


def annotation(number, image, category, bbox, **more):
    """One box of a COCO file."""
    return {"id": number, "image_id": image, "category_id": CATEGORIES[category], "bbox": bbox, "iscrowd": 0, **more}


def content(annotations, images=((1, "day/one.png", 100, 60), (2, "two.png", 60, 100))):
    """A COCO file with the given boxes; images: id, name, width, height."""
    return {
        "images": [dict(zip(("id", "file_name", "width", "height"), image, strict=True)) for image in images],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()],
    }


BOXES = [
    annotation(1, 2, "bag", [10, 10, 20, 30]),
    annotation(2, 1, "can", [0.0, 0.0, 40.0, 40.0]),
    annotation(3, 1, "foil", [60, 20, 40, 40]),
    annotation(4, 1, "can", [50, 0, 17, 5]),
    annotation(5, 1, "can", [0, 0, 90, 50], iscrowd=1),
    annotation(6, 2, "bag", [-8, 70, 30, 45]),
]
