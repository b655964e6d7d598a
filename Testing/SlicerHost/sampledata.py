"""Slicer's `SampleData` module for tests: records the data sets that modules register, downloads none.

As strict as the original, which makes lists of a text or of nothing only where `uris` is a text or a list.
"""

import slicer

LISTS = ("uris", "fileNames", "nodeNames", "loadFiles", "loadFileTypes", "checksums")


class SampleDataSource:
    """One data set; attributes as in Slicer."""

    def __init__(
        self,
        sampleName=None,
        sampleDescription=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFileProperties=None,
    ):
        self.sampleName, self.sampleDescription = sampleName, sampleDescription or sampleName
        self.uris, self.fileNames, self.nodeNames = uris, fileNames, nodeNames
        self.checksums, self.loadFiles, self.loadFileTypes = checksums, loadFiles, loadFileTypes
        self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName
        self.loadFileProperties = loadFileProperties or {}
        if isinstance(uris, str):
            for name in LISTS:
                setattr(self, name, [getattr(self, name)])
        elif isinstance(uris, list | tuple):
            for name in ("nodeNames", "loadFiles", "checksums"):
                if getattr(self, name) is None:
                    setattr(self, name, [None] * len(uris))
            if loadFileTypes is None or isinstance(loadFileTypes, str):
                self.loadFileTypes = [loadFileTypes] * len(uris)
        lengths = {name: len(getattr(self, name)) for name in LISTS}  # TypeError where there is no list
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all fields of a sample data source must have the same length: {lengths}")


class SampleDataLogic:
    """Sources are kept by category in `slicer.modules.sampleDataSources`, as in Slicer."""

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
        """Note a data set, once; TypeError or ValueError where Slicer raises them."""
        sources = SampleDataLogic.sampleDataSourcesByCategory().setdefault(category, [])
        source = SampleDataSource(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            checksums=checksums,
            loadFiles=loadFiles,
            customDownloader=customDownloader,
            thumbnailFileName=thumbnailFileName,
            loadFileTypes=loadFileTypes,
            loadFileProperties=loadFileProperties,
        )
        if not SampleDataLogic.isSampleDataSourceRegistered(category, source):
            sources.append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category=None):
        """All sources by category, or those of one."""
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        sources = slicer.modules.sampleDataSources
        return sources if category is None else sources.get(category, [])

    @staticmethod
    def isSampleDataSourceRegistered(category, sampleDataSource):
        """Whether one that says the same is there."""
        return any(
            vars(known) == vars(sampleDataSource)
            for known in SampleDataLogic.sampleDataSourcesByCategory(category)
        )
