"""What exists for DeepReg's sake alone: checkpoints of TensorFlow, weights of Keras, older YAML."""
