"""The form of the Train panel: what it offers, which rows are seen, which configuration it stands for."""

from pathlib import Path

from slicer.i18n import tr as _

from RegCore.training.memory import needed_mib
from RegCore.training.presets import LEARNING_RATES, TrainingPreset, inspect_dataset

from ..parameters import Device
from .fields import Fields

FIELDS = {  # widgets of the form -> the field of `TrainingPreset` that they fill
    "trainPath": "train",
    "validPath": "valid",
    "kindSelector": "kind",
    "labelsCheckBox": "labeled",
    "networkSelector": "network",
    "outputSelector": "method",
    "epochsSpinBox": "epochs",
    "rateSpinBox": "learning_rate",
    "similaritySelector": "similarity",
    "imageWeightSpinBox": "image_weight",
    "labelWeightSpinBox": "label_weight",
    "smoothnessWeightSpinBox": "smoothness_weight",
    "channelsSpinBox": "channels",
    "batchSpinBox": "batch_size",
    "augmentCheckBox": "augment",
}
SIZES = ("sizeISpinBox", "sizeJSpinBox", "sizeKSpinBox")
OTHERS = (
    "settingsSelector",
    "yamlPath",
    "startPath",
    "maxEpochsSpinBox",
    "trainDeviceSelector",
    "staysCheckBox",
    "resultsPath",
    "nameEdit",
    "templatePath",
    "scansPath",
    "watchPath",
    "modalitySelector",
    "smallCheckBox",
    "stepsSpinBox",
)
FINE = 0.25  # of the learning rate, for a network that has learned already
FORM, YAML, SLICREG = "form", "yaml", "slicreg"


def choices() -> dict[str, dict[str, str]]:
    """What the combo boxes offer: data of an item -> what it shows."""
    return {
        "settingsSelector": {
            FORM: _("This form"),
            YAML: _("A YAML file"),
            SLICREG: _("SLIC-Reg: a template and scans"),
        },
        "kindSelector": {
            "paired": _("Pairs of fixed and moving"),
            "unpaired": _("Unpaired: any with any other"),
            "grouped": _("Grouped: images of one patient"),
        },
        "networkSelector": {
            "unet": _("U-Net"),
            "local": _("LocalNet"),
            "keypoints": _("Keypoints: an affine map"),
            "global": _("GlobalNet: an affine map"),
        },
        "outputSelector": {
            "ddf": _("A displacement field (DDF)"),
            "dvf": _("A velocity field (DVF)"),
            "conditional": _("Labels alone (conditional)"),
        },
        "similaritySelector": {
            "lncc": _("Local correlation"),
            "ssd": _("Mean squares"),
            "gmi": _("Mutual information"),
        },
        "modalitySelector": {"ct": _("CT"), "mr": _("MR or other")},
        "trainDeviceSelector": {device.value: device.label() for device in Device},
    }


NAMES = [*FIELDS, *SIZES, *OTHERS]
ROWS = {  # of the section Data and of More -> the kind of settings that they belong to
    "trainPath": FORM,
    "validPath": FORM,
    "kindSelector": FORM,
    "labelsCheckBox": FORM,
    "channelsSpinBox": FORM,
    "batchSpinBox": FORM,
    "augmentCheckBox": FORM,
    "yamlPath": YAML,
}


