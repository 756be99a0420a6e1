"""Downloads from a local server: complete and verified, or refused in one line that says what to do."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

import foreign_nets
import verydeep
from verydeep import UserError
from verydeep.progress import Meter
from verydeep.published import download as downloads
from verydeep.published.download import CHUNK, download, place
from verydeep.published.registry import Entry, registry

NAME = "test/vgg"
CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves one file, with faults."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts = []
        """After how many bytes each next response is cut off."""
        self.ranges = "honoured"
        self.status = None
        self.asked = []
        """The Range header of each request, in order."""
        self.half = None
        """An event to wait for in the middle of each response."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/vgg.pth"


class Handler(BaseHTTPRequestHandler):
    """Sends the server's content, from where it is asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        self.close_connection = True
        if server.status is not None:
            self.send_error(server.status)
            return
        first = start(wanted) if wanted and server.ranges != "ignored" else 0
        if server.ranges == "wrong":
            first //= 2
        body = server.content[first:]
        if wanted and not body:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted and server.ranges != "ignored" else 200)
        if wanted and server.ranges != "ignored":
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts:
            body = body[: server.cuts.pop(0)]
        self.wfile.write(body[: len(body) // 2])
        if server.half is not None:
            server.half.wait(60)
        self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def made_entry(server, **fields):
    content = server.content
    known = {
        "name": NAME,
        "net": "D",
        "address": server.url,
        "algorithm": "sha256",
        "hash": hashlib.sha256(content).hexdigest(),
        "hash_source": "this test",
        "licence": "CC0",
        "licence_source": "this test",
        "preprocessing": "torchvision",
        "bytes": len(content),
        "megabytes": round(len(content) / 1e6),
    }
    return Entry(**known | fields)


@pytest.fixture
def published(server, monkeypatch):
    """A function that puts the server's file into the registry."""

    def put(**fields):
        monkeypatch.setitem(registry(), NAME, made_entry(server, **fields))
        return registry()[NAME]

    put()
    return put


@contextmanager
def refused(*words):
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def start(wanted):
    """The first byte that a Range header asks for."""
    return int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])


def files(path):
    """Files next to a path, without the lock."""
    return {each.name: each.read_bytes() for each in path.parent.glob("*") if each.suffix != ".lock"}


def test_a_download_is_kept_and_not_repeated(server, published):
    path = download(NAME)
    assert path == place(published())
    assert files(path) == {"vgg.pth": CONTENT}
    assert download(NAME) == path
    assert server.asked == [None]


@pytest.mark.parametrize(
    "fields", [{"algorithm": "md5", "hash": hashlib.md5(CONTENT).hexdigest()}, {"bytes": None}]
)
def test_md5_and_an_unknown_size_will_do(published, fields):
    published(**fields)
    assert download(NAME).read_bytes() == CONTENT


def test_the_beginning_of_a_digest_will_do(published):
    published(hash=hashlib.sha256(CONTENT).hexdigest()[:8], bytes=None, megabytes=None)
    assert download(NAME).read_bytes() == CONTENT


def test_a_cut_connection_resumes_where_it_was_cut(server, published):
    server.cuts = [1_000_000, 500_000]
    assert download(NAME).read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert 1_000_000 - CHUNK < start(server.asked[1]) <= 1_000_000
    assert 1_500_000 - 2 * CHUNK < start(server.asked[2]) <= 1_500_000


def test_progress_counts_megabytes_also_over_a_cut_and_a_resumption(server, published, monkeypatch):
    meters = []

    class Recorded(Meter):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            meters.append(self)

    monkeypatch.setattr(downloads, "Meter", Recorded)
    server.cuts = [1_500_000, 0]
    with refused("resumes"):
        download(NAME)
    server.cuts = [1_000_000]
    download(NAME)
    assert [(each.description, each.total, each.done) for each in meters] == [
        ("downloading test/vgg", 3, 1),
        ("downloading test/vgg", 3, 3),
    ]


def test_a_later_command_resumes(server, published):
    server.cuts = [1_234_567, 0]
    with refused(server.url, "the first 1 MB are kept, and the same command resumes", place(published())):
        download(NAME)
    kept = files(place(published()))["vgg.pth.part"]
    assert 1_234_567 - CHUNK < len(kept) <= 1_234_567
    assert kept == CONTENT[: len(kept)]
    assert download(NAME).read_bytes() == CONTENT
    assert start(server.asked[-1]) == len(kept)
    assert files(place(published())) == {"vgg.pth": CONTENT}


