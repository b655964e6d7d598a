"""register_volumes: nodes in, nodes out, blocking or not, and a scene that only ever sees whole results."""

import os
import signal

import numpy as np
import pytest

from RegCore.progress import Cancelled
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

SLOW = {"steps": 3000}


@pytest.fixture
def logic(library, stand_in):
    return library("logic")


@pytest.fixture
def pair(host):
    """A fixed and a moving volume and a segmentation of each, as attributes; `make` makes more."""
    from Testing.Slicer import scenes

    class Pair:
        make = scenes
        fixed = scenes.volume("F")
        moving = scenes.volume("M", (11, 9, 13), scenes.MOVING)

    f, m = scenes.boxes((14, 16, 12)), scenes.boxes((11, 9, 13))
    Pair.fixed_segmentation = scenes.segmentation("FS", Pair.fixed, {"Liver": f == 1, "Gut": f == 2})
    Pair.moving_segmentation = scenes.segmentation("MS", Pair.moving, {"gut": m == 2, "liver": m == 1})
    return Pair


def started(logic, pair, host, **more):
    """A slow registration that has told its first progress."""
    told = []
    run = logic.register_volumes(
        pair.fixed, pair.moving, settings=SLOW, wait=False, progress=lambda *all: told.append(all), **more
    )
    assert host.spin(10, until=lambda: len(told) > 1)
    return run


def test_waiting_gives_nodes_and_figures(logic, pair):
    told = []
    result = logic.register_volumes(
        pair.fixed,
        pair.moving,
        method="affine",
        fixed_segmentation=pair.fixed_segmentation,
        moving_segmentation=pair.moving_segmentation,
        progress=lambda *all: told.append(all),
    )
    assert result.transform.GetClassName() == "vtkMRMLLinearTransformNode"
    assert result.warped_volume.GetName() == "M registered"
    assert result.warped_segmentation.GetName() == "MS registered"
    assert list(result.warped_segmentation.GetSegmentation().GetSegmentIDs()) == ["id-gut", "id-liver"]
    assert result.metrics["dice"]["after"] == {"Liver": 0.93, "Gut": 0.88}
    assert result.seconds == 1.25
    fraction, stage, values = told[-1]
    assert 0 <= fraction <= 1 and stage == "stage two" and values["loss"] == 0.5


def test_the_nodes_agree_with_the_answer_under_parent_transforms(logic, pair):
    from Testing.Slicer import stand_in_worker

    make = pair.make
    make.under(pair.fixed, make.linear_parent("Bed")[0])
    make.under(pair.moving, make.linear_parent("Room")[0])
    result = logic.register_volumes(pair.fixed, pair.moving, settings={"play": "bend"})
    grid = Geometry((14, 16, 12), make.world_matrix(pair.fixed))
    expected = stand_in_worker.bend(Volume(np.zeros(grid.shape), grid))
    points = grid.to_world(np.random.default_rng(2).uniform(0, 11, (1000, 3)))
    np.testing.assert_allclose(make.mapped_by(result.transform, points), expected.map(points), atol=2e-5)
    np.testing.assert_allclose(
        make.world_matrix(result.warped_volume), make.world_matrix(pair.fixed), atol=1e-9
    )


def test_registering_again_with_the_moving_volume_under_the_result_gives_the_same(logic, pair):
    make = pair.make
    first = logic.register_volumes(pair.fixed, pair.moving)
    voxels = make.array(first.warped_volume).copy()
    make.under(pair.moving, first.transform)
    again = logic.register_volumes(
        pair.fixed, pair.moving, output_transform=first.transform, warped_volume=first.warped_volume
    )
    assert again.transform is first.transform
    np.testing.assert_array_equal(make.array(again.warped_volume), voxels)


def test_all_inputs_reach_the_worker(logic, pair, stand_in, monkeypatch):
    import slicer

    make, seen = pair.make, {}
    monkeypatch.setattr(
        type(stand_in), "request", lambda self, command, arguments, *rest: seen.update(arguments)
    )
    lists = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in "ab"]
    for node in lists:
        node.AddControlPoint(1, 2, 3)
    initial, matrix = make.linear_parent("Start")
    logic.register_volumes(
        pair.fixed,
        pair.moving,
        method="rigid",
        fixed_segmentation=pair.fixed_segmentation,
        moving_segmentation=pair.moving_segmentation,
        fixed_landmarks=lists[0],
        moving_landmarks=lists[1],
        fixed_mask=pair.fixed_segmentation,
        moving_mask=pair.moving_segmentation,
        initial_transform=initial,
        settings={"a": 1},
        device="cpu",
        seed=4,
        wait=False,
    )
    assert (seen["method"], seen["settings"], seen["device"], seen["seed"]) == ("rigid", {"a": 1}, "cpu", 4)
    np.testing.assert_array_equal(seen["landmarks"], [[1, 2, 3, 1, 2, 3]])
    np.testing.assert_allclose(seen["initial"].matrix, np.linalg.inv(matrix), atol=1e-12)
    labels = make.boxes((11, 9, 13))
    np.testing.assert_array_equal(seen["moving_labels"].array, labels)
    np.testing.assert_array_equal(seen["moving_mask"].array, labels > 0)
    np.testing.assert_array_equal(seen["fixed_mask"].array, make.boxes((14, 16, 12)) > 0)
    import inspect

    import RegCore

    accepted = set(inspect.signature(RegCore.register).parameters)
    assert set(seen) - accepted == {"full_field", "wanted"}  # which the worker takes itself


