"""Where images and labels come from, one file a kind of source."""

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
