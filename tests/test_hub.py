"""Nets go to the Hugging Face hub and come back; whatever goes wrong is said in one line.

The hub is a local server (`local_hub`), reached through the real huggingface_hub.
"""

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save

import foreign_nets
import verydeep
from synthetic import refusal
from verydeep import cli, publishing, weights
from verydeep.errors import UserError
from verydeep.interop import hub as references
from verydeep.network import ConvNet

huggingface_hub = pytest.importorskip("huggingface_hub")
yaml = pytest.importorskip("yaml")

from local_hub import Hub  # noqa: E402

# huggingface_hub itself uses its HTTP library in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

SMALL = {"crop": 32, "width": 0.125, "fully_connected": 8}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits before it tries again
    monkeypatch.setenv("HF_TOKEN", server.token)
    yield server
    huggingface_hub.close_session()
    server.close()


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = ConvNet("B", ["cat", "dog", "über"], **SMALL).eval()
    made.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    return made


def images():
    return torch.randint(0, 256, (2, 3, 40, 33), dtype=torch.uint8)


def downloads(hub):
    return [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]


# There and back


@pytest.mark.parametrize("half", [False, True])
def test_a_weight_file_comes_back_byte_for_byte(hub, net, tmp_path, half):
    path = tmp_path / "net.safetensors"
    verydeep.save(net, path, half=half)
    address = verydeep.push(path, "owner/cats")
    there = hub.repositories["owner/cats"]
    assert address == f"{hub.address}/owner/cats/commit/{there.branches['main']}"
    assert there.files["model.safetensors"] == path.read_bytes()
    assert not there.private
    loaded = verydeep.load("hf://owner/cats")
    assert loaded.card == weights.read_card(path)
    expected, x = verydeep.load(path), images()
    assert torch.equal(loaded(x), expected(x))


def test_runs_nets_in_memory_and_other_systems_nets_are_pushed(hub, net, folder, tmp_path):
    recipe = verydeep.Recipe(net="A", batch=4, initialisation="glorot", epochs=1, **SMALL)
    run = verydeep.train(folder, recipe, out=tmp_path / "run", workers=0)
    torch.save(foreign_nets.torchvision_state(foreign_nets.made()), tmp_path / "vgg.pth")
    for source in (run, net, tmp_path / "vgg.pth"):
        verydeep.push(source, "owner/any")
        loaded = verydeep.load("hf://owner/any")
        expected = source if source is net else verydeep.load(source)
        assert loaded.card == expected.card
        for name, tensor in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_repository_can_be_private(hub, net, monkeypatch):
    verydeep.push(net, "owner/secret", private=True)
    assert hub.repositories["owner/secret"].private
    monkeypatch.setenv("HF_TOKEN", "hf_someone_else")
    message = refusal(verydeep.load, "hf://owner/secret")
    assert "no repository owner/secret" in message
    assert "hf auth login" in message
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert verydeep.load("hf://owner/secret").card == net.card


def test_a_second_push_keeps_a_readme_written_by_hand(hub, net, capsys):
    verydeep.push(net, "owner/cats")
    there = hub.repositories["owner/cats"]
    assert there.files["README.md"].decode() == verydeep.describe(net).markdown("owner/cats")
    assert "keeps" not in capsys.readouterr().err
    there.commit({"README.md": b"by hand"})
    net.fc8.bias.data += 1
    verydeep.push(net, "owner/cats")
    assert there.files["README.md"] == b"by hand"
    assert "owner/cats keeps its README.md" in capsys.readouterr().err
    assert torch.equal(verydeep.load("hf://owner/cats").fc8.bias, net.fc8.bias), "the new weights, not cached ones"


def test_config_json_makes_the_mixin_read_the_repository_and_write_what_it_reads(hub, net, tmp_path):
    """PyTorchModelHubMixin's own conventions, by its own code."""

    class Mixed(ConvNet, huggingface_hub.PyTorchModelHubMixin):
        pass

    verydeep.push(net, "owner/cats")
    mixed, x = Mixed.from_pretrained("owner/cats").eval(), images()
    assert torch.equal(mixed(x), net(x))
    assert (mixed.architecture, mixed.class_names) == (net.architecture, net.class_names)
    mixed.save_pretrained(tmp_path / "mixed")
    again = Mixed.from_pretrained(tmp_path / "mixed").eval()
    assert torch.equal(again(x), net(x))
    made = json.loads((tmp_path / "mixed" / "config.json").read_text(encoding="utf-8"))
    assert publishing.configuration(net.card).items() >= made.items()


