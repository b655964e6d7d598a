"""Where things are: voxel grids, volumes and transforms in RAS mm; numpy only."""