class TrainingForm:
    """What the widgets of Train.ui say about a training."""

    def __init__(self, ui, fields: Fields):
        """ui: the widgets by name. fields: their values, of all `NAMES`."""
        self.ui, self.fields = ui, fields

    @property
    def source(self) -> str:
        """Where the settings come from: FORM, YAML or SLICREG."""
        return self.fields["settingsSelector"]

    def show_rows(self) -> None:
        """Show the rows that belong to where the settings come from, and how much memory they need."""
        ui, source = self.ui, self.source
        ui.networkSection.visible = source == FORM
        ui.slicregSection.visible = source == SLICREG
        for name, belongs in ROWS.items():
            getattr(ui, name).visible = getattr(ui, f"{name}Label").visible = source == belongs
        ui.foundLabel.visible = source == FORM and bool(ui.foundLabel.text)
        ui.addPairButton.visible = source == FORM
        ui.memoryLabel.text = _("About {size:.1f} GB").format(size=self.memory_gb())

    def memory_gb(self) -> float:
        """What the training needs, see `needed_mib`."""
        preset = self.preset()
        size, channels, batch = preset.size, preset.channels, preset.batch_size
        return needed_mib(size, channels, batch, network=preset.network) / 1024

    def validate(self) -> str:
        """Why a training can't begin with this, empty if it can."""
        fields, source = self.fields, self.source
        if source == YAML:
            problem = "" if fields["yamlPath"] else _("Choose a YAML file")
        else:
            problem = self._validate_form() if source == FORM else self._validate_slicreg()
        if problem:
            return problem
        return "" if fields["resultsPath"] else _("Choose a folder for the results")

    def _validate_form(self) -> str:
        fields = self.fields
        if not fields["trainPath"]:
            return _("Choose a folder of training data")
        if any(fields[n] and inspect_dataset(Path(fields[n])) is None for n in ("trainPath", "validPath")):
            return _("Choose folders that hold images, or fixed_images and moving_images")
        if fields["outputSelector"] == "conditional" and not fields["labelsCheckBox"]:
            return _("Only a training with labels can predict labels alone")
        return ""

    def _validate_slicreg(self) -> str:
        if not Path(self.fields["templatePath"]).is_file():
            return _("Choose the file of a template")
        if not Path(self.fields["scansPath"]).is_dir() or not self.fields["scansPath"]:
            return _("Choose a folder of scans")
        return ""

    def preset(self) -> TrainingPreset:
        """The options in the form."""
        options = {field: self.fields[widget] for widget, field in FIELDS.items()}
        return TrainingPreset(**options, size=tuple(self.fields[widget] for widget in SIZES))

    def can_be(self, card: dict) -> bool:
        """Whether the form can stand for a model with this card, see `RegCore.cli.tasks.model_command`."""
        known = choices()
        sizes = card["fixed_size"] == card["moving_size"] and len(card["fixed_size"]) == 3
        named = card["network"] in known["networkSelector"] and card["method"] in known["outputSelector"]
        return sizes and named and card["channels"] > 0

    def start_from(self, path: Path, card: dict) -> None:
        """Set the form to a training that begins with a model: the same network, and smaller steps."""
        fields = self.fields
        fields["settingsSelector"] = FORM
        fields["startPath"] = str(path)
        fields["networkSelector"], fields["outputSelector"] = card["network"], card["method"]
        for widget, voxels in zip(SIZES, card["fixed_size"], strict=True):
            fields[widget] = voxels
        fields["channelsSpinBox"] = card["channels"]
        fields["rateSpinBox"] = FINE * LEARNING_RATES[card["network"]]
        self.ui.moreSection.collapsed = False

    def config(self, folder: Path):
        """What `..training.train` is to train with, in a folder: the path of a YAML file, or plain values."""
        fields = self.fields
        if self.source == YAML:
            return fields["yamlPath"]
        if self.source == FORM:
            return self.preset().configuration()
        names = {"template": "templatePath", "scans": "scansPath", "valid": "watchPath"}
        asked = {name: fields[widget] for name, widget in names.items()}
        asked |= {"modality": fields["modalitySelector"], "small": fields["smallCheckBox"]}
        return {"slicreg": {**asked, "steps": fields["stepsSpinBox"], "folder": str(self.prepared(folder))}}

    def prepared(self, folder: Path) -> Path:
        """Where the scans for a training of SLIC-Reg in a folder are prepared: for all with this template."""
        name = Path(self.fields["templatePath"]).name.split(".")[0]
        return folder.with_name(f"{name}-{self.fields['modalitySelector']}-prepared")
