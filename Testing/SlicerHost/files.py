"""`slicer.app.coreIOManager()` for tests: reads and writes nodes and scenes with Slicer's own classes."""

import tempfile
from pathlib import Path

import slicer
import vtk

# file type of slicer.util -> (node class, storage class)
READERS = {
    "VolumeFile": ("vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode"),
    "SegmentationFile": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"),
    "TransformFile": ("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode"),
    "TableFile": ("vtkMRMLTableNode", "vtkMRMLTableStorageNode"),
    "MarkupsFile": ("vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsJsonStorageNode"),
}
TYPE_BY_ENDING = (
    ((".seg.nrrd", ".seg.nhdr", ".seg.vtm"), "SegmentationFile"),
    ((".mrk.json",), "MarkupsFile"),
    ((".h5", ".tfm"), "TransformFile"),
    ((".csv", ".tsv"), "TableFile"),
    ((".nrrd", ".nhdr", ".nii.gz", ".nii", ".mha", ".mhd"), "VolumeFile"),
)


class CoreIOManager:
    """Reads and writes by the rules of `slicer.util.loadNodeFromFile` and `saveNode`."""

    def fileType(self, filename):
        """What kind of node a file holds, judged by its name; `NoFile` if that says nothing."""
        name = Path(filename).name.lower()
        return next((kind for endings, kind in TYPE_BY_ENDING if name.endswith(endings)), "NoFile")

    def fileWriterFileType(self, node):
        """What kind of file a node is written to."""
        return next((kind for kind, (node_class, _) in READERS.items() if node.IsA(node_class)), "NoFile")

    def loadNodes(self, filetype, properties, loaded, messages):
        """Read `properties["fileName"]` and add the node to `loaded`; False and a message if that fails."""
        path = Path(properties["fileName"])
        if filetype == "SceneFile":
            return self._load_scene(path)
        if filetype not in READERS or not path.is_file():
            messages.AddMessage(
                vtk.vtkCommand.ErrorEvent, f"no such file or no reader for {filetype}: {path}"
            )
            return False
        node_class, storage_class = READERS[filetype]
        if filetype == "VolumeFile" and properties.get("labelmap"):
            node_class = "vtkMRMLLabelMapVolumeNode"
        node = (
            self._read_transform(path)
            if filetype == "TransformFile"
            else self._read(path, node_class, storage_class)
        )
        if node is None:
            messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"{storage_class} can't read {path}")
            return False
        if properties.get("name"):
            node.SetName(properties["name"])
        loaded.AddItem(node)
        return True

    def saveNodes(self, filetype, properties, messages):
        """Write node `properties["nodeID"]` to `properties["fileName"]`, or the scene to such an .mrb file.

        False if that fails.
        """
        if filetype == "SceneFile":
            return self._save_scene(Path(properties["fileName"]))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if not node.AddDefaultStorageNode():
            messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"no writer for {node.GetClassName()}")
            return False
        storage = node.GetStorageNode()
        storage.SetFileName(str(properties["fileName"]))
        storage.SetUseCompression(properties.get("useCompression", True))
        return bool(storage.WriteData(node))

    def _save_scene(self, path):
        with tempfile.TemporaryDirectory() as folder:
            inside, logic = Path(folder) / path.stem, slicer.app.applicationLogic()
            inside.mkdir()
            done = logic.SaveSceneToSlicerDataBundleDirectory(str(inside), None)
            return bool(done and logic.Zip(str(path), str(inside)))

    def _load_scene(self, path):
        """Add what an .mrb file holds to the scene."""
        with tempfile.TemporaryDirectory() as folder:
            file = slicer.app.applicationLogic().UnpackSlicerDataBundle(str(path), folder)
            slicer.mrmlScene.SetURL(file)
            return bool(file and slicer.mrmlScene.Import())

    def _read(self, path, node_class, storage_class):
        """The new node with the file's content, None (and nothing in the scene) if the file can't be read."""
        name = slicer.mrmlScene.GenerateUniqueName(path.name.split(".")[0])
        node = slicer.mrmlScene.AddNewNodeByClass(node_class, name)
        storage = slicer.mrmlScene.AddNewNodeByClass(storage_class)
        storage.SetFileName(str(path))
        if not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(storage)
            slicer.mrmlScene.RemoveNode(node)
            return None
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        return node

    def _read_transform(self, path):
        """As Slicer: what the file holds decides on the node's class. None if the file can't be read."""
        node = slicer.modules.transforms.logic().AddTransform(str(path), slicer.mrmlScene)
        if node is not None:
            node.SetName(slicer.mrmlScene.GenerateUniqueName(path.name.split(".")[0]))
        return node
