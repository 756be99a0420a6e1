"""The library: train, resume, test and predict as functions, and wrong arguments."""

import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import verydeep
from synthetic import chunk, memory, pixels, png, refusal, tiff, write
from verydeep import distributed, reading
from verydeep import recipe as recipes
from verydeep.photographs.photograph import ImageError

Usage = namedtuple("Usage", "total used free")
RECIPE = verydeep.Recipe(
    net="A", crop=32, width=0.125, fully_connected=8, initialisation="glorot", batch=4, epochs=2, flip=False
)


@pytest.fixture
def run(folder, tmp_path):
    return verydeep.train(folder, RECIPE, out=tmp_path / "runs/a")


def test_a_run_has_its_curves_and_its_net(run, folder, tmp_path):
    assert (run.path, run.recipe, run.ended) == (tmp_path / "runs/a", RECIPE, "limit of epochs")
    assert [epoch.epoch for epoch in run.epochs] == [1, 2]
    assert all(epoch.rate == run.start.rate == 0.01 for epoch in run.epochs)
    assert all(0 <= epoch.validation_error <= 1 for epoch in run.epochs)
    assert "2 epochs" in str(run)
    net = run.net()
    assert net.card.provenance["validation_error"] == run.epochs[-1].validation_error
    assert (net.card.flip, net.card.training_scale) == (False, (64, 64))
    assert verydeep.read_run(run.path) == run
    assert verydeep.train(folder, RECIPE, out=run.path) == run, "it has ended"
    assert run.best == min(run.epochs, key=lambda epoch: epoch.validation_error)


