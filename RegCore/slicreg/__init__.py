"""SLIC-Reg: registration by predicting which supervoxel of a template each voxel of a scan belongs to."""
