"""Training objectives: classification losses and knowledge distillation from a teacher."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "CrossEntropy": "base",
        "Focal": "base",
        "LogitAdjustment": "base",
        "Objective": "base",
        "DecoupledDistillation": "distillation",
        "FeatureDistillation": "distillation",
        "LogitDistillation": "distillation",
        "RelationDistillation": "distillation",
        "load_teacher": "teacher",
    },
)
