"""Registration without training: affine, deformable, and DeepReg's classical methods."""
