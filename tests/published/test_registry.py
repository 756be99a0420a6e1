"""The registry: every entry is complete and true to its sources, and a mistyped name gets a hint."""

import re

import pytest

from verydeep import UserError
from verydeep.configurations import CONFIGURATIONS
from verydeep.experiments.plan import TABLES
from verydeep.interop.conventions import CONVENTIONS
from verydeep.published.registry import class_words, entry, registry

ENTRIES = list(registry().values())
DIGITS = {"md5": (32, 32), "sha256": (8, 64)}


@pytest.mark.parametrize("each", ENTRIES, ids=lambda each: each.name)
def test_every_entry_says_what_a_user_needs(each):
    assert re.fullmatch(r"(torchvision|timm|authors|keras|matconvnet)/[a-z0-9_.-]+", each.name)
    assert re.fullmatch(
        r"https?://[a-z.]+/[A-Za-z0-9_.~/-]+\.(pth|bin|safetensors|h5|caffemodel|mat)", each.address
    )
    least, most = DIGITS[each.algorithm]
    assert re.fullmatch(rf"[0-9a-f]{{{least},{most}}}", each.hash)
    assert each.net in CONFIGURATIONS
    assert each.preprocessing in CONVENTIONS
    assert each.classes in (0, 1000)
    assert all((each.hash_source, each.licence, each.licence_source))
    assert each.bytes is None or each.megabytes == round(each.bytes / 1e6)
    if each.classes:
        assert 0 < each.error[1] < each.error[0] < 50
        assert each.protocol
        assert each.errors_source
    else:
        assert each.error is each.protocol is each.class_names is None


def test_files_differ():
    for key in ("address", "hash"):
        assert len({getattr(each, key) for each in ENTRIES}) == len(ENTRIES)


def test_sizes_fit_the_parameters():
    for each in ENTRIES:
        if each.name.partition("/")[0] in ("authors", "keras", "timm") or each.bytes:
            parameters = CONFIGURATIONS[each.net].parameters(1000)
            if not each.classes:
                parameters -= 102_764_544 + 16_781_312 + 4_097_000  # fc6, fc7 and fc8 of Table 2
            expected = 4 * parameters / 1e6
            # MATLAB compresses its files.
            assert each.megabytes == pytest.approx(expected, rel=0.08 if each.publisher == "matconvnet" else 0.01)


def test_the_authors_nets_should_give_the_errors_of_the_paper():
    printed = {}
    for row in (*TABLES["table3"].rows, *TABLES["table4"].rows):
        (tested,) = row.nets
        if tested.training in ("D-jitter", "E-jitter"):
            printed[tested.training[0], tested.scales] = (row.printed.top1, row.printed.top5)
    assert len(printed) == 4
    for each in ENTRIES:
        if each.publisher in ("authors", "keras", "matconvnet") and each.classes:
            assert {(each.net, dense.scales): dense.error for dense in each.dense} == {
                key: value for key, value in printed.items() if key[0] == each.net
            }
        else:
            assert each.dense == ()


def test_the_class_order_is_that_of_sorted_wordnet_ids():
    wnids = entry("authors/vgg16").class_names
    assert len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)
    # Known places: torchvision's and Keras' index 0 is the tench, 207 the golden retriever, 999 toilet tissue.
    words = list(class_words().values())
    assert words[0] == "tench, Tinca tinca"
    assert words[207] == "golden retriever"
    assert words[999].startswith("toilet tissue")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("vgg16", "torchvision/vgg16 or authors/vgg16 or keras/vgg16 or matconvnet/vgg16"),
        ("torchvison/vgg16", "torchvision/vgg16"),
        ("timm/vgg16", "timm/vgg16.tv_in1k"),
        ("Keras/VGG19", "keras/vgg19"),
        ("keras/vgg16-notop", "keras/vgg16"),
    ],
)
def test_a_mistyped_name_lists_similar_ones(typed, meant):
    with pytest.raises(UserError, match=re.escape(f"did you mean {meant}")):
        entry(typed)


def test_another_word_points_to_the_list():
    with pytest.raises(UserError, match="verydeep weights lists them all"):
        entry("resnet")
