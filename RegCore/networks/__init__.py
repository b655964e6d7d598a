"""Networks, the models made of them, and model files: what is trained and what predicts."""

from RegCore.networks.architectures import NETWORKS, GlobalNet, KeypointNet, LocalNet, UNet

__all__ = ["NETWORKS", "GlobalNet", "KeypointNet", "LocalNet", "UNet"]