def test_a_run_is_resumed_by_its_directory(run, folder, tmp_path):
    whole = verydeep.train(folder, recipes.changed(RECIPE, {"epochs": 3}), out=tmp_path / "runs/whole")
    assert verydeep.resume(run) == run
    longer = verydeep.resume(run, epochs=3)
    assert [epoch.validation_loss for epoch in longer.epochs] == [epoch.validation_loss for epoch in whole.epochs]
    for name in ("weights.safetensors", "recipe.toml"):
        assert (longer.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert longer.best.epoch == whole.best.epoch
    assert "iterations is 1" in refusal(verydeep.resume, run, iterations=1)


def test_a_run_on_a_data_set_of_ones_own_is_resumed_with_it(tmp_path):
    sets = {"data": memory(), "validation": memory(6)}
    run = verydeep.train(sets["data"], RECIPE, out=tmp_path / "a", validation=sets["validation"])
    assert "pass it with --data" in refusal(verydeep.resume, run)
    assert len(verydeep.resume(run, epochs=3, **sets).epochs) == 3
    assert "holds a run on other data" in refusal(verydeep.resume, run, data=memory(8), validation=memory(6))


def test_python_and_the_command_line_give_the_same_number(run, folder):
    """Both take the test scale and the use of mirror images from the net's card."""
    (by_file,) = verydeep.test(run.path, folder)
    (by_net,) = verydeep.test(run.net(), folder)
    assert (by_file.top1, by_file.top5, by_file.protocols) == (by_net.top1, by_net.top5, by_net.protocols)
    assert by_file.protocols == ("dense, Q = 64, no mirror images",)
    dataset = verydeep.open_dataset(folder, "val")
    matrix = verydeep.posteriors(run.net(), dataset)
    assert by_file.top1.wrong == (matrix.argmax(1) != dataset.labels).sum()
    assert "top-1 error" in str(by_file)


def test_several_nets_are_tested_each_and_together(run, folder, tmp_path):
    other = verydeep.train(folder, RECIPE, out=tmp_path / "runs/b", validation=None)
    results = verydeep.test([run.path, other.net()], folder, scales=[32, 40], method="both")
    assert [result.nets for result in results] == [("A",), ("A",), ("A", "A")]
    assert "runs/a is given twice" in refusal(verydeep.test, [run.path, run.path], folder)
    net = run.net()
    assert "given twice" in refusal(verydeep.test, [net, net], folder)


def test_a_run_is_taken_wherever_the_path_of_one_is(run, folder):
    assert verydeep.load(run).classes == 2
    assert verydeep.test(run, folder) == verydeep.test(run.path, folder)
    assert verydeep.predict(run, [folder / "val/cat/c.png"])[0].classes
    assert verydeep.train(folder, RECIPE, out=run) == run


def test_shared_memory_that_is_too_small_is_one_line_before_a_training_starts(
    folder, tmp_path, monkeypatch, capsys
):
    """It is enough for the mini-batches of training and of validation, or there are fewer workers."""
    monkeypatch.setattr(reading, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(reading.shutil, "disk_usage", lambda path: Usage(2**26, 2**26 - 50_000, 50_000))
    message = refusal(verydeep.train, folder, RECIPE, out=tmp_path / "a", workers=4)
    # Four training images and two of validation, of 32 x 32: 18,432 bytes, twice for each worker, and two more.
    assert "4 workers need 1 MiB of shared memory for their mini-batches of 1 MiB" in message
    assert "--shm-size=65m), use --workers 0, or use a smaller mini-batch" in message
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(distributed, "cores", lambda: 16)
    assert verydeep.train(folder, RECIPE, out=tmp_path / "a").ended
    said = capsys.readouterr().err
    assert said.count("8 workers need 1 MiB") == 1
    assert "going on with 0" in said
    assert "0 workers" in said


def test_other_classes_in_validation_are_refused_before_anything_is_trained(tmp_path):
    others = replace(memory(6), name="others", classes=("b", "a"))
    said = refusal(verydeep.train, memory(), RECIPE, out=tmp_path / "a", validation=others)
    assert "they first differ at position 0" in said
    nothing = replace(memory(6), photographs=(), labels=np.zeros(0, np.int64))
    assert "has no photographs" in refusal(
        verydeep.train, memory(), RECIPE, out=tmp_path / "a", validation=nothing
    )
    assert not (tmp_path / "a").exists()


def lose_start(run):
    (run.path / "start.json").unlink()


def make_a_run_of_the_first_version(run):
    """The first version wrote the learning rate into the recipe, and had no start.json."""
    lose_start(run)
    text = (run.path / "recipe.toml").read_text()
    (run.path / "recipe.toml").write_text(text.replace("# learning_rate =", f"learning_rate = {run.start.rate}"))


@pytest.mark.parametrize("change", [lose_start, make_a_run_of_the_first_version])
def test_a_run_without_a_recorded_start_goes_on_at_its_own_rate(run, folder, tmp_path, change):
    recipe = recipes.changed(RECIPE, {"start_from": str(run.path)})
    tuned = verydeep.train(folder, recipe, out=tmp_path / "b")
    assert tuned.start.rate == 1e-3
    change(tuned)
    assert verydeep.read_run(tuned).start.rate == 1e-3
    assert verydeep.train(folder, recipe, out=tuned).ended == "limit of epochs"
    given = recipes.changed(recipe, {"learning_rate": 1e-3})
    assert verydeep.train(folder, given, out=tuned).ended, "the rate of the rule may also be given explicitly"
    other = recipes.changed(recipe, {"learning_rate": 1e-2})
    assert "learning_rate: 0.01" in refusal(verydeep.train, folder, other, out=tuned)


def test_a_run_goes_on_elsewhere_with_its_own_recipe_when_its_start_is_gone(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tuned = verydeep.train(folder, recipes.changed(RECIPE, {"start_from": "runs/a"}), out="b")
    shutil.move("b", "moved")
    shutil.rmtree("runs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = verydeep.train(folder, verydeep.read_run("../moved").recipe, out="../moved")
    assert again.epochs == tuned.epochs
    other = recipes.changed(RECIPE, {"start_from": "runs/x"})
    assert "start_from: runs/x, not found (there: runs/a, SHA-256" in refusal(
        verydeep.train, folder, other, out="../moved"
    )


def test_a_damaged_start_is_said_in_a_sentence(run, folder):
    for text in ("{", '{"path": null, "weights": null, "configuration": null, "rate": "x"}'):
        (run.path / "start.json").write_text(text)
        assert "start.json" in refusal(verydeep.train, folder, RECIPE, out=run)


def test_a_run_of_a_version_that_scaled_s_by_the_crop_goes_on_by_the_same_command(folder, tmp_path):
    """If S was not given, it was 256 crop / 224: 37 for a crop of 32."""
    earlier = recipes.changed(RECIPE, {"training_scale": (37,), "epochs": 1})
    out = verydeep.train(folder, earlier, out=tmp_path / "a")
    same = recipes.changed(RECIPE, {"epochs": 1})
    assert same.scales == (64, 64)
    assert verydeep.train(folder, same, out=out).recipe.scales == (37, 37)
    assert verydeep.train(folder, verydeep.Recipe(**RECIPE.model_dump(exclude_unset=True)), out=tmp_path / "b")
    for scale in (37, 40):
        other = recipes.changed(RECIPE, {"training_scale": (scale,)})
        assert f"training_scale: ({scale},)" in refusal(verydeep.train, folder, other, out=tmp_path / "b")
    assert "training_scale: (64,)" in refusal(
        verydeep.train, folder, recipes.changed(same, {"training_scale": (64,)}), out=out
    )


def test_curves_are_those_of_the_last_training(run, folder):
    """Without checkpoint and weights, the net is trained again and its log continues."""
    (run.path / "checkpoint.pt").unlink()
    (run.path / "weights.safetensors").unlink()
    assert "holds best.safetensors but no checkpoint.pt" in refusal(verydeep.train, folder, RECIPE, out=run)
    (run.path / "best.safetensors").unlink()
    shorter = recipes.changed(RECIPE, {"epochs": 1})
    again = verydeep.train(folder, shorter, out=run)
    assert [epoch.epoch for epoch in again.epochs] == [1]
    lines = (run.path / "log.jsonl").read_text().splitlines()
    (run.path / "log.jsonl").write_text("\n".join(line for line in lines if "reason" not in line) + "\n")
    assert verydeep.read_run(run).ended == ""
    assert verydeep.train(folder, shorter, out=run).ended == "limit of epochs"


def test_data_sets_may_be_ones_own(tmp_path):
    run = verydeep.train(memory(), RECIPE, out=tmp_path / "a", validation=memory(6))
    (result,) = verydeep.test(run.path, memory(6))
    assert result.top1.images == 6
    assert "pass a validation set" in refusal(verydeep.train, memory(), RECIPE, out=tmp_path / "b")


def test_photographs_are_classified_from_files_images_and_arrays(run, folder):
    path = folder / "val" / "cat" / "c.png"
    image = Image.open(path)
    by_path, by_image, by_array = verydeep.predict(run.path, [str(path), image, np.asarray(image)], top=2)
    assert (by_path.image, by_image.image, by_array.image) == (str(path), "image 1", "image 2")
    assert by_path.classes == by_image.classes == by_array.classes
    assert by_path.posteriors == by_image.posteriors == by_array.posteriors
    assert set(by_path.classes) == {"cat", "Dog"}
    assert sum(by_path.posteriors) == pytest.approx(1)
    assert by_path.posteriors[0] >= by_path.posteriors[1]
    assert str(by_path).startswith(f"{path}: {by_path.classes[0]} ")
    net = run.net().train()
    assert verydeep.predict(net, [path], scales=[64], top=1)[0].classes == by_path.classes[:1]
    assert net.training


def test_an_image_taken_upside_down_is_put_upright(run, tmp_path):
    image = Image.open(write(tmp_path / "a.png", 3, 40, 60))
    turned = image.rotate(180)
    exif = Image.Exif()
    exif[0x0112] = 3
    turned.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        upright, by_file = verydeep.predict(run.path, [image, opened])
    assert upright.posteriors == by_file.posteriors


def test_an_unreadable_image_is_named(run, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        verydeep.predict(run.path, [tmp_path / "gone.jpg"])


def test_predictions_are_the_posteriors_of_testing_in_the_order_of_the_images(run, folder):
    for number, size in enumerate([(40, 60), (90, 70), (33, 33), (40, 60), (60, 40)]):
        write(folder / f"val/cat/{number}.png", number, *size)
    dataset = verydeep.open_dataset(folder, "val")
    for scales, method in ([40, 48], "both"), ([56], "centre-crop"), (None, "windows"):
        matrix = verydeep.posteriors(run.net(), dataset, scales, method)
        found = verydeep.predict(run, dataset.photographs, scales, method)
        assert [each.image for each in found] == list(map(str, dataset.photographs))
        for each, row in zip(found, matrix, strict=True):
            named = dict(zip(each.classes, each.posteriors, strict=True))
            assert [named[name] for name in dataset.classes] == pytest.approx(row.tolist(), abs=1e-6)
            assert list(each.posteriors) == sorted(each.posteriors, reverse=True)
        assert verydeep.predict(run, dataset.photographs, scales, method, workers=1) == found


def test_what_cannot_be_read_is_left_out_if_so_wanted_and_named(run, folder, capsys):
    """A missing file, and one whose pixels end early, which only decoding shows."""
    cut = write(folder / "cut.jpg", 1, 60, 60)
    cut.write_bytes(cut.read_bytes()[:-1000])
    good = folder / "val/cat/c.png"
    images = [folder / "gone.jpg", cut, good, np.zeros((9, 9, 3), np.uint8)]
    for bad in images[:2]:
        with pytest.raises(ImageError):
            verydeep.predict(run, [good, bad])
    found = verydeep.predict(run, images, skip_unreadable=True)
    assert [each.image for each in found] == [str(good), "image 3"]
    assert found[0] == verydeep.predict(run, [good])[0]
    said = capsys.readouterr().err
    for line in ("gone.jpg: no such file", "cut.jpg: ends early"):
        assert line in said
    assert verydeep.predict(run, images[:1], skip_unreadable=True) == verydeep.predict(run, []) == []


def test_val_alone_can_be_tested_on_and_its_classes_are_compared_with_the_nets(run, folder):
    expected = verydeep.test(run.path, folder)
    shutil.rmtree(folder / "train")
    assert verydeep.test(run.path, folder) == expected
    (folder / "val/cat").rename(folder / "val/cow")
    assert '"cow"' in refusal(verydeep.test, run.path, folder)


def test_a_strip_is_trained_on_at_every_scale_but_refused_where_it_would_be_rescaled_whole(
    folder, tmp_path, capsys
):
    """1 x 600 pixels become 157 million at S = 512. A crop needs hardly any of them."""
    write(folder / "train/cat/divider.png", 0, 600, 1)
    large = recipes.changed(RECIPE, {"training_scale": (512, 512), "epochs": 1})
    assert verydeep.train(folder, large, out=tmp_path / "large").ended
    write(folder / "val/cat/divider.png", 0, 600, 1)
    message = refusal(verydeep.train, folder, large, out=tmp_path / "refused")
    assert "val/cat/divider.png: 1 x 600 pixels would become 512 x 307200" in message
    assert "--skip-unreadable" in message
    assert not (tmp_path / "refused/log.jsonl").exists()
    assert verydeep.train(folder, large, out=tmp_path / "refused", skip_unreadable=True).ended
    (small,) = verydeep.test(tmp_path / "large", folder, scales=[40])
    assert small.top1.images == 3
    assert "divider.png" in refusal(verydeep.test, tmp_path / "large", folder, scales=[40, 512])
    capsys.readouterr()
    (left,) = verydeep.test(
        tmp_path / "large", folder, scales=[40, 512], method="centre-crop", skip_unreadable=True
    )
    assert left.top1.images == 2
    assert "left out: " in capsys.readouterr().err


def test_a_folder_of_classes_is_split_once_for_training_and_testing(folder, tmp_path, capsys):
    for path in (*folder.glob("train/*/*"), *folder.glob("val/*/*")):
        target = tmp_path / "flowers" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    run = verydeep.train(tmp_path / "flowers", RECIPE, out=tmp_path / "a")
    said = capsys.readouterr().err
    assert "flowers/train: 4 of 6 images; those for validation are listed in" in said
    assert "split.json" in said
    (result,) = verydeep.test(run, tmp_path / "flowers")
    assert result.top1.images == 2
    train, val = verydeep.inspect(tmp_path / "flowers")
    assert (train.counts, val.counts) == ({"Dog": 2, "cat": 2}, {"Dog": 1, "cat": 1})


def test_images_in_deeper_folders_are_counted_where_they_are_left_out(folder, tmp_path, capsys):
    for number in range(20):
        write(folder / f"train/cat/more/{number}.png")
    verydeep.train(folder, RECIPE, out=tmp_path / "a")
    said = capsys.readouterr().err
    assert "pets/train: files or folders left out: 1 (images in them: 20; " in said
    train, _ = verydeep.inspect(folder)
    assert train.others == (f"{folder}/train/cat/more (images below it: 20)",)


def test_inspection_names_what_is_suspicious_and_what_train_and_val_share(folder):
    data = write(folder / "train/cat/whole.jpg", 3, 90, 60).read_bytes()
    (folder / "train/cat/cut.jpg").write_bytes(data[: len(data) * 6 // 10] + b"\xff\xd9")
    write(folder / "train/Dog/strip.png", 0, 3, 90)
    shutil.copy(folder / "train/cat/b.png", folder / "val/Dog/same.png")
    train, val = verydeep.inspect(folder)
    cut, strip = train.suspicious
    assert cut.startswith(f"{folder}/train/cat/cut.jpg: ")
    assert strip.startswith(f"{folder}/train/Dog/strip.png: 90 x 3 pixels")
    assert val.also_in_train == (f"{folder}/val/Dog/same.png: has the same content as {folder}/train/cat/b.png",)
    assert train.also_in_train == train.unreadable == val.suspicious == ()


def test_an_image_of_pillows_is_predicted_as_its_file_is(run, tmp_path):
    path = png(
        tmp_path / "turned.png", (9, 6), 8, 2, [row.tobytes() for row in pixels(3)], after=chunk(b"eXIf", tiff(6))
    )
    with Image.open(path) as opened:
        by_file, by_pillow = verydeep.predict(run.path, [path, opened])
    assert by_file.posteriors == by_pillow.posteriors


def test_a_data_set_has_a_length_and_is_indexed_and_iterated(folder):
    dataset = verydeep.open_dataset(folder, "train")
    assert len(dataset) == 4
    image, label = dataset[1]
    assert (image.dtype, image.ndim, dataset.classes[label]) == (np.uint8, 3, "Dog")
    assert [example.label for example in dataset] == dataset.labels.tolist()
    assert np.array_equal(dataset[-1].image, dataset[3].image)
    with pytest.raises(IndexError):
        dataset[4]
    batches = torch.utils.data.DataLoader(dataset, batch_size=2)
    assert next(iter(batches)).image.shape[0] == 2


def test_the_public_names_are_listed():
    assert set(dir(verydeep)) >= {"ConvNet", "Recipe", "train", "test", "predict", "load", "save", "initialise"}
    assert all(getattr(verydeep, name) is not None for name in dir(verydeep))
    assert verydeep.__version__.count(".") == 2


WRONG = """
import numpy as np, torch, verydeep
from PIL import Image
dataset = verydeep.open_dataset("digits", "val")
net = verydeep.ConvNet("A", classes=10, crop=32, width=0.1, fully_connected=8)
recipe = verydeep.Recipe(crop=32, width=0.1)
for call, words in [
    (lambda: verydeep.Recipe(crop=50), "crop is 50"),
    (lambda: verydeep.Recipe(bath=3), "no field 'bath'"),
    (lambda: verydeep.Recipe(net=5), "net is 5"),
    (lambda: verydeep.Architecture("A", crop="64"), "crop is '64'"),
    (lambda: verydeep.Architecture("A", width="1"), "width is '1'"),
    (lambda: verydeep.Architecture(3), "configuration 3"),
    (lambda: verydeep.ConvNet("A", classes=10.0), "classes is 10.0"),
    (lambda: verydeep.ConvNet("A", dropout=1), "dropout is 1"),
    (lambda: net.features(torch.zeros(1, 3, 32, 32), 5), "layers is 5"),
    (lambda: verydeep.initialise(net, "xavier"), "'xavier'"),
    (lambda: verydeep.posteriors(net, dataset, 64), "scales is 64; pass a list"),
    (lambda: verydeep.posteriors(net, dataset, "64"), "scales is '64'"),
    (lambda: verydeep.posteriors(net, dataset, [64.5]), "64.5"),
    (lambda: verydeep.posteriors(net, dataset, []), "at least one"),
    (lambda: verydeep.posteriors(net, dataset, method="sparse"), "'sparse'"),
    (lambda: verydeep.posteriors(torch.nn.Linear(1, 1), dataset), "pass a verydeep.ConvNet"),
    (lambda: verydeep.posteriors(net, "digits"), "verydeep.open_dataset"),
    (lambda: verydeep.test(net, "digits", scales=64), "scales is 64"),
    (lambda: verydeep.test(net, "digits", method=None), "method is None"),
    (lambda: verydeep.test([], "digits"), "no net to test"),
    (lambda: verydeep.test(5, "digits"), "the net is of type int"),
    (lambda: verydeep.test({net}, "digits"), "the net is of type set"),
    (lambda: verydeep.test(net, 5), "data is of type int"),
    (lambda: verydeep.test(net, "digits", method=["dense"]), "method is ['dense']"),
    (lambda: verydeep.test(net, "digits", scales=np.array([64])), "scales is array([64])"),
    (lambda: verydeep.test(net, "digits", scales=[]), "at least one"),
    (lambda: verydeep.train("digits", recipe, out=None), "out is None"),
    (lambda: verydeep.read_run(None), "the run is None"),
    (lambda: verydeep.save(net, None), "the path is None"),
    (lambda: verydeep.posteriors(net, dataset, ranks=3), "ranks and computing are 3"),
    (lambda: setattr(net, "card", "x"), "the card is 'x'"),
    (lambda: verydeep.ConvNet("A", classes=np.array([1, 2])), "classes is array"),
    (lambda: verydeep.initialise(net, std=-1), "std is -1"),
    (lambda: verydeep.Card(net.architecture, training_scale=(64, 32)), "training_scale is (64, 32)"),
    (lambda: verydeep.Card(net.architecture, class_names="abcdefghij"), "class_names is"),
    (lambda: verydeep.Card(net.architecture, rescaling="lanczos"), "'lanczos'; choose one of bilinear, bicubic"),
    (lambda: verydeep.Recipe(crop=True), "crop is True"),
    (lambda: verydeep.test(net, "digits", precision="fp64"), "'fp64'"),
    (lambda: verydeep.test(net, "digits", device="tpu"), "'tpu'"),
    (lambda: verydeep.predict(net, "tom.jpg"), "pass a list of files"),
    (lambda: verydeep.predict(net, [5]), "an image is of type int"),
    (lambda: verydeep.predict(net, [np.zeros((40, 40))]), "float64 and shape (40, 40)"),
    (lambda: verydeep.predict(net, [Image.new("RGB", (40, 40))], scales=[31]), "31 pixels"),
    (lambda: verydeep.predict(net, [Image.new("RGB", (40, 40))], top=0), "top is 0"),
    (lambda: verydeep.train("digits", {"net": "A"}, out="a"), "pass a verydeep.Recipe"),
    (lambda: verydeep.train("digits", recipe, out="a", workers=-1), "workers is -1"),
    (lambda: verydeep.train("digits", recipe, out="a", micro_batch=1.5), "micro_batch is 1.5"),
    (lambda: verydeep.train("digits", recipe, out="a", preset="huge"), "'huge'; choose one of small, paper"),
    (lambda: verydeep.load(5), "5"),
    (lambda: verydeep.open_dataset("digits", "test"), "'test'"),
]:
    try:
        call()
    except verydeep.UserError as error:
        assert words in str(error) and "\\n" not in str(error), (words, str(error))
    else:
        raise AssertionError(words)
"""


def test_every_wrong_argument_is_refused_in_a_sentence(tmp_path):
    """In a separate process, since the type checks that are active in tests would raise first."""
    done = subprocess.run([sys.executable, "-c", WRONG], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
