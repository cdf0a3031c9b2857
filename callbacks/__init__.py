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
        "GracefulStop": "graceful_stop",
        "History": "history",
        "OptunaPruning": "optuna_pruning",
        "progress_bar": "progress",
        "ProgressiveResizing": "progressive_resizing",
        "StructuredPruning": "pruning",
        "Reseed": "reseed",
        "CacheTeacher": "teacher_cache",
    },
)
