"""Surveys of data sets: statistics, when they are kept, and unreadable photographs."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from synthetic import memory, pixels, refusal, touch, write
from verydeep.datasets import survey as surveys
from verydeep.datasets.dataset import Dataset, fingerprint, open_dataset
from verydeep.datasets.survey import Survey, leave_out_unreadable, principal_components, survey, unreadable_at
from verydeep.photographs.photograph import ImageError, decode, examine


def same(one: Survey, other: Survey):
    return (
        one.unreadable == other.unreadable
        and one.suspicious == other.suspicious
        and np.array_equal(one.sizes, other.sizes)
        and one.sizes.dtype == other.sizes.dtype
        and np.array_equal(one.mean, other.mean)
        and np.array_equal(one.covariance, other.covariance)
    )


def kept(cache):
    return sorted((cache / "verydeep/surveys").glob("*"))


@pytest.fixture
def readings(monkeypatch):
    """The photographs decoded so far, in order."""
    seen = []

    def counting(photograph, shortest=None):
        seen.append(photograph)
        return examine(photograph, shortest)

    monkeypatch.setattr(surveys, "examine", counting)
    return seen


def test_a_survey_does_not_need_a_home(monkeypatch):
    monkeypatch.setattr(surveys, "cache_folder", lambda: None)
    assert fingerprint(memory(3)) != fingerprint(memory(4))
    assert same(survey(memory(3), progress=False), survey(memory(3), progress=False))


def test_survey_of_all_pixels():
    dataset = memory()
    found = survey(dataset, progress=False)
    colours = np.concatenate([image.reshape(-1, 3) for image in dataset.photographs]).astype(np.float64)
    np.testing.assert_allclose(found.mean, colours.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(colours.T, bias=True), rtol=1e-9)
    assert found.mean.dtype == found.covariance.dtype == np.float64
    assert found.sizes.dtype == np.int32
    assert found.sizes.tolist() == [[7, 5]] * len(dataset)
    assert found.unreadable == ()


def test_survey_counts_each_photograph_equally_whatever_its_size(tmp_path):
    paths = (tmp_path / "small.png", tmp_path / "large.png")
    for path, size, level in zip(paths, ((2, 2), (40, 30)), (10, 30), strict=True):
        Image.new("RGB", size, (level, level, level)).save(path)
    found = survey(Dataset("d", ("a",), paths, np.zeros(2, np.int64)), progress=False)
    np.testing.assert_allclose(found.mean, [20, 20, 20])
    np.testing.assert_allclose(found.covariance, np.full((3, 3), 100))


@pytest.mark.parametrize("size", [(300, 700), (256, 257), (512, 100)])
def test_survey_takes_a_regular_grid_of_large_photographs(size):
    image = pixels(1, *size)
    found = survey(Dataset("d", ("a",), (image,), np.zeros(1, np.int64)), progress=False)
    down, across = (-(-side // 256) for side in size)
    grid = image[::down, ::across].reshape(-1, 3).astype(np.float64)
    assert len(grid) <= 256 * 256
    np.testing.assert_allclose(found.mean, grid.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(grid.T, bias=True), rtol=1e-9)
    assert found.sizes.tolist() == [[size[1], size[0]]]


def test_survey_gives_full_sizes_as_a_person_sees_them(folder):
    turned = Image.Exif()
    turned[0x0112] = 6
    write(folder / "train/cat/a.JPG", 1, 60, 90, exif=turned)
    write(folder / "train/cat/b.png", 1, 1100, 1300)
    write(folder / "train/cat/c.jpg", 1, 1100, 1300)  # may be decoded at a reduced scale
    found = survey(open_dataset(folder, "train"), progress=False)
    assert found.sizes.tolist() == [[9, 6], [9, 6], [60, 90], [1300, 1100], [1300, 1100]]


def test_survey_does_not_depend_on_the_number_of_threads(folder, cache):
    for seed in range(40):
        write(folder / f"train/cat/more{seed}.jpg", seed, 20 + seed, 30)
    touch(folder / "train/cat/more7.jpg", "no image")
    dataset = open_dataset(folder, "train")
    one = survey(dataset, workers=1, progress=False)
    shutil.rmtree(cache)
    four = survey(dataset, workers=4, progress=False)
    assert same(one, four)
    assert "more7.jpg" in one.unreadable[0][1]
    assert "workers: -1" in refusal(survey, dataset, workers=-1)


def test_survey_adds_in_the_order_of_photographs_whichever_is_read_first(monkeypatch, cache):
    class Backwards(ThreadPoolExecutor):
        def map(self, fn, *iterables):
            items = list(zip(*iterables, strict=True))
            done = {index: fn(*items[index]) for index in reversed(range(len(items)))}
            return iter([done[index] for index in range(len(items))])

    dataset = memory(100)
    forwards = survey(dataset, progress=False)
    shutil.rmtree(cache)
    monkeypatch.setattr(surveys, "ThreadPoolExecutor", Backwards)
    assert same(forwards, survey(dataset, progress=False))


def test_a_survey_is_kept_until_a_file_changes(folder, cache, readings):
    dataset = open_dataset(folder, "train")
    first = survey(dataset, progress=False)
    assert len(readings) == 4
    assert len(kept(cache)) == 1
    assert kept(cache)[0].suffix == ".npz"
    assert same(first, survey(open_dataset(folder, "train"), progress=False))
    assert len(readings) == 4
    path = write(folder / "train/cat/b.png", 99)
    assert not same(first, survey(dataset, progress=False))
    assert len(readings) == 8
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    survey(dataset, progress=False)
    assert len(readings) == 12
    survey(open_dataset(folder, "val"), progress=False)
    assert len(readings) == 14
    assert len(kept(cache)) == 4


def test_a_survey_of_arrays_is_kept_until_they_change(readings):
    first = survey(memory(3), progress=False)
    assert same(first, survey(memory(3), progress=False))
    assert len(readings) == 3
    survey(memory(3, size=(7, 5)), progress=False)
    assert len(readings) == 6


def test_a_survey_does_not_depend_on_the_working_folder(folder, readings, monkeypatch):
    survey(open_dataset(folder, "val"), progress=False)
    monkeypatch.chdir(folder)
    relative = open_dataset(".", "val")
    assert relative.name == "pets/val"
    survey(relative, progress=False)
    assert len(readings) == 2


def test_a_damaged_kept_survey_is_made_anew(folder, cache, readings):
    dataset = open_dataset(folder, "val")
    first = survey(dataset, progress=False)
    [path] = kept(cache)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    lists = {f"{what} {part}": [] for what in ("unreadable", "suspicious") for part in ("rows", "reasons")}
    np.savez(path, sizes=first.sizes[:1], mean=first.mean, covariance=first.covariance, **lists)
    other = path.read_bytes()
    for damaged in (b"", whole[:200], whole[:-10], b"no numpy at all", bytes(flipped), other):
        readings.clear()
        path.write_bytes(damaged)
        assert same(first, survey(dataset, progress=False))
        assert len(readings) == 2
        assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(folder, cache, readings, monkeypatch):
    dataset = open_dataset(folder, "val")
    monkeypatch.setenv("XDG_CACHE_HOME", str(touch(cache / "a file")))
    assert same(survey(dataset, progress=False), survey(dataset, progress=False))
    assert len(readings) == 4


def test_surveys_are_kept_in_the_home_folder(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    survey(open_dataset(folder, "val"), progress=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    survey(open_dataset(folder, "train"), progress=False)
    assert len(kept(tmp_path / ".cache")) == 2


def test_a_kept_survey_of_a_file_that_can_now_be_read_is_made_anew(folder, monkeypatch, readings):
    dataset = open_dataset(folder, "val")

    def failing(photograph, shortest=None):
        readings.append(photograph)
        raise ImageError(photograph, "permission denied")

    monkeypatch.setattr(surveys, "examine", failing)
    assert len(survey(dataset, progress=False).unreadable) == 2
    readings.clear()
    assert len(survey(dataset, progress=False).unreadable) == 2
    assert len(readings) == 2  # tried again, and no other
    monkeypatch.setattr(surveys, "examine", examine)
    assert survey(dataset, progress=False).unreadable == ()


def test_survey_shows_its_progress(folder, monkeypatch, capsys):
    monkeypatch.setattr("verydeep.progress.LINE_SECONDS", 0.0)
    survey(open_dataset(folder, "train"), progress=True)
    lines = capsys.readouterr()
    assert "Reading pets/train: 4/4" in lines.err
    assert lines.out == ""


# Unreadable photographs


@pytest.fixture
def damaged(folder):
    """Photographs 1 and 2 of four are unreadable: one of each class."""
    path = folder / "train/Dog/2.WebP"
    path.write_bytes(path.read_bytes()[:40])
    touch(folder / "train/cat/a.JPG")
    return open_dataset(folder, "train")


def test_unreadable_photographs_are_found_and_not_counted(damaged):
    found = survey(damaged, progress=False)
    assert [index for index, _ in found.unreadable] == [1, 2]
    for index, reason in found.unreadable:
        assert str(damaged.photographs[index]) in reason
    assert found.sizes.tolist() == [[9, 6], [0, 0], [0, 0], [9, 6]]
    readable = [decode(damaged.photographs[index]).reshape(-1, 3) for index in (0, 3)]
    np.testing.assert_allclose(found.mean, np.concatenate(readable).mean(axis=0), rtol=1e-12)


def test_unreadable_photographs_are_left_out_only_where_the_user_says_so(damaged):
    found = survey(damaged, progress=False)
    message = refusal(leave_out_unreadable, damaged, found, skip=False)
    assert "2 of 4 photographs cannot be read" in message
    assert found.unreadable[0][1] in message
    assert "--skip-unreadable" in message
    assert "verydeep inspect" in message
    dataset, rest = leave_out_unreadable(damaged, found, skip=True)
    assert [path.name for path in dataset.photographs] == ["1.jpeg", "b.png"]
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.classes == damaged.classes
    assert rest.unreadable == ()
    assert rest.sizes.tolist() == [[9, 6], [9, 6]]
    assert np.array_equal(rest.mean, found.mean)


def test_nothing_is_left_out_where_all_can_be_read():
    dataset = memory(3)
    found = survey(dataset, progress=False)
    assert leave_out_unreadable(dataset, found, skip=False) == (dataset, found)


def test_a_class_that_loses_its_last_photograph_is_refused(damaged, folder):
    touch(folder / "train/cat/b.png", "no image")
    found = survey(damaged, progress=False)
    message = refusal(leave_out_unreadable, damaged, found, skip=True)
    assert "none of the photographs of class cat can be read" in message
    assert "a.JPG" in message


def test_doubts_about_photographs_are_kept_and_follow_those_that_are_left(damaged, cache):
    path = damaged.photographs[3]
    data = path.read_bytes()
    end = data.index(b"IEND") - 4
    path.write_bytes(data[: end - 4] + bytes(4) + data[end:])
    for _ in ("made", "kept"):
        found = survey(damaged, progress=False)
        assert found.suspicious == ((3, f"{path}: its pixels do not match their checksums"),)
    assert len(kept(cache)) == 1
    dataset, rest = leave_out_unreadable(damaged, found, skip=True)
    assert [index for index, _ in rest.suspicious] == [1]
    assert dataset.photographs[1] == path


def test_photographs_too_elongated_for_a_scale_cannot_be_read_at_it(folder):
    write(folder / "train/cat/line.png", 0, 600, 1)
    write(folder / "train/cat/none.png").write_bytes(b"")
    dataset = open_dataset(folder, "train")
    found = survey(dataset, progress=False)
    for fits in (9, 408):  # 408 x 244,800 pixels
        assert unreadable_at(dataset, found, fits) is found
    refused = unreadable_at(dataset, found, 409)
    assert [index for index, _ in refused.unreadable] == [4, 5]
    assert "line.png: 1 x 600 pixels would become 409 x 245400" in refused.unreadable[0][1]
    dataset, rest = leave_out_unreadable(dataset, refused, skip=True)
    assert [path.name for path in dataset.photographs] == ["1.jpeg", "2.WebP", "a.JPG", "b.png"]
    assert rest.sizes.min() > 0


def test_a_survey_of_nothing_readable_has_no_colour(folder):
    for path in (folder / "val").rglob("*.png"):
        path.write_bytes(b"")
    found = survey(open_dataset(folder, "val"), progress=False)
    assert len(found.unreadable) == 2
    assert np.isnan(found.mean).all()
    assert np.isnan(found.covariance).all()


# Principal components


def test_principal_components_of_a_known_covariance():
    rotation = np.array([[2, 1, 2], [2, -2, -1], [1, 2, -2]]) / 3
    covariance = rotation.T @ np.diag([100.0, 25.0, 4.0]) @ rotation
    deviations, components = principal_components(covariance)
    np.testing.assert_allclose(deviations, [10, 5, 2])
    np.testing.assert_allclose(components @ components.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(components[0], rotation[0], atol=1e-12)
    # 2/3 and -2/3 are equally large: the first is positive, however LAPACK rounds.
    np.testing.assert_allclose(components[1], rotation[1], atol=1e-12)
    np.testing.assert_allclose(components[2], -rotation[2] * np.sign(-rotation[2][1]), atol=1e-12)


def test_principal_components_do_not_depend_on_the_sign_that_lapack_chose(monkeypatch):
    covariance = np.cov(np.random.default_rng(0).normal(size=(3, 50)) * [[50.0], [20.0], [5.0]])
    expected = principal_components(covariance)
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (eigh(matrix)[0], -eigh(matrix)[1]))
    for one, other in zip(expected, principal_components(covariance), strict=True):
        np.testing.assert_array_equal(one, other)


def test_principal_components_of_grey_images():
    deviations, components = principal_components(np.full((3, 3), 1234.5))
    np.testing.assert_allclose(deviations, [np.sqrt(3 * 1234.5), 0, 0])
    assert deviations[1] == deviations[2] == 0
    np.testing.assert_allclose(components[0], np.full(3, 3**-0.5))
    assert principal_components(np.zeros((3, 3)))[0].tolist() == [0, 0, 0]
