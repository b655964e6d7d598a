"""The Batch panel: many registrations one after the other, of files, volumes of the scene or a sequence."""

from dataclasses import replace
from pathlib import Path

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from RegCore.evaluation.figures import DASH, FIGURES

from ..batch import Batch, Item, pairs_in, start_files
from ..logic import register_volumes
from ..nodes import segment_names
from ..nodes.belongings import mask_called_after, segmentation_drawn_on
from ..nodes.sequences import SequenceItems, volumes_beside
from ..nodes.showing import show_over
from ..parameters import Start
from ..paths import typed_path
from ..process import shared_worker
from . import results
from .fields import Fields, offer, tame_selectors
from .manifest import ManifestSection
from .panel import Panel, handler

FILES, VOLUMES, SEQUENCE = "files", "volumes", "sequence"
SHOWN = ("dice_mean", "ncc", "fold_percent")  # the figures of a row
TOLD = ("fixed_segmentation", "moving_segmentation", "fixed_mask", "moving_mask")  # in the log of an item
WIDE = 62  # pixels of their columns


class BatchPanel(Panel):
    """Binds the widgets of Batch.ui to a batch; method, start and outputs are those of the Register panel."""

    def __init__(self, ui, register):
        """ui: the widgets by name. register: the RegisterPanel."""
        super().__init__(ui, ui.batchStatusLabel, ui.batchLogText)
        self.register = register
        self._items: list[Item] = []
        self._volumes: list = []  # in the order of the list
        self._opened: dict[str, tuple] = {}  # name of a row -> the nodes that its files became
        ui.sequenceSelector.setMRMLScene(slicer.mrmlScene)
        tame_selectors(ui)
        sources = {
            FILES: _("Files of a folder"),
            VOLUMES: _("Volumes of the scene"),
            SEQUENCE: _("A sequence"),
        }
        offer(ui.sourceSelector, sources)
        for line in (ui.folderPath, ui.outPath):
            line.filters = ctk.ctkPathLineEdit.Dirs
        ui.fixedPath.filters = ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Readable
        self.fields = Fields(
            ui, ["sourceSelector", "folderPath", "fixedPath", "outPath"], "DeepRegSlicer/Batch", self.update
        )
        if not self.fields["outPath"]:
            self.fields["outPath"] = str(Path.home() / "DeepRegSlicer" / "batch")
        ui.startButton.clicked.connect(self.on_start)
        ui.stopButton.clicked.connect(self.on_stop)
        self.manifest = ManifestSection(self)
        ui.sequenceSelector.currentNodeChanged.connect(self.update)
        ui.batchTable.itemSelectionChanged.connect(self.on_row)
        self.refresh()

    def close(self) -> None:
        """Stop what runs and keep the settings; the widgets are not touched any more."""
        self.closed = True
        self.fields.keep()
        if self.run is not None:
            self.run.cancel()

    def choices(self) -> tuple:
        """What is to be registered, and by what."""
        p = self.register.parameters
        return (*self.fields.values().items(), self.ui.sequenceSelector.currentNode(), p and p.fixedVolume)

    def refresh(self) -> None:
        """List the volumes of the scene; those that were ticked stay so. Show the results again."""
        ticked = {id(node) for node in self._ticked()}
        p = self.register.parameters
        self._volumes = volumes_beside(p and p.fixedVolume)
        self.ui.volumesList.clear()
        for node in self._volumes:
            item = qt.QListWidgetItem(node.GetName())
            item.setCheckState(qt.Qt.Checked if id(node) in ticked else qt.Qt.Unchecked)
            self.ui.volumesList.addItem(item)
        self._fill_table()
        self.update()

    def _ticked(self) -> list:
        items = [self.ui.volumesList.item(row) for row in range(self.ui.volumesList.count)]
        pairs = zip(self._volumes, items, strict=True)
        return [node for node, item in pairs if item.checkState() == qt.Qt.Checked]

    def update(self) -> None:
        """Show what belongs to the source, and say why nothing can be begun."""
        if self.closed:
            return
        ui, source = self.ui, self.fields["sourceSelector"]
        for name in ("folderPath", "fixedPath"):
            getattr(ui, name).visible = getattr(ui, f"{name}Label").visible = source == FILES
        ui.outPathLabel.text = _("Results folder:") if source == FILES else _("Manifest folder:")
        ui.manifestButton.visible = source != FILES
        ui.sequenceSelector.visible = ui.sequenceSelectorLabel.visible = source == SEQUENCE
        ui.volumesList.visible = source == VOLUMES
        problem = self.validate()
        ui.startButton.enabled, ui.startButton.toolTip = not problem, problem or _("Begin")
        ui.manifestButton.enabled = not problem
        ui.stopButton.enabled = self.run is not None
        ui.batchTable.visible = bool(self._items)
        ui.methodLabel.text = self._about()
        self.set_hint(problem or _("Ready"))

    def _about(self) -> str:
        """What the Register tab says of the registrations to come."""
        p, in_scene = self.register.parameters, self.fields["sourceSelector"] != FILES
        if p is None:
            return ""
        start = p.initialTransform if in_scene else None
        text = _("Method: {method}. Start: {start}. Both and the outputs are those of the Register tab.")
        text = text.format(method=p.method.label(), start=start.GetName() if start else p.start.label())
        if in_scene and p.fixedMask is not None:
            text += " " + _("Fixed mask: {name}.").format(name=p.fixedMask.GetName())
        return text

    def validate(self) -> str:
        """Why nothing can be begun, empty if it can."""
        p, source = self.register.parameters, self.fields["sourceSelector"]
        if self.run is not None:
            return _("Registrations are running")
        if self.register.lacks_packages():
            return _("Install the missing packages first")
        given = p is not None and source != FILES and p.initialTransform is not None
        if p is not None and p.start is Start.landmarks and not given:
            return _("Choose another start than landmarks in the Register tab")
        if p is not None and (problem := self.register.outputs.validate(many=True, files=source == FILES)):
            return problem
        if source == FILES:
            return "" if self.fields["folderPath"] else _("Choose a folder")
        if p is None or p.fixedVolume is None:
            return _("Choose a fixed volume in the Register tab")
        if source == SEQUENCE and self.ui.sequenceSelector.currentNode() is None:
            return _("Choose a sequence")
        return ""

    def sources(self) -> list[tuple]:
        """What is chosen in the scene: name and node; or name, place and the sequence's `SequenceItems`."""
        if self.fields["sourceSelector"] == VOLUMES:
            return [(node.GetName(), node) for node in self._ticked()]
        sequence = SequenceItems(self.ui.sequenceSelector.currentNode(), self.register.parameters.fixedVolume)
        return [(sequence.name(n), n, sequence) for n in range(len(sequence))]

    def inputs_of(self, volume) -> dict:
        """What belongs to a moving volume of the scene, by the names of `register_volumes`.

        That is what the Register tab says of it, else the segmentation that was drawn on it and the mask that
        is called after it. Where nobody chose a fixed segmentation, one that was drawn on the fixed volume
        guides too, if it has a segment in common with the moving one.
        """
        p = self.register.parameters
        chosen = volume is p.movingVolume
        found = {
            "moving_segmentation": chosen and p.movingSegmentation or segmentation_drawn_on(volume),
            "moving_mask": chosen and p.movingMask or mask_called_after(volume),
            "fixed_mask": p.fixedMask,
            "left_out": p.left_out(),
        }
        left = {name.casefold() for name in found["left_out"]}
        fixed = p.fixedSegmentation or segmentation_drawn_on(p.fixedVolume)
        moving = found["moving_segmentation"]
        names = segment_names(fixed, moving)
        both = {name.casefold() for name in names.both} - left
        if moving is not None and not both | ({name.casefold() for name in names.moving} - left):
            moving = found["moving_segmentation"] = None  # all of it is left out
        guides = moving is not None and (both or p.fixedSegmentation is not None)
        return found | {"fixed_segmentation": fixed if guides else None}

    # ---- start and end ----

    @handler
    def on_start(self) -> None:
        """Register all, one after the other."""
        shared_worker().check_free()
        self.fields.keep()
        p, source = self.register.parameters, self.fields["sourceSelector"]
        options = {"method": p.chosen(), "settings": p.settings(), "device": p.device.value, "seed": p.seed}
        more = replace(self.register.outputs.more(), along=())  # which are of one moving patient
        start_at = p.initialTransform or p.starting()
        in_scene = {"initial_transform": start_at, "create_images": p.createImages, "more": more}
        self._opened, self._sequence = {}, None
        if source == FILES:
            folder, out, fixed = (Path(self.fields[n]) for n in ("folderPath", "outPath", "fixedPath"))
            items = pairs_in(folder, out, typed_path(self.fields["fixedPath"]) and str(fixed))
            start = start_files(options | {"initial": p.starting(), "wanted": more.wanted()})
        elif source == VOLUMES:
            items = [Item(node.GetName(), node) for node in self._ticked()]
            in_scene |= {"apply_to_moving": p.applyToMoving and p.createTransform and not p.createImages}
            start = self._start_nodes(p.fixedVolume, options | in_scene)
            if not items:
                self.set_status(_("Tick the volumes that are to be registered."))
                return
        else:
            self._sequence = SequenceItems(self.ui.sequenceSelector.currentNode(), p.fixedVolume)
            self._sequence.keep_fixed()
            items = [Item(self._sequence.name(n), n) for n in range(len(self._sequence))]
            in_scene |= {"fixed_mask": p.fixedMask}
            start = self._start_places(self._sequence.fixed, options | in_scene)
        self._items, self._fixed = items, p.fixedVolume
        self.ui.batchProgressBar.value = 0
        self.ui.batchProgressBar.visible = True
        self.set_status(_("Registering …"))
        self.run = Batch(items, start, self.on_changed, self.on_done)
        if not self.run.running:  # every item failed at once
            self.on_done()
        self.on_changed(0.0)
        self.update()

    def _start_nodes(self, fixed, options: dict):
        belongs = {id(node): self.inputs_of(node) for node in self._ticked()}  # as it is now

        def start(item: Item, progress, done):
            given = belongs[id(item.what)]
            told = [given[name].GetName() for name in TOLD if given[name] is not None]
            self.log(f"{item.name}: {', '.join(told)}" if told else item.name)
            more = {**options, **given, "wait": False}
            return register_volumes(fixed, item.what, **more, progress=progress, done=done)

        return start

    def _start_places(self, fixed, options: dict):
        sequence = self._sequence

        def start(item: Item, progress, done):
            def close(run) -> None:
                sequence.close(item.what, run.result)
                done(run)

            node = sequence.open(item.what)
            try:
                return register_volumes(fixed, node, **options, wait=False, progress=progress, done=close)
            except Exception:
                sequence.close(item.what)
                raise

        return start

    def on_changed(self, fraction: float) -> None:
        """Show how far it is, and what is there already."""
        if self.closed:
            return
        self.ui.batchProgressBar.value = round(100 * fraction)
        over = sum(item.result is not None or item.error is not None for item in self._items)
        self.announce(_("{count} of {all} are done").format(count=over, all=len(self._items)), fraction)
        self._fill_table()

    def _fill_table(self) -> None:
        """Show what is there, in the colours of the theme that is in use now."""
        results.put(self.ui.batchTable, [self._row(item) for item in self._items], WIDE)

    @staticmethod
    def _row(item: Item) -> list[results.Cell]:
        if item.error is not None:
            return [(f"{item.name}: {item.error}", -1), *[(DASH, 0)] * len(SHOWN)]
        found = item.result
        metrics = {} if found is None else found["metrics"] if isinstance(found, dict) else found.metrics
        row = [(item.name, 0)]
        for key in SHOWN:
            value = metrics.get(key)
            pair = value if isinstance(value, dict) else {"after": value}
            text = FIGURES[key].text(pair.get("after"), unit=False) if value is not None else ""
            row.append((text, FIGURES[key].verdict(pair.get("before"), pair.get("after"))))
        return row

    @handler
    def on_stop(self) -> None:
        """Begin no other."""
        if self.run is not None:
            self.set_status(_("Stopping …"))
            self.run.cancel()

    def on_done(self) -> None:
        """Say what came of it."""
        self.run = None
        if self.closed:
            return
        self.stop_waiting()
        if self._sequence is not None:
            self._sequence.browse()
        failed = [item for item in self._items if item.error is not None]
        good = sum(item.result is not None for item in self._items)
        text = _("{good} of {all} are registered.").format(good=good, all=len(self._items))
        if failed:
            text += " " + _("The first that failed: {name}: {error}").format(
                name=failed[0].name, error=failed[0].error
            )
        self.set_status(text)
        self.announce(text)
        self.log(text)
        for item in failed:
            self.log(f"{item.name}: {item.error}")
        self.refresh()

    def stop_waiting(self) -> None:
        """Show that nothing is under way any more."""
        self.ui.batchProgressBar.visible = False

    # ---- afterwards ----

    @handler
    def on_row(self) -> None:
        """Show the result of a row in the slice views."""
        row = self.ui.batchTable.currentRow()
        item = self._items[row] if 0 <= row < len(self._items) else None
        if item is None or item.result is None:
            return
        if isinstance(item.result, dict):
            show_over(*self._open(item))
        elif self._sequence is None:
            show_over(self._fixed, item.result.warped_volume or item.what)
        else:
            self._sequence.show(item.what)

    def _open(self, item: Item) -> tuple:
        """The fixed and the warped volume of a pair of files, loaded when they are first asked for."""
        nodes = self._opened.get(item.name, ())
        if not nodes or not all(slicer.mrmlScene.IsNodePresent(node) for node in nodes):
            warped = str(Path(item.what["out"]) / "warped.nii.gz")
            nodes = tuple(slicer.util.loadVolume(path) for path in (item.what["fixed"], warped))
            for node, title in zip(nodes, (_("{name} fixed"), _("{name} registered")), strict=True):
                node.SetName(slicer.mrmlScene.GenerateUniqueName(title.format(name=item.name)))
            self._opened[item.name] = nodes
        return nodes
