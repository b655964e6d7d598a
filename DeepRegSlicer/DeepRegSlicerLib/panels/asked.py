"""What was asked for, in words."""

from slicer.i18n import tr as _

from ..parameters import DEVICE_LABELS, Method


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
