"""Photographs of digits with boxes, on disk, for tests."""

from PIL import Image

from verydeep.localisation.made_up import digits_with_boxes

HEAD = "file,x0,y0,x1,y1,class,split\n"


def write_boxed(root, train=24, val=8, side=40):
    """Write photographs below `root` and return the CSV file of their boxes."""
    lines = []
    for split, count in (("train", train), ("val", val)):
        data = digits_with_boxes(count, side, split)
        for number, pixels in enumerate(data.dataset.photographs):
            file = root / split / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
            edges = ",".join(f"{edge:g}" for edge in data.boxes[number][0])
            category = "odd" if data.dataset.labels[number] % 2 else "even"
            lines.append(f"{split}/{file.name},{edges},{category},{split}\n")
    file = root / "boxes.csv"
    file.write_text(HEAD + "".join(lines))
    return file
