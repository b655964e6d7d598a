"""Copies of the results of a study under BIDS names, as a derivative data set."""

import json
import os
import re
import shutil
from pathlib import Path

import RegCore
from RegCore.io.files import atomic_write
from RegCore.studies.rows import Row

DESCRIPTION = "dataset_description.json"
IGNORED = ("pairs/", "results.csv", "report.html")


def describe_dataset(out: Path) -> None:
    """Write what makes a folder a BIDS derivative; what is there stays."""
    about = {
        "Name": "Registrations",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "DeepRegSlicer", "Version": RegCore.__version__}],
    }
    for name, text in ((DESCRIPTION, json.dumps(about, indent=2)), (".bidsignore", "\n".join(IGNORED))):
        if not (out / name).exists():
            with atomic_write(out / name) as side:
                side.write_text(text + "\n", encoding="utf-8")


def bids_names(row: Row) -> dict[str, str]:
    """Where BIDS has the files of a pair: path in the data set by the name of the file.

    The spaces are named after the suffix of the moving image and the name of the fixed file. As in BIDS,
    ``from-A_to-B`` names the transform that resamples images of A onto B.
    """
    stem, _, suffix = row.place.rpartition("_")
    space = _label(Path(str(row.files["fixed"])).name.partition(".")[0])
    there, back = (f"{stem}_from-{a}_to-{b}_mode-image_xfm.h5" for a, b in ((suffix, space), (space, suffix)))
    return {
        "transform.h5": there,
        "inverse.h5": back,
        "warped.nii.gz": f"{stem}_space-{space}_{suffix}.nii.gz",
        "warped_seg.nii.gz": f"{stem}_space-{space}_dseg.nii.gz",
        "overview.png": f"{stem}_space-{space}_desc-overview_{suffix}.png",
        "metrics.json": f"{stem}_space-{space}_desc-figures_{suffix}.json",
    }


def _label(name: str) -> str:
    """A name as BIDS wants labels: letters and digits only."""
    return re.sub(r"[^0-9a-zA-Z]", "", name) or "fixed"


def put_in_place(row: Row, folder: Path, out: Path) -> None:
    """Give the files of a pair their BIDS names as well, by links where the file system has them.

    Args:
        row: without a `place` it gets no such names.
        folder: of the pair.
        out: of the data set.
    """
    if not row.place:
        return
    describe_dataset(out)
    for name, place in bids_names(row).items():
        target = out / place
        if not (folder / name).exists():
            target.unlink(missing_ok=True)
            continue
        if target.exists() and os.path.samefile(folder / name, target):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as side:
            try:
                os.link(folder / name, side)
            except OSError:
                shutil.copyfile(folder / name, side)