def test_without_waiting_the_windows_live_and_done_is_told(logic, pair, host):
    ends = []
    run = logic.register_volumes(pair.fixed, pair.moving, wait=False, done=ends.append)
    assert run.running
    assert host.spin(10, until=lambda: ends)
    assert ends == [run] and not run.running and run.error is None
    assert run.result.transform.GetName() == "M to F"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fixed": None}, "as the fixed volume, but none was given"),
        ({"moving": "segmentation"}, "as the moving volume, but a vtkMRMLSegmentationNode"),
        ({"moving": "fixed"}, "'F' is both the fixed and the moving volume"),
        ({"warped_volume": "moving"}, "'M' can't be input and output"),
        ({"fixed_landmarks": "landmarks"}, "Landmarks are needed for both"),
        (
            {"fixed_landmarks": "landmarks", "moving_landmarks": "segmentation"},
            "'FS' is a vtkMRMLSegmentationNode; a list of points is expected",
        ),
        ({"fixed_mask": "landmarks"}, "'L' is a vtkMRMLMarkupsFiducialNode; a mask is"),
        ({"moving_segmentation": "landmarks"}, "'L' is a vtkMRMLMarkupsFiducialNode; a segmentation or"),
        ({"initial_transform": "moving"}, "'M' is a vtkMRMLScalarVolumeNode; a transform is expected"),
        ({"output_transform": "landmarks"}, "'L' is a vtkMRMLMarkupsFiducialNode; a transform is"),
        ({"warped_volume": "segmentation"}, "'FS' is a vtkMRMLSegmentationNode; a scalar volume is"),
        ({"warped_segmentation": "landmarks"}, "'L' is a vtkMRMLMarkupsFiducialNode; a segmentation is"),
    ],
)
def test_wrong_nodes_are_refused_before_anything_starts(logic, pair, stand_in, change, sentence):
    import slicer

    known = {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "segmentation": pair.fixed_segmentation,
        "landmarks": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "L"),
    }
    arguments = {"fixed": pair.fixed, "moving": pair.moving}
    arguments |= {name: known.get(value) for name, value in change.items()}
    before = pair.make.inventory()
    with pytest.raises(InputError, match=sentence):
        logic.register_volumes(**arguments)
    assert stand_in.process_id is None
    assert pair.make.inventory() == before


@pytest.mark.parametrize(
    ("play", "sentence"),
    [
        ("crash", "ended unexpectedly"),
        ("input", "moving: the image is constant"),
        ("memory", "choose the device CPU"),
        ("spoilt", "could not be put into the scene"),
    ],
)
def test_a_failure_leaves_the_scene_and_says_why(logic, pair, play, sentence):
    before = pair.make.inventory()
    with pytest.raises(logic.RegistrationError, match=sentence):
        logic.register_volumes(pair.fixed, pair.moving, settings={"play": play})
    assert pair.make.inventory() == before
    assert logic.register_volumes(pair.fixed, pair.moving).transform is not None


def test_killing_the_process_leaves_earlier_results_as_they_were(logic, pair, host, stand_in):
    first = logic.register_volumes(pair.fixed, pair.moving, settings={"play": "bend"})
    outputs = {"output_transform": first.transform, "warped_volume": first.warped_volume}
    before = pair.make.inventory()
    for _ in range(2):
        run = started(logic, pair, host, **outputs)
        os.kill(stand_in.process_id, signal.SIGKILL)
        assert host.spin(5, until=lambda run=run: not run.running)
        assert "ended unexpectedly" in str(run.error)
        assert pair.make.inventory() == before
    assert logic.register_volumes(pair.fixed, pair.moving, **outputs).transform.GetName() == "M to F"


def test_cancelling_leaves_the_scene_as_it_was(logic, pair, host):
    run = started(logic, pair, host)
    before = pair.make.inventory()
    run.cancel()
    assert host.spin(60, until=lambda: not run.running)
    assert isinstance(run.error, logic.RegistrationCancelled)
    assert pair.make.inventory() == before


def test_the_progress_callback_can_cancel_and_its_errors_come_through(logic, pair):
    def cancel(*told):
        raise Cancelled

    def fail(*told):
        raise ZeroDivisionError("a fault of the caller")

    with pytest.raises(logic.RegistrationCancelled):
        logic.register_volumes(pair.fixed, pair.moving, settings=SLOW, progress=cancel)
    with pytest.raises(ZeroDivisionError):
        logic.register_volumes(pair.fixed, pair.moving, settings=SLOW, progress=fail)
    assert logic.register_volumes(pair.fixed, pair.moving).transform is not None


def test_closing_the_scene_during_a_run_drops_the_result(logic, pair, host):
    run = started(logic, pair, host)
    host.close_scene()
    assert host.spin(3, until=lambda: not run.running)
    assert "because the scene was closed" in str(run.error)
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 0
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_removing_an_input_during_a_run_drops_the_result(logic, pair, host):
    run = started(logic, pair, host)
    host.scene.RemoveNode(pair.moving)
    assert host.spin(3, until=lambda: not run.running)
    assert "because 'M' left the scene" in str(run.error)


def test_removing_an_output_during_a_run_makes_a_new_one(logic, pair, host):
    first = logic.register_volumes(pair.fixed, pair.moving)
    outputs = {"output_transform": first.transform, "warped_volume": first.warped_volume}
    run = logic.register_volumes(pair.fixed, pair.moving, wait=False, settings={"steps": 30}, **outputs)
    host.scene.RemoveNode(first.transform)
    host.scene.RemoveNode(first.warped_volume)
    assert run.wait() is run.result
    assert host.scene.IsNodePresent(run.result.transform) and run.result.transform is not first.transform


def test_a_second_run_at_the_same_time_is_refused(logic, pair, host):
    run = started(logic, pair, host)
    with pytest.raises(logic.RegistrationError, match="already running"):
        logic.register_volumes(pair.fixed, pair.moving)
    run.cancel()
    assert host.spin(3, until=lambda: not run.running)
