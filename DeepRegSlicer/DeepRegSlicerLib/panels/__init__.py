"""The panels of the module, one file each."""
