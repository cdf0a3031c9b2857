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
about = json.loads(session.get_modelmeta().custom_metadata_map["litesort"])
side, policy = about["preprocessing"]["size"], about["preprocessing"]["resize"]
threshold = about["exported"].get("threshold") or 0  # predictions of lower confidence are rejected
for name in sys.argv[2:]:
    photo = Image.open(name)
    shrink = next(n for n in (8, 4, 2, 1) if n == 1 or min(photo.size) // n >= 2 * side)
    photo.draft(None, (photo.width // shrink, photo.height // shrink))  # decodes a large JPEG smaller, as in training
    photo = ImageOps.exif_transpose(photo).convert("RGB")
    if policy == "crop":  # centre square; "squash" needs no step
        photo = ImageOps.fit(photo, (min(photo.size),) * 2)
    shape = [max(1, round(x * side / max(photo.size))) for x in photo.size] if policy == "pad" else [side, side]
    square = Image.new("RGB", (side, side), (128, 128, 128))  # "pad": the whole image on grey
    small = photo.resize(tuple(shape), Image.Resampling.BILINEAR)
    square.paste(small, ((side - shape[0]) // 2, (side - shape[1]) // 2))
    shares = session.run(None, {"images": np.asarray(square)[None]})[0][0]
    rejected = " rejected" if shares.max() < threshold else ""
    print(f"{name}: {about['classes'][shares.argmax()]} {shares.max():.4f}{rejected}")
