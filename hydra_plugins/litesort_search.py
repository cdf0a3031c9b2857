"""A Hydra sweeper for Optuna: one or several goals, conditional settings, resumable studies."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial


class StudySweeper(Sweeper):
    """Run the trials of an Optuna study as jobs, and report their values to the study.

    The number of a job is the number of its trial. A job returns one value a goal; a job without values is a failed
    trial, and the study continues. The study is stored in `storage`. A resumed sweep first launches the trials that
    were running, with their settings; finished trials do not run again.

    Args:
        params: Setting -> search space in Hydra's grammar: `choice(a,b)`, `range(1,9,2)`, `interval(0.1,1)`,
            `tag(log,interval(1e-4,1e-2))`, `int(interval(4,32))`. `{when: {augment: [randaugment]}, space: ...}` is
            only sampled if earlier or fixed settings have these values. The command line adds settings and wins.
        goals: Keys of metrics.json, in the order that a job returns them.
        direction: "maximize" or "minimize"; a list with one value a goal if there are several.
        n_trials: Number of finished trials, including those of earlier runs.
        n_jobs: Trials launched at once; more than one needs a launcher that runs jobs in parallel.
        sampler: Called with a seed, returns Optuna's sampler.
        seed: Seed of the sampler; a resumed study adds its number of trials, so that samples do not repeat.
        storage: URL of the database.
        study_name: Name of the study in the database.
        pruning: `{startup_trials, warmup_epochs}` of the callback that prunes trials; None: no pruning.
    """

    def __init__(
        self,
        params: DictConfig | dict[str, Any],
        goals: Sequence[str],
        direction: str | Sequence[str],
        n_trials: int,
        n_jobs: int,
        sampler: Callable[..., Any],
        seed: int,
        storage: str,
        study_name: str,
        pruning: dict[str, int] | None = None,
    ) -> None:
        self.params = dict(OmegaConf.to_container(OmegaConf.create(params), resolve=True))  # type: ignore[call-overload]
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        self.goals, self.n_trials, self.n_jobs = list(goals), n_trials, n_jobs
        self.sampler, self.seed, self.storage, self.study_name = sampler, seed, storage, study_name
        if len(self.directions) != len(self.goals) or set(self.directions) - {"maximize", "minimize"}:
            raise HydraException("hydra.sweeper.direction: give maximize or minimize for each of hydra.sweeper.goals")
        if pruning and self.directions != ["maximize"]:
            raise HydraException("hydra.sweeper.pruning needs one goal that is maximised: set it to null")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the missing trials of the study; returns the best trials."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        fixed, space = self._space(arguments)
        study = optuna.create_study(
            storage=self.storage, study_name=self.study_name, directions=self.directions, load_if_exists=True
        )
        study.sampler = self.sampler(seed=self.seed + len(study.trials))
        self._run(study, fixed, [(trial.number, trial.user_attrs.get("overrides")) for trial in _running(study)])
        while (left := self.n_trials - sum(trial.state.is_finished() for trial in study.trials)) > 0:
            asked = [self._ask(study, space, fixed) for _ in range(min(left, self.n_jobs))]
            self._run(study, fixed, [job for job in asked if job is not None])
        _tell_best(study, self.goals)
        return study.best_trials

    def _space(self, arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
        """Return the fixed overrides, and the search space: key -> (override to sample, condition)."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = {override.get_key_element(): override for override in parser.parse_overrides(arguments)}
        fixed = {key: o.get_value_element_as_str() for key, o in given.items() if not o.is_sweep_override()}
        space: dict[str, Any] = {}
        for key, where in self.params.items():
            text, when = (where["space"], where["when"]) if isinstance(where, dict) else (where, {})
            if key not in fixed and text is not None:
                space[key] = given.pop(key, None) or parser.parse_override(f"{key}={text}"), when
        space |= {key: (override, {}) for key, override in given.items() if override.is_sweep_override()}
        return [f"{key}={value}" for key, value in fixed.items()], space

    def _ask(self, study: "Study", space: dict[str, Any], fixed: list[str]) -> tuple[int, list[str]] | None:
        """Return number and overrides of a new trial; None if its values are known, or it does not compose."""
        trial, finished = study.ask(), (_states().COMPLETE, _states().PRUNED)
        chosen = dict(item.partition("=")[::2] for item in fixed)
        for key, (override, when) in space.items():
            if all(self._value(chosen, name) in _listed(values) for name, values in when.items()):
                chosen[key] = str(suggest(trial, key, override))
        overrides = [f"{key}={value}" for key, value in chosen.items() if key in space]
        trial.set_user_attr("overrides", overrides)
        same = next((t for t in study.trials if t.state in finished and t.params == trial.params), None)
        if same is not None:
            trial.set_user_attr("same_as", same.number)
            stopped = same.state == _states().PRUNED  # its value belongs to the epoch where it was pruned
            study.tell(trial, None if stopped else same.values, state=same.state)
            return None
        try:
            self.validate_batch_is_legal([[*fixed, *overrides]])
        except Exception as error:
            print(f"error: trial {trial.number} ({' '.join(overrides)}): {' '.join(str(error).split())}")
            study.tell(trial, state=_states().FAIL)
            return None
        return trial.number, overrides

    def _value(self, chosen: dict[str, str], key: str) -> str:
        group = OmegaConf.select(self.config, "hydra.runtime.choices").get(key)
        return str(chosen.get(key, group if group is not None else OmegaConf.select(self.config, key)))

    def _run(self, study: "Study", fixed: list[str], jobs: list[tuple[int, list[str] | None]]) -> None:
        for number, overrides in jobs:
            if overrides is None:  # killed before its job started
                study.tell(number, state=_states().FAIL)
        for numbers, batch in _neighbours([(number, o) for number, o in jobs if o is not None]):
            returned = self.launcher.launch([[*fixed, *o] for o in batch], initial_job_idx=numbers[0])
            for number, job in zip(numbers, returned, strict=True):
                values = job.return_value if isinstance(job.return_value, list) else [job.return_value]
                if len(values) == len(self.goals) and all(_finite(value) for value in values):
                    study.tell(number, values)
                else:
                    pruned = "pruned" in study.trials[number].user_attrs
                    study.tell(number, state=_states().PRUNED if pruned else _states().FAIL)


