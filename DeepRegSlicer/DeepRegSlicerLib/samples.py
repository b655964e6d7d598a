"""The synthetic phantom in Slicer's module Sample Data."""


def register_sample_data():
    """Offer the synthetic phantom in the module Sample Data; it is computed, not downloaded."""
    from SampleData import SampleDataLogic

    SampleDataLogic.registerCustomSampleDataSource(
        category="DeepRegSlicer",
        sampleName="DeepRegPhantom",
        uris=[],  # Slicer takes the length of each list, although nothing is downloaded
        fileNames=[],
        nodeNames=[],
        loadFiles=[],
        loadFileTypes=[],
        checksums=[],
        customDownloader=load_phantom,
    )


def load_phantom(source=None):
    """Put the synthetic phantom into the scene; returns its two volumes."""
    from .nodes.phantom import add_phantom

    made = add_phantom()
    return [made.fixed, made.moving]
