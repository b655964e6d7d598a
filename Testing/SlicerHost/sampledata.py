"""Slicer's `SampleData` module for tests: records the data sets that modules register, downloads none."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """One data set; the names are those of `SampleData.SampleDataSource`."""

    category: str
    sampleName: str
    uris: object = None
    fileNames: object = None
    nodeNames: object = None
    customDownloader: object = None
    thumbnailFileName: object = None
    loadFileTypes: object = None
    loadFiles: object = None
    loadFileProperties: dict = field(default_factory=dict)
    checksums: object = None


class SampleDataLogic:
    """`registered` and `categories` hold what modules registered since the host started or was reset."""

    registered = []
    categories = {}

    @staticmethod
    def registerCustomSampleDataCategory(category, title):
        """Note how a category is titled."""
        SampleDataLogic.categories[category] = title

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
    ):
        """Note a data set; ValueError where Slicer would find lists of different lengths."""
        lengths = {len(given) for given in (uris, fileNames, nodeNames) if isinstance(given, list)}
        if len(lengths) > 1:
            raise ValueError(f"{sampleName}: uris, fileNames and nodeNames differ in length")
        source = Source(
            category,
            sampleName,
            uris,
            fileNames,
            nodeNames,
            customDownloader,
            thumbnailFileName,
            loadFileTypes,
            loadFiles,
            loadFileProperties or {},
            checksums,
        )
        SampleDataLogic.registered.append(source)

    @staticmethod
    def clear():
        """Forget all."""
        SampleDataLogic.registered.clear()
        SampleDataLogic.categories.clear()
