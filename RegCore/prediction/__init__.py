"""Prediction: `predict`, a trained network on the pairs of a data set, with DeepReg's files and tables."""

from RegCore.prediction.run import Predicted, predict

__all__ = ["Predicted", "predict"]
