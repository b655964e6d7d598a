"""Slices of images as pictures: panels on sheets, outlines, differences, grids and animations."""