def test_every_command_takes_a_net_on_the_hub(hub, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    verydeep.save(ConvNet("B", ["Dog", "cat"], **SMALL), "net.safetensors")

    def run(*words):
        monkeypatch.setattr("sys.argv", ["verydeep", *map(str, words)])
        with suppress(SystemExit):
            cli.main()
        said = capsys.readouterr()
        assert "verydeep: " not in said.err
        return said.out

    assert f"{hub.address}/owner/cats/commit/" in run("push", "net.safetensors", "owner/cats")
    assert json.loads(run("push", "net.safetensors", "owner/cats", "--json"))["repository"] == "owner/cats"
    assert "hf://owner/cats" in run("describe", "hf://owner/cats")
    assert "posterior" in run("predict", "hf://owner/cats", folder / "val" / "cat" / "c.png", "--scales", 32)
    run("convert", "hf://owner/cats", "-o", "half.safetensors", "--half")
    commit = hub.repositories["owner/cats"].branches["main"]
    origin = weights.read_card("half.safetensors").provenance
    assert origin["source"] == f"hf://owner/cats@{commit}/model.safetensors"
    run(
        "train", folder, "--net", "B", "--start-from", "hf://owner/cats", "--batch", 4, "--epochs", 1, "--out", "r"
    )
    assert verydeep.read_run("r").recipe.start_from == "hf://owner/cats"
    assert "hf://owner/cats" in run("test", "hf://owner/cats", folder, "--scales", 32)


# What is named


def test_a_revision_and_a_file_can_be_named(hub, net):
    verydeep.push(net, "owner/cats")
    first = hub.repositories["owner/cats"].branches["main"]
    earlier = net.fc8.bias.detach().clone()
    net.fc8.bias.data += 1
    verydeep.push(net, "owner/cats")
    hub.repositories["owner/cats"].branches["v1"] = first
    hub.repositories["owner/cats"].branches["refs%2Fpr%2F1"] = first
    for source in (
        f"hf://owner/cats@{first}",
        "hf://owner/cats@v1/model.safetensors",
        "hf://owner/cats@refs/pr/1",
    ):
        assert torch.equal(verydeep.load(source).fc8.bias, earlier)
    assert torch.equal(verydeep.load("hf://owner/cats/").fc8.bias, net.fc8.bias)


@pytest.mark.parametrize(
    "source", ["hf://", "hf://cats", "hf://owner/", "hf:///cats", "hf://owner/c ts", "hf://../x"]
)
def test_what_does_not_name_a_repository_is_refused(source):
    assert "use hf://OWNER/NAME" in refusal(verydeep.load, source)


@pytest.mark.parametrize("repository", ["cats", "a/b/c", "hf://a/b", "", "a/b@v1"])
def test_push_refuses_other_names(repository, net):
    assert "use OWNER/NAME" in refusal(verydeep.push, net, repository)


def test_a_reference_is_written_as_it_was_read():
    for text in ("hf://a/b", "hf://a/b@main", "hf://a/b/folder/c.h5", "hf://a/b@v1/c.bin"):
        assert str(references.reference(text)) == text
    assert references.reference("hf:/a/b") is references.reference("runs/a") is None


# Other people's repositories


def timm_repository(hub, mean, std, readme=""):
    state = {name: tensor.contiguous() for name, tensor in foreign_nets.timm_state(foreign_nets.made("D")).items()}
    made = {"architecture": "vgg16", "num_classes": 5, "pretrained_cfg": {"mean": mean, "std": std}}
    files = {"model__safetensors": save(state), "config__json": json.dumps(made).encode()}
    return hub.add("timm/vgg16.tv_in1k", **files, README__md=readme.encode())


def test_timms_repositories_load(hub, tmp_path):
    there = timm_repository(
        hub, foreign_nets.MEAN, foreign_nets.STD, "---\nlicense: bsd-3-clause\ntags: []\n---\n"
    )
    loaded = verydeep.load("hf://timm/vgg16.tv_in1k")
    (tmp_path / "file").write_bytes(there.files["model.safetensors"])
    x, expected = images(), verydeep.load(tmp_path / "file")
    assert torch.equal(loaded(x), expected(x))
    provenance = loaded.card.provenance
    assert provenance["source"] == f"hf://timm/vgg16.tv_in1k@{there.branches['main']}/model.safetensors"
    assert provenance["folded"] == expected.card.provenance["folded"]
    assert verydeep.describe("hf://timm/vgg16.tv_in1k").licence == "bsd-3-clause"


def test_the_preprocessing_in_timms_config_json_is_folded(hub):
    timm_repository(hub, [0.5, 0.4, 0.3], [0.2, 0.25, 0.5])
    loaded, x = verydeep.load("hf://timm/vgg16.tv_in1k"), foreign_nets.photographs(32)
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.5]))
    expected = foreign_nets.scores(foreign_nets.made("D"), (x.double() / 255 - mean) / std)
    with torch.no_grad():
        assert foreign_nets.difference(loaded(x), expected) <= 1e-5
    assert loaded.card.provenance["folded"][0].startswith("timm's config.json: (x - [127.5, 102.0, 76.5])")
    given = verydeep.load("hf://timm/vgg16.tv_in1k", "raw")
    assert given.card.provenance["folded"][0].startswith("raw: ")


