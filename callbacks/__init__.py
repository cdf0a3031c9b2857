"""Lightning callbacks."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "RunCheckpoint": "checkpoint",
        "EarlyStopping": "early_stopping",
        "EMA": "ema",
        "FindBatchSize": "finders",
        "FindLearningRate": "finders",
        "Finetuning": "finetuning",
        "StopAfterEpoch": "graceful_stop",
        "History": "history",
        "TrialReport": "optuna_pruning",
        "progress_bar": "progress",
        "ProgressiveResizing": "progressive_resizing",
        "StructuredPruning": "pruning",
        "Reseed": "reseed",
        "CacheTeacher": "teacher_cache",
    },
)
