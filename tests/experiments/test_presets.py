"""A preset is the plan at another size; `ilsvrc` is the paper's."""

import pytest

from synthetic import refusal
from verydeep.experiments.plan import TRAININGS
from verydeep.experiments.presets import PRESETS, parsed, preset
from verydeep.recipe import Recipe

PAPER_SIZES = (224, 256, 288, 352, 384, 416, 512)
TINY = """
hold_out = 0.0
grid = 2
controls = false
[recipe]
crop = 32
[scales]
224 = 32
256 = 33
288 = 34
352 = 35
384 = 36
416 = 37
512 = 38
[schedules]
random = { epochs = 2 }
deeper = { epochs = 2 }
fine-tuning = { epochs = 1 }
jittering = { epochs = 1 }
"""


def test_ilsvrc_is_the_paper():
    paper = preset("ilsvrc")
    assert [paper.scale(pixels) for pixels in PAPER_SIZES] == list(PAPER_SIZES)
    assert (paper.hold_out, paper.grid, paper.controls) == (0.0, 5, False)
    a = paper.training(TRAININGS["A"], 0, None)
    assert (a.crop, a.width, a.fully_connected, a.batch, a.dropout) == (224, 1.0, 4096, 256, 0.5)
    assert (a.momentum, a.weight_decay, a.epochs, a.iterations, a.rate_drops) == (0.9, 5e-4, 74, 370_000, 3)
    assert (a.initial_rate(None), a.initialisation, a.std, a.drop_after) == (1e-2, "normal", 0.01, ())
    assert (a.bias_rate, a.rescaling) == (2.0, "bicubic")  # not in the paper; see docs/decisions.md
    d384 = paper.training(TRAININGS["D-384"], 0, "runs/d")
    assert (d384.initial_rate("D"), d384.training_scale) == (1e-3, (384,))
    assert paper.training(TRAININGS["D"], 0, "runs/a").initial_rate("A") == 1e-2
    submitted = paper.training(TRAININGS["D-jitter-fc"], 0, "runs/d-384")
    assert (submitted.training_scale, submitted.learns) == ((256, 512), ("fc6", "fc7", "fc8"))


def test_the_miniature_scales_in_steps_of_32_so_that_maps_have_the_papers_cells():
    small = preset("imagenette")
    crop = small.recipe["crop"]
    for pixels in (224, 256, 288):
        assert small.scale(pixels) - crop == pixels - 224
    assert [small.scale(pixels) for pixels in (352, 384, 416)] == [small.scale(384) + k for k in (-32, 0, 32)]
    assert all(small.scale(pixels) % 32 == 0 for pixels in PAPER_SIZES)


@pytest.mark.parametrize("name", PRESETS)
def test_every_training_of_a_preset_has_a_recipe(name):
    chosen = preset(name)
    for training in TRAININGS.values():
        recipe = chosen.training(training, 3, "a run" if training.start else None)
        assert isinstance(recipe, Recipe)
        assert recipe.net == training.net
        assert recipe.training_scale == tuple(chosen.scale(pixels) for pixels in training.scale)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "ilsvrc"])
def test_other_presets_hold_images_out_and_train_fine_tunings_and_controls_alike(name):
    chosen = preset(name)
    assert chosen.hold_out > 0
    assert chosen.controls
    a_longer = chosen.training(TRAININGS["A-longer"], 0, "a")
    d = chosen.training(TRAININGS["D"], 0, "a")
    assert a_longer.initial_rate("A") == d.initial_rate("A")
    assert (a_longer.epochs, a_longer.drop_after) == (d.epochs, d.drop_after)


def test_what_is_wrong_with_a_preset_is_named():
    assert parsed("tiny", TINY).scale(512) == 38
    assert "512" in refusal(parsed, "tiny", TINY.replace("512 = 38\n", ""))
    assert "order" in refusal(parsed, "tiny", TINY.replace("512 = 38", "512 = 33"))
    assert "352, 384, 416" in refusal(parsed, "tiny", TINY.replace("384 = 36", "384 = 35"))
    assert "hold_in" in refusal(parsed, "tiny", TINY.replace("hold_out", "hold_in"))
    assert "crop" in refusal(parsed, "tiny", TINY.replace("crop = 32", "crop = 33"))
    assert "epoch" in refusal(parsed, "tiny", TINY.replace("random = { epochs = 2 }", "random = { epoch = 2 }"))
    assert "ilsvrc, imagenette" in refusal(preset, "cifar")


def test_a_net_that_is_trained_further_sees_other_crops_and_so_does_its_control():
    chosen = preset("imagenette")
    seeds = {
        name: chosen.training(each, 1, "a run" if each.start else None).seed for name, each in TRAININGS.items()
    }
    for name, training in TRAININGS.items():
        before = TRAININGS[training.start] if training.start else None
        while before is not None:
            assert before.net != training.net or seeds[before.name] != seeds[name], (name, before.name)
            before = TRAININGS[before.start] if before.start else None
    assert seeds["D-jitter"] == seeds["D-384-longer"] == seeds["D-jitter-fc"]
    assert seeds["D-384"] == seeds["D-longer"]
    assert seeds["A"] == seeds["D"] == 1