@pytest.mark.parametrize("std", [[0.2, 0.2], [0.2, 0.2, 0.0], 0.2, ["a", "b", "c"]])
def test_a_preprocessing_that_is_none_is_refused(hub, std):
    timm_repository(hub, foreign_nets.MEAN, std)
    refusal(verydeep.load, "hf://timm/vgg16.tv_in1k")


def test_pytorch_model_bin_is_second_choice(hub, tmp_path):
    torch.save(foreign_nets.torchvision_state(foreign_nets.made()), tmp_path / "vgg.pth")
    hub.add("owner/old", pytorch_model__bin=(tmp_path / "vgg.pth").read_bytes())
    loaded = verydeep.load("hf://owner/old")
    assert loaded.card.provenance["source"].endswith("/pytorch_model.bin")
    hub.down = True
    assert verydeep.load("hf://owner/old").card == loaded.card


def test_a_file_that_is_no_net_is_refused(hub):
    hub.add("owner/bert", model__safetensors=save({"bert.embeddings": torch.zeros(3)}))
    assert "no tensor is named features.N.weight" in refusal(verydeep.load, "hf://owner/bert")
    hub.add("owner/text", model__safetensors=b"hello, hello, hello")
    assert "unknown format" in refusal(verydeep.load, "hf://owner/text")


# What goes wrong


def test_a_connection_that_is_cut_is_resumed(hub, net, tmp_path, monkeypatch):
    verydeep.save(net, tmp_path / "net.safetensors")
    content = (tmp_path / "net.safetensors").read_bytes()
    hub.add("owner/cats", model__safetensors=content)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut_after = [200_000, 100_000]
    for _ in range(2):  # the first versions of huggingface_hub stop, and resume when they are called again
        with suppress(UserError):
            verydeep.load("hf://owner/cats")
    assert verydeep.load("hf://owner/cats").card == net.card
    assert hub.ranges == [None, "bytes=200000-", "bytes=300000-"]


def test_a_cached_file_needs_no_network(hub, net, monkeypatch):
    verydeep.push(net, "owner/cats")
    verydeep.load("hf://owner/cats")
    assert len(downloads(hub)) == 1
    verydeep.load("hf://owner/cats")
    assert len(downloads(hub)) == 1
    hub.down = True
    assert verydeep.load("hf://owner/cats").card == net.card
    hub.down = False
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert verydeep.load("hf://owner/cats").card == net.card
    assert len(hub.requests) == before
    message = refusal(verydeep.load, "hf://owner/other")
    assert "hf://owner/other is not in the cache, and HF_HUB_OFFLINE is set" in message
    assert "HF_HUB_OFFLINE" in refusal(verydeep.push, net, "owner/cats")
    assert len(hub.requests) == before


def test_no_network_is_one_line(hub, net, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nowhere)
    template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    message = refusal(verydeep.load, "hf://owner/cats")
    assert f"cannot reach {nowhere} for hf://owner/cats: " in message
    assert "pass its path" in message
    assert f"the exchange with {nowhere} failed" in refusal(verydeep.push, net, "owner/cats")


def test_what_is_missing_is_named(hub, net):
    verydeep.push(net, "owner/cats")
    hub.add("owner/empty", README__md=b"")
    hub.add("owner/terms").gated = True
    for source, words in (
        ("hf://owner/gone", "there is no repository owner/gone"),
        ("hf://owner/empty", "owner/empty has no model.safetensors or pytorch_model.bin; name its weight file"),
        ("hf://owner/cats/vgg.h5", "owner/cats has no vgg.h5"),
        ("hf://owner/cats@v9", "owner/cats has no revision v9"),
        ("hf://owner/terms", f"owner/terms is gated; accept its terms at {hub.address}/owner/terms"),
    ):
        assert words in refusal(verydeep.load, source)


def test_who_may_not_push_is_told_what_to_do(hub, net, monkeypatch):
    assert "use a token that may write" in refusal(verydeep.push, net, "others/cats")
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refusal(verydeep.push, net, "owner/cats")
    assert not hub.repositories


def test_without_the_extra_one_line_says_how_to_install_it(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call, *arguments in ((verydeep.load, "hf://owner/cats"), (verydeep.push, net, "owner/cats")):
        message = refusal(call, *arguments)
        assert message == "the Hugging Face hub needs huggingface_hub; run pip install 'verydeep[hub]'"


def test_the_hub_is_imported_only_when_it_is_needed(tmp_path, net):
    verydeep.save(net, tmp_path / "net.safetensors")
    code = (
        "import sys, verydeep; verydeep.describe(sys.argv[1]); verydeep.load(sys.argv[1]); verydeep.push; "
        "sys.exit('huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "net.safetensors"], check=False)
    assert done.returncode == 0
