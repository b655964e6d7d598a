"""How much memory a training needs, said in the form, and the refusal of one that needs too much."""

import re

from Testing.Slicer.test_train_panel import pairs, real, train  # noqa: F401 - fixtures


def test_the_form_says_what_a_training_needs(train):  # noqa: F811
    ui = train.ui
    said = []
    for size in (64, 128):
        for name in "IJK":
            getattr(ui, f"size{name}SpinBox").value = size
        said.append(float(re.fullmatch(r"About (\d+\.\d) GB", ui.memoryLabel.text)[1]))
    assert 0.4 < said[0] < 1 and 2 < said[1] < 5
    ui.batchSpinBox.value = 2
    assert float(ui.memoryLabel.text.split()[1]) > 1.7 * said[1]


def test_a_training_that_needs_too_much_is_refused_with_what_fits(real, pairs, tmp_path):  # noqa: F811
    ui = real.fill(pairs).ui
    for name in "IJK":
        getattr(ui, f"size{name}SpinBox").value = 512
    ui.channelsSpinBox.value = 64
    ui.trainButton.click()
    text = real.finish()
    assert re.match(
        r"a training on 512 x 512 x 512 voxels with 64 channels and a pair in a step needs about", text
    )
    assert re.search(r"GB are free: the largest that fits is (\d+) x \1 x \1$", text)
    assert ui.trainButton.enabled and not ui.resumeButton.enabled
