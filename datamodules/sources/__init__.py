"""Sources of labelled images, one module for each kind."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Sample": "base",
        "Source": "base",
        "CocoSource": "coco",
        "FileListSource": "filelist",
        "FolderSource": "folder",
        "HfSource": "hf",
        "SyntheticSource": "synthetic.source",
        "TacoSource": "taco",
        "TrashnetSource": "trashnet",
        "WebDatasetSource": "webdataset",
    },
)