@pytest.mark.parametrize("ranges", ["ignored", "wrong"])
def test_a_server_that_does_not_continue_starts_again(server, published, ranges):
    server.ranges = ranges
    server.cuts = [1_000_001]
    assert download(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("known", [True, False])
def test_a_complete_partial_file_is_enough(server, published, known):
    of = published() if known else published(bytes=None)
    part = place(of).with_name("vgg.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert download(NAME).read_bytes() == CONTENT
    assert (server.asked == []) is known


def test_a_partial_file_that_is_too_long_starts_again(published):
    part = place(published()).with_name("vgg.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    assert download(NAME).read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_the_next_try_is_fresh(server, published):
    right = server.content
    server.content = bytes(len(right))
    with refused(
        hashlib.sha256(server.content).hexdigest(), hashlib.sha256(right).hexdigest(), server.url, "removed"
    ):
        download(NAME)
    assert files(place(published(hash=hashlib.sha256(right).hexdigest()))) == {}
    server.content = right
    assert download(NAME).read_bytes() == right
    assert server.asked == [None, None]


def test_a_wrong_partial_file_is_found_and_removed(published):
    part = place(published()).with_name("vgg.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    with refused("SHA-256", "removed; try again"):
        download(NAME)
    assert download(NAME).read_bytes() == CONTENT


def test_a_page_instead_of_the_file_is_refused_before_it_is_downloaded(server, published):
    published()
    server.content = b"<html>please log in</html>"
    with refused("has 26 bytes", "3,000,000", "another mirror"):
        download(NAME)
    assert files(place(registry()[NAME])).get("vgg.pth.part", b"") == b""


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, published, capsys):
    path = download(NAME)
    path.write_bytes(bytes(len(CONTENT)))
    assert download(NAME).read_bytes() == CONTENT
    said = capsys.readouterr().err
    assert f"{path} is not {NAME}: it has SHA-256" in said
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_server_names_address_and_place(server, published, status):
    server.status = status
    with refused(server.url, f"HTTP status {status}", f"put it at {place(published())}", f"{NAME} --from"):
        download(NAME)


def test_a_server_that_is_not_there(server, published, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/vgg.pth"
    of = published(address=address)
    with refused(address, "Connection refused", f"put it at {place(of)}"):
        download(NAME)
    place(of).write_bytes(CONTENT)  # what the message says
    assert download(NAME) == place(of)


@pytest.mark.parametrize(
    "mirror", ["http://", "http://[", "http://127.0.0.1:99999/x", "http://\x00/", "https://a b/"]
)
def test_an_address_that_is_none(published, mirror):
    with refused("cannot download", place(published())):
        download(NAME, mirror)


def test_a_mirror(server, published):
    published(address="http://127.0.0.1:9/gone.pth")
    assert download(NAME, server.url).read_bytes() == CONTENT


def test_a_local_file(server, published, tmp_path):
    mine = tmp_path / "mine.pth"
    mine.write_bytes(CONTENT)
    assert download(NAME, mine).read_bytes() == CONTENT
    assert server.asked == []


def test_another_local_file_is_refused(published, tmp_path):
    mine = tmp_path / "mine.pth"
    mine.write_bytes(CONTENT[:-1])
    with refused(mine, "2,999,999 bytes", "3,000,000"):
        download(NAME, mine)
    mine.write_bytes(bytes(len(CONTENT)))
    with refused(mine, hashlib.sha256(bytes(len(CONTENT))).hexdigest(), hashlib.sha256(CONTENT).hexdigest()):
        download(NAME, mine)
    with refused(tmp_path / "nothing", "vgg.pth", "mirror"):
        download(NAME, tmp_path / "nothing")
    assert files(place(published())) == {}


def test_a_local_file_needs_no_pooch(published, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    mine = tmp_path / "mine.pth"
    mine.write_bytes(CONTENT)
    assert download(NAME, mine).read_bytes() == CONTENT


def test_without_pooch_the_message_says_what_to_install(server, published, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with refused("pip install pooch", server.url, place(published())):
        download(NAME)


def test_a_disk_that_is_too_small_is_refused_at_once(server, published, monkeypatch):
    usage = type("Usage", (), {"free": 2_000_000})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    with refused(place(published()), "needs 3 MB", "2 MB are free", "VERYDEEP_CACHE"):
        download(NAME)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_disk_that_fills_up(server, published):
    part = place(published()).with_name("vgg.pth.part")
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")  # every write to it fails as on a full disk
    with refused(place(published()), "No space left on device", "needs 3 MB", "are free"):
        download(NAME)
    part.unlink()
    assert download(NAME).read_bytes() == CONTENT


LIMITED = """
import resource, sys
from verydeep.errors import UserError
from verydeep.published.download import download
from verydeep.published.registry import Entry, registry
registry()["test/vgg"] = Entry(**eval(sys.argv[1]))
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    print(download("test/vgg"))
except UserError as error:
    print("refused:", error)
"""


def process(of, limit=0):
    """A process of its own that downloads an entry, and may write files of this size at most."""
    fields = {name: value for name, value in vars(of).items() if not name.startswith("_")}
    return subprocess.Popen(
        [sys.executable, "-c", LIMITED, repr(fields), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_fitted_on_the_disk_is_kept(server, published):
    out, err = process(published(), limit=2_000_000).communicate(timeout=60)
    assert "File too large" in out, (out, err)
    assert "the same command resumes" in out
    kept = files(place(published()))["vgg.pth.part"]
    assert 0 < len(kept) <= 2_000_000
    assert kept == CONTENT[: len(kept)]
    assert download(NAME).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={len(kept)}-"


def test_two_processes_at_once_download_once(server, published):
    server.half = threading.Event()
    both = [process(published()), process(published())]
    try:
        waiting = []  # the process that does not get the lock says so; the other one is in the middle of the file

        def listen(each):
            if "another process" in each.stderr.readline():
                waiting.append(each)
                server.half.set()

        threads = [threading.Thread(target=listen, args=(each,)) for each in both]
        for thread in threads:
            thread.start()
        assert server.half.wait(60)
        results = [each.wait(60) for each in both]
        for thread in threads:
            thread.join()
    finally:
        server.half.set()
        for each in both:
            each.kill()
    outputs = {each.stdout.read().strip() for each in both}
    for each in both:
        each.stdout.close()
        each.stderr.close()
    assert (results, outputs) == ([0, 0], {str(place(published()))})
    assert len(waiting) == 1
    assert files(place(published())) == {"vgg.pth": CONTENT}
    assert server.asked == [None]


def test_a_killed_download_leaves_no_lock(server, published):
    server.half = threading.Event()
    killed = process(published())
    part = place(published()).with_name("vgg.pth.part")
    while not (part.exists() and part.stat().st_size):
        assert killed.poll() is None
    killed.kill()
    killed.communicate()
    server.half.set()
    assert download(NAME).read_bytes() == CONTENT
    assert server.asked[1].startswith("bytes=")


def test_a_cache_that_cannot_be_written(published, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("VERYDEEP_CACHE", str(blocked))
    with refused(blocked, "VERYDEEP_CACHE"):
        download(NAME)


def test_the_cache_folder_can_be_chosen(published, tmp_path, monkeypatch):
    monkeypatch.setenv("VERYDEEP_CACHE", str(tmp_path / "mine"))
    assert download(NAME) == tmp_path / "mine" / "published" / "test" / "vgg" / "vgg.pth"


def made_net(path):
    torch.save(foreign_nets.torchvision_state(foreign_nets.made("A", width=32, classes=1000)), path)
    return path.read_bytes()


def test_a_name_loads_wherever_a_path_does(server, published, tmp_path):
    server.content = made_net(tmp_path / "net.pth")
    published(net="A", licence="CC BY 4.0")
    net = verydeep.load(NAME)
    assert net.configuration.name == "A"
    assert net.card.class_names[:2] == ("n01440764", "n01443537")
    provenance = net.card.provenance
    assert (provenance["published"], provenance["licence"]) == (NAME, "CC BY 4.0")
    assert provenance["address"] == server.url
    recipe = verydeep.Recipe(net="A", start_from=NAME)
    assert recipe.start_from == NAME
    assert len(server.asked) == 1


def test_a_published_file_is_recognised_under_any_name(server, published, tmp_path):
    server.content = made_net(tmp_path / "renamed.pth")
    published(net="A")
    assert verydeep.load(tmp_path / "renamed.pth").card.provenance["published"] == NAME
    torch.save(foreign_nets.torchvision_state(foreign_nets.made("A", seed=1)), tmp_path / "other.pth")
    card = verydeep.load(tmp_path / "other.pth").card
    assert "published" not in card.provenance
    assert card.class_names is None


def test_a_path_that_exists_is_never_taken_for_a_name(server, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test").mkdir()
    made_net(tmp_path / "test" / "vgg")
    assert verydeep.load(NAME).configuration.name == "A"
    assert server.asked == []


def test_a_mistyped_name_is_refused_with_a_hint():
    with refused("torchvison/vgg16 does not exist; did you mean torchvision/vgg16"):
        verydeep.load("torchvison/vgg16")


WITHOUT_NETWORK = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("a socket was opened")
socket.socket.__init__ = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
import verydeep
for name in dir(verydeep):
    getattr(verydeep, name)
from verydeep import cli
for words in (["weights"], ["weights", "torchvision/vgg16"], ["weights", "--json"]):
    sys.argv = ["verydeep", *words]
    cli.main()
"""


@pytest.mark.slow
def test_importing_and_listing_use_no_network():
    done = subprocess.run([sys.executable, "-c", WITHOUT_NETWORK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torchvision/vgg16" in done.stdout
