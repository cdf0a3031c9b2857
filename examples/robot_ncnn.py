"""Classify images with an ncnn model; needs numpy, ncnn and Pillow only.

python robot_ncnn.py model-fp32.ncnn.param a.jpg
"""

import json
import sys
from pathlib import Path

import ncnn
import numpy as np
from PIL import Image, ImageOps

path = Path(sys.argv[1])
card = json.loads(path.with_suffix(".json").read_text())
side, policy = card["preprocessing"]["size"], card["preprocessing"]["resize"]
threshold = card["exported"].get("threshold") or 0  # predictions of lower confidence are rejected
net = ncnn.Net()
if card["exported"]["precision"] == "fp32":  # otherwise ncnn uses half precision where the CPU supports it
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
    sys.exit(f"{path} cannot be loaded by ncnn {ncnn.__version__}")
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
    extractor = net.create_extractor()
    extractor.input("images", ncnn.Mat.from_pixels(np.array(square), ncnn.Mat.PixelType.PIXEL_RGB, side, side))
    probabilities = np.array(extractor.extract("probabilities")[1]).ravel()
    rejected = " rejected" if probabilities.max() < threshold else ""
    print(f"{name}: {card['classes'][probabilities.argmax()]} {probabilities.max():.4f}{rejected}")