def suggest(trial: "Trial", key: str, override: Override) -> Any:
    """Sample a value of a setting from the space of its override."""
    where = override.value()
    log = "log" in getattr(where, "tags", ())
    if isinstance(where, IntervalSweep):
        assert where.start is not None
        assert where.end is not None
        whole = isinstance(where.start, int) and isinstance(where.end, int)
        return (trial.suggest_int if whole else trial.suggest_float)(key, where.start, where.end, log=log)
    if isinstance(where, RangeSweep) and isinstance(where.start, int) and isinstance(where.step, int):
        values = list(where.range())
        return trial.suggest_int(key, int(values[0]), int(values[-1]), step=where.step)
    return trial.suggest_categorical(key, list(override.sweep_string_iterator()))


def _running(study: "Study") -> "list[FrozenTrial]":
    return [trial for trial in study.trials if not trial.state.is_finished()]


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


def _listed(values: Any) -> list[str]:
    return [str(value) for value in (values if isinstance(values, list) else [values])]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _neighbours(jobs: list[tuple[int, list[str]]]) -> Iterator[tuple[list[int], list[list[str]]]]:
    """Group jobs by consecutive numbers, as launchers require."""
    group: list[tuple[int, list[str]]] = []
    for job in jobs:
        if group and job[0] != group[-1][0] + 1:
            yield [number for number, _ in group], [overrides for _, overrides in group]
            group = []
        group.append(job)
    if group:
        yield [number for number, _ in group], [overrides for _, overrides in group]


def _tell_best(study: "Study", goals: list[str]) -> None:
    best = study.best_trials if any(trial.values for trial in study.trials) else []
    for trial in (trial for trial in best if "same_as" not in trial.user_attrs):  # a repeated trial has no job
        reached = ", ".join(f"{goal} {value:.4g}" for goal, value in zip(goals, trial.values, strict=True))
        print(f"job {trial.number}: {reached} with {' '.join(trial.user_attrs['overrides'])}")
