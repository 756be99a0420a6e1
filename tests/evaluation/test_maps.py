"""Score maps over a photograph: their numbers, their positions, and their picture."""

import numpy as np
import torch
from PIL import Image

import verydeep
from synthetic import refusal
from verydeep.evaluation.maps import ClassMap, class_maps, coloured, draw_maps, over_photograph
from verydeep.photographs.rescaling import rescale


def test_a_cell_has_the_posteriors_of_its_scores(net, photographs, softmax):
    path = photographs.photographs[3]
    small, large = class_maps(net, path, [40, 96])
    for one, scale in ((small, 40), (large, 96)):
        pixels = rescale(path, scale)
        np.testing.assert_array_equal(one.pixels, pixels)
        with torch.no_grad():
            scores = net.score_map(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()
        np.testing.assert_allclose(one.cells, softmax(scores.transpose(1, 2, 0)).transpose(2, 0, 1), atol=1e-5)
        np.testing.assert_allclose(one.posteriors, softmax(scores.mean((1, 2))), atol=1e-5)
    assert large.cells.shape == (7, 4, 3)
    assert [each.scale for each in class_maps(net, path)] == [64, 128]  # crop + 32 = 64 if S is not known
    assert "31 pixels" in refusal(class_maps, net, path, [31])


def test_a_pixel_has_the_colour_of_the_window_whose_centre_is_nearest():
    one = ClassMap(
        96, np.zeros((96, 128, 3), np.uint8), 64, np.zeros((1, 2, 3), np.float32), np.ones(1, np.float32)
    )
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = over_photograph(one, values, (256, 192))
    for y, x in np.ndindex(192, 256):
        # Windows of 64 begin every 32 pixels: their centres are at 32, 64, 96 across, and at 32, 64 down.
        across, down = (
            np.abs(np.array(centres) - (at + 0.5) / 2) for centres, at in (((32, 64, 96), x), ((32, 64), y))
        )
        assert found[y, x] == values[down.argmin(), across.argmin()]


def test_colours_become_brighter():
    brightness = coloured(np.linspace(0, 1, 50)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) > 0).all()


def test_the_picture_shows_the_most_likely_classes_at_each_scale(net, photographs, tmp_path):
    maps = verydeep.class_maps(net, photographs.photographs[3], [40, 96])
    shown = verydeep.draw_maps(maps, net.card.names, tmp_path / "map.png", top=2)
    mean = (maps[0].posteriors + maps[1].posteriors) / 2
    assert shown == [net.card.names[k] for k in np.argsort(-mean)[:2]]
    with Image.open(tmp_path / "map.png") as picture:
        two = np.asarray(picture.convert("RGB"))
    draw_maps(maps, net.card.names, tmp_path / "map.png", top=3)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > two.shape[1]
        assert picture.height == two.shape[0]
    assert two[-1, -1].tolist() == [255, 255, 255]
    assert "must end in .png" in refusal(draw_maps, maps, net.card.names, tmp_path / "map.jpg")
    assert "top is 0" in refusal(draw_maps, maps, net.card.names, tmp_path / "map.png", top=0)
