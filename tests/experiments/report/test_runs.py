"""The report of any runs: curves, differences, starts, times."""

import json
import re

import pytest

from verydeep import recipe as recipes
from verydeep.errors import UserError
from verydeep.experiments.report import report, runs_report
from verydeep.recipe import Recipe


def run(path, epochs=3, ended="limit of epochs", **fields):
    """A run directory as training leaves it, without weights."""
    path.mkdir(parents=True)
    recipe = Recipe(net="A", crop=32, training_scale=(32,), **fields)
    recipes.write(recipe, path / "recipe.toml")
    lines = [
        {
            "epoch": number,
            "iteration": 10 * number,
            "loss": 2.0 / number,
            "training_error": 0.8 / number,
            "validation_error": 0.7 / number,
            "validation_protocol": "centre-crop, Q = 32, no mirror images",
            "rate": 0.01,
            "seconds": 2.5,
            "images_per_second": 100.0,
            "waiting_share": 0.1,
        }
        for number in range(1, epochs + 1)
    ]
    lines += [{"event": "ended", "reason": ended}] if ended else []
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    environment = [{"python": "3.11", "versions": {"torch": "2.6.0"}, "gpu": None}]
    (path / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    return path


def test_two_runs_are_compared(tmp_path):
    first, second = run(tmp_path / "runs/a"), run(tmp_path / "runs/<b>", epochs=2, ended="", weight_decay=0.001)
    (page,) = runs_report([first, second], tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert "<title>Training of a, &lt;b&gt; (epoch 2 of 74)</title>" in text
    assert "<b>" not in text
    assert text.count('<svg class="chart"') == 4
    assert "<td>weight_decay</td><td>0.0005</td><td>0.001</td>" in text
    assert "not ended" in text
    assert '<td class="number">7.5 s</td><td class="number">2.5 s</td><td class="number">100</td>' in text
    assert "<td>versions.torch</td><td>2.6.0</td>" in text
    assert not re.search(r"https?:|@import|url\(|<script", text)


def test_one_run_has_its_whole_recipe_in_markdown(tmp_path):
    page, chart = runs_report([run(tmp_path / "a")], tmp_path / "page.md")
    assert chart.name == "page-curves.svg"
    text = page.read_text(encoding="utf-8")
    assert "| crop | 32 |" in text
    assert "Differences" not in text


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    (page,) = runs_report([run(tmp_path / f"seed-{n}/a", seed=n) for n in range(2)], tmp_path / "page.html")
    assert "<title>Training of seed-0/a, seed-1/a</title>" in page.read_text(encoding="utf-8")


def test_a_run_without_an_epoch_has_a_report(tmp_path):
    (page,) = runs_report([run(tmp_path / "a", epochs=0, ended="")], tmp_path / "page.html")
    assert "No epoch has ended yet." in page.read_text(encoding="utf-8")


def test_a_lost_environment_is_no_reason_to_have_no_report(tmp_path):
    path = run(tmp_path / "a")
    (path / "environment.json").write_text("[1, {", encoding="utf-8")
    (page,) = runs_report([path], tmp_path / "page.html")
    assert "Not recorded." in page.read_text(encoding="utf-8")


def test_the_same_runs_give_the_same_bytes(tmp_path):
    paths = [run(tmp_path / "a"), run(tmp_path / "b", epochs=2)]
    (page,) = report(paths, tmp_path / "page.html")
    before = page.read_bytes()
    report(paths, page)
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("sources", "page", "message"),
    [
        ([], "page.html", "none was given"),
        (["a"], None, "pass one that ends in .html or .md with -o"),
        (["a"], "page.pdf", "must end in .html or .md"),
        (["a", "nothing"], "page.html", "nothing is not a run directory"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, sources, page, message):
    run(tmp_path / "a")
    with pytest.raises(UserError, match=message) as error:
        report([tmp_path / source for source in sources], None if page is None else tmp_path / page)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
