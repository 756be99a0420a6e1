import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from verydeep.engine import schedule
from verydeep.engine.schedule import LINE, Convolution, program

NOTHING = -1


def net_of(channels, poolings):
    """3x3 layers with these channels, some followed by a pooling, then a fully connected layer."""
    layers = [
        Convolution(inputs, outputs, True, pool, False)
        for inputs, outputs, pool in zip([3, *channels[:-1]], channels, poolings, strict=True)
    ]
    return (*layers, Convolution(channels[-1], 5, False, False, True))


def carried_out(found, layers, images, height, width):
    """Run the program on marks instead of values, and check which layer and image each output is from."""
    marks = lambda layer, image: layer * 1000 + image  # noqa: E731
    memory = {
        "input": np.repeat([marks(-1, image) for image in range(images)], 3 * height * width),
        "workspace": np.full(found.workspace, NOTHING),
        "output": np.full(images * 5, NOTHING),
    }
    for call in found.calls:
        stage = call.stage
        read = stage.inputs * stage.height * stage.width
        source = memory[call.source.memory][call.source.at : call.source.at + call.images * read]
        images_read = source.reshape(call.images, read)
        assert (images_read == images_read[:, :1]).all()
        first = images_read[0, 0] - marks(stage.layer - 1, 0)
        assert images_read[:, 0].tolist() == [marks(stage.layer - 1, first + i) for i in range(call.images)]
        last = stage.layer + (stage.kind == "pair")
        written = np.repeat([marks(last, first + i) for i in range(call.images)], stage.size)
        # A call may not write over what it reads.
        overlap = call.source.at < call.to.at + len(written) and call.to.at < call.source.at + len(source)
        assert call.source.memory != call.to.memory or not overlap
        assert call.to.at + len(written) <= len(memory[call.to.memory])
        memory[call.to.memory][call.to.at : call.to.at + len(written)] = written
    assert memory["output"].tolist() == np.repeat([marks(len(layers) - 1, i) for i in range(images)], 5).tolist()


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=7),
    st.integers(1, 11),
    st.integers(32, 40),
    st.integers(1, 40_000),
)
def test_every_image_passes_every_layer_once_and_nothing_is_overwritten_too_early(shape, images, side, together):
    channels = [each for each, _ in shape]
    poolings = [pool and number < 4 for number, (_, pool) in enumerate(shape)]
    layers = net_of(channels, poolings)
    before, schedule.TOGETHER = schedule.TOGETHER, together
    try:
        found = program.__wrapped__(layers, images, side, side + 3, 2)
        calls = [(call.stage.layer, image) for call in found.calls for image in range(call.images)]
        stages = {layer for layer, _ in calls}
        assert len(calls) == images * len(stages)
        carried_out(found, layers, images, side, side + 3)
    finally:
        schedule.TOGETHER = before


def test_the_workspace_of_a_net_does_not_grow_with_the_mini_batch():
    channels = [64, 64, 128, 128, 256, 256, 256]
    layers = net_of(channels, [False, True, False, True, False, False, True])
    sizes = [program(layers, images, 224, 224, 2).workspace for images in (8, 64, 512)]
    # Two places within a group, and one after each of the three poolings.
    assert max(sizes) <= 5 * (schedule.TOGETHER + LINE)
    first = program(layers, 64, 224, 224, 2).calls
    assert {call.images for call in first if call.stage.layer == 2} == {2}  # two maps of 112 x 112 x 128


def test_a_layer_alone_takes_all_images_at_once():
    (call,) = program((Convolution(64, 64, True, True, False),), 100, 224, 224, 2).calls
    assert call.images == 100
