"""What is asked for, in words: why it can't be done, and what is told of it afterwards."""

from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from ..parameters import DEVICE_LABELS, Method, Start


def validate(p) -> str:
    """Why what `RegisterParameters` ask for can't be done, empty if it can."""
    if p is None or p.fixedVolume is None or p.movingVolume is None:
        return _("Choose a fixed and a moving volume")
    if p.fixedVolume is p.movingVolume:
        return _("Choose two different volumes")
    if p.fixedSegmentation is not None and p.movingSegmentation is None:
        return _("Choose a moving segmentation too, or no fixed one")
    if p.fixedSegmentation is not None and p.fixedSegmentation is p.movingSegmentation:
        return _("Choose two different segmentations")
    if (p.fixedLandmarks is None) != (p.movingLandmarks is None):
        return _("Choose landmarks for both volumes, or for none")
    if p.fixedLandmarks is not None and p.fixedLandmarks is p.movingLandmarks:
        return _("Choose two different lists of landmarks")
    if p.method is Method.trained and not p.modelFile:
        return _("Choose the file of a trained model")
    if p.start is Start.landmarks and p.initialTransform is None and p.fixedLandmarks is None:
        return _("Choose landmarks for both volumes to start from, or another start")
    try:
        p.settings()
    except InputError as error:
        return str(error)
    return ""


def asked(p) -> list[tuple[str, str]]:
    """What `RegisterParameters` ask for, as pairs of texts for the report."""
    told = [
        (_("Fixed"), p.fixedVolume.GetName()),
        (_("Moving"), p.movingVolume.GetName()),
        (_("Method"), p.method.label()),
        (_("Quality"), p.quality.label()),
        *((name, str(value)) for name, value in (p.settings() or {}).items()),
        (_("Start"), p.initialTransform.GetName() if p.initialTransform else p.start.label()),
        (_("Device"), p.device.label()),
        (_("Seed"), str(p.seed)),
    ]
    told += [(_("Left out"), ", ".join(p.left_out()))] if p.left_out() and p.movingSegmentation else []
    return told + ([(_("Model"), p.chosen())] if p.method is Method.trained else [])


def device_name(device: str) -> str:
    """What the panel calls a device of torch, such as "cuda"."""
    return DEVICE_LABELS.get(device, device)
