"""Private names of other packages that litesort uses. If an upgrade removes or changes one, its test fails.

Each entry names the file that uses it. If a test fails, change that file first, then the entry.
"""

import importlib
import inspect

import pytest

CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
# Dotted name, names of its parameters (None if litesort does not call it), file that uses it.
CALLABLES = [
    (f"{CHECKPOINT}._should_skip_saving_checkpoint", ["self", "trainer"], "callbacks/checkpoint.py"),
    (f"{CHECKPOINT}._monitor_candidates", ["self", "trainer"], "callbacks/checkpoint.py"),
    (f"{CHECKPOINT}._save_monitor_checkpoint", ["self", "trainer", "monitor_candidates"], "callbacks/checkpoint.py"),
    (f"{CHECKPOINT}._save_last_checkpoint", ["self", "trainer", "monitor_candidates"], "callbacks/checkpoint.py"),
    ("pytorch_lightning.tuner.lr_finder._LRCallback", None, "lightning_modules/classifier.py"),
    ("torch._foreach_lerp_", None, "callbacks/ema.py"),
    ("torch._foreach_copy_", None, "callbacks/ema.py"),
    ("torch.nn.modules.batchnorm._BatchNorm", None, "callbacks/finetuning.py"),
    ("torch.cpu._is_avx512_bf16_supported", [], "lightning_modules/precision.py"),
    ("torch.cpu._is_amx_tile_supported", [], "lightning_modules/precision.py"),
    ("omegaconf.DictConfig._get_node", ["self", "key"], "litesort/cli/compose.py"),
    ("omegaconf.Node._value", ["self"], "litesort/cli/compose.py"),
    (
        "hydra_plugins.hydra_joblib_launcher._core.execute_job",
        ["idx", "overrides", "hydra_context", "config", "task_function", "singleton_state"],
        "hydra_plugins/litesort_joblib.py",
    ),
]


def find(name: str):
    """Return the object of a dotted name, whose first parts are modules."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def fault(name: str, parameters: list[str] | None, file: str) -> str | None:
    """Return what has changed about a private name; None if nothing has."""
    try:
        found = find(name)
    except (AttributeError, ModuleNotFoundError):
        return f"{name} does not exist, but {file} uses it"
    if parameters is None:
        return None
    now = list(inspect.signature(found).parameters)
    # additional parameters at the end that have a default do not break a call
    added = [p for p in list(inspect.signature(found).parameters.values())[len(parameters) :] if p.default is p.empty]
    if now[: len(parameters)] != parameters or added:
        return f"{name} takes ({', '.join(now)}), but {file} calls it with ({', '.join(parameters)})"
    return None


@pytest.mark.parametrize(("name", "parameters", "file"), CALLABLES, ids=[name for name, _, _ in CALLABLES])
def test_private_name_exists_with_its_parameters(name, parameters, file):
    if name.startswith("hydra_plugins."):
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra of this launcher is not installed")
    assert fault(name, parameters, file) is None


def test_fault_names_what_was_removed_or_changed():
    assert fault("torch._no_such_thing", None, "a.py") == "torch._no_such_thing does not exist, but a.py uses it"
    assert fault("no_such_package.x", [], "a.py") == "no_such_package.x does not exist, but a.py uses it"
    assert "takes (self, trainer), but a.py calls it with (self)" in fault(
        f"{CHECKPOINT}._monitor_candidates", ["self"], "a.py"
    )


def test_weight_averaging_has_private_attributes():
    from pytorch_lightning.callbacks import WeightAveraging

    attributes = vars(WeightAveraging())
    for name in ("_average_model", "_latest_update_step"):
        assert name in attributes, f"WeightAveraging.{name} is missing: callbacks/ema.py and pruning.py use it"


def test_finders_have_private_attributes():
    from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder

    assert "_batch_arg_name" in vars(BatchSizeFinder()), "BatchSizeFinder._batch_arg_name is missing: finders.py"
    assert "_num_training_steps" in vars(LearningRateFinder()), (
        "LearningRateFinder._num_training_steps is missing: callbacks/finders.py"
    )


def test_wandb_logger_has_init_arguments(tmp_path):
    pytest.importorskip("wandb", reason="the wandb extra is not installed")
    from pytorch_lightning.loggers import WandbLogger

    arguments = getattr(WandbLogger(save_dir=tmp_path, offline=True), "_wandb_init", None)
    assert arguments is not None, "WandbLogger._wandb_init is missing: loggers/wandb.py uses it"
    assert {"anonymous", "id"} <= arguments.keys(), "loggers/wandb.py sets `id` and drops `anonymous`"


def test_modules_have_hooks_and_compiled_call():
    from torch import nn

    module = nn.Linear(1, 1)
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        assert hasattr(getattr(module, name, None), "clear"), (
            f"Module.{name} is missing: lightning_modules/pruning/structured.py"
        )
    assert getattr(module, "_compiled_call_impl", ...) is None, (
        "Module._compiled_call_impl is missing: lightning_modules/classifier.py reads it"
    )


def test_optuna_trial_has_an_id():
    optuna = pytest.importorskip("optuna", reason="the search extra is not installed")

    trial = optuna.trial.create_trial(value=0.0)
    assert hasattr(trial, "_trial_id"), "FrozenTrial._trial_id is missing: callbacks/optuna_pruning.py uses it"


def test_job_return_has_a_value():
    from hydra.core.utils import JobReturn

    assert hasattr(JobReturn(), "_return_value"), "JobReturn._return_value is missing: litesort/cli/sweep_callback.py"


def test_process_pool_has_processes():
    executor = pytest.importorskip("joblib.externals.loky.process_executor", reason="joblib is not installed")

    pool = executor.ProcessPoolExecutor(1)
    assert hasattr(pool, "_processes"), "ProcessPoolExecutor._processes is missing: hydra_plugins/litesort_joblib.py"
    pool.shutdown()


def test_mkldnn_reports_bf16_support():
    import torch

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    found = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    assert callable(found), "torch.ops.mkldnn._is_mkldnn_bf16_supported is missing: lightning_modules/precision.py"
    assert isinstance(found(), bool)
