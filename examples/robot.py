"""Classify images with an exported ONNX file; needs numpy, onnxruntime and Pillow only.

python robot.py model.onnx a.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

onnxruntime.set_default_logger_severity(3)  # hides warnings about the clean-up of int8 files
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
card = json.loads(session.get_modelmeta().custom_metadata_map["litesort"])
side, policy = card["preprocessing"]["size"], card["preprocessing"]["resize"]
threshold = card["exported"].get("threshold") or 0  # predictions of lower confidence are rejected
for name in sys.argv[2:]:
    try:
        image = Image.open(name)
        shrink = next(n for n in (8, 4, 2, 1) if n == 1 or min(image.size) // n >= 2 * side)
        # as in training, a large JPEG is decoded at reduced size
        image.draft(None, (image.width // shrink, image.height // shrink))
        image = ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:  # a missing or damaged image does not stop the robot
        print(f"{name}: {error}", file=sys.stderr)
        continue
    if policy == "crop":  # centre square; "squash" needs no step
        image = ImageOps.fit(image, (min(image.size),) * 2)
    shape = [max(1, round(x * side / max(image.size))) for x in image.size] if policy == "pad" else [side, side]
    square = Image.new("RGB", (side, side), (128, 128, 128))  # "pad": the whole image on grey
    small = image.resize(tuple(shape), Image.Resampling.BILINEAR)
    square.paste(small, ((side - shape[0]) // 2, (side - shape[1]) // 2))
    probabilities = session.run(None, {"images": np.asarray(square)[None]})[0][0]
    rejected = " rejected" if probabilities.max() < threshold else ""
    print(f"{name}: {card['classes'][probabilities.argmax()]} {probabilities.max():.4f}{rejected}")
