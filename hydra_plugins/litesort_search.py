"""A Hydra sweeper over Optuna: one goal or several, conditional settings, studies that go on where they were."""

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
    """Ask an Optuna study for settings, launch them as jobs, and tell it what they reached.

    A job's number is its trial's. Its objective values are what the job returns, one a goal; a job that returns none
    is a failed trial, and the study goes on. A study lies in `storage`, so it goes on too when the sweep is resumed:
    trials that were running are launched first, with their settings, and no finished trial runs again.

    Args:
        params: Setting -> where to look, in Hydra's grammar: `choice(a,b)`, `range(1,9,2)`, `interval(0.1,1)`,
            `tag(log,interval(1e-4,1e-2))`, `int(interval(4,32))`; or `{when: {augment: [randaugment]}, space: ...}` for
            one that is only asked where settings above it, or fixed ones, have these values. The command line adds
            to it and wins.
        goals: Keys of metrics.json, what a job returns.
        direction: "maximize" or "minimize"; a list, one a goal, where there are several.
        n_trials: Finished trials that the study shall have, those of earlier runs included.
        n_jobs: Trials launched at once; for more than one a launcher is needed that runs several.
        sampler: Makes Optuna's sampler when called with a seed.
        seed: Of the sampler; one that goes on gets another, since it would repeat itself.
        storage: URL of the study's database.
        study_name: What the study is called in it.
        pruning: `{startup_trials, warmup_epochs}` for the callback that stops hopeless trials; None: it stops none.
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
            raise HydraException("hydra.sweeper.pruning watches one goal that is maximised: set it to null here")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run what the study lacks; returns its best trials."""
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
        """Fixed overrides, and where to look for the others: key -> (what is sampled, when)."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        said = {override.get_key_element(): override for override in parser.parse_overrides(arguments)}
        fixed = {key: o.get_value_element_as_str() for key, o in said.items() if not o.is_sweep_override()}
        space: dict[str, Any] = {}
        for key, where in self.params.items():
            text, when = (where["space"], where["when"]) if isinstance(where, dict) else (where, {})
            if key not in fixed and text is not None:
                space[key] = said.pop(key, None) or parser.parse_override(f"{key}={text}"), when
        space |= {key: (override, {}) for key, override in said.items() if override.is_sweep_override()}
        return [f"{key}={value}" for key, value in fixed.items()], space

    def _ask(self, study: "Study", space: dict[str, Any], fixed: list[str]) -> tuple[int, list[str]] | None:
        """A new trial's number and overrides; None for one whose values are known, or that no job can be made of."""
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
            stopped = same.state == _states().PRUNED  # its value is that of the epoch it was stopped at, no result
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
            if overrides is None:  # it was killed before it was a job
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
    """A value for a setting, drawn by the trial from what the override describes."""
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
    """Jobs in groups of consecutive numbers, which is what a launcher takes."""
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
    for trial in (trial for trial in best if "same_as" not in trial.user_attrs):  # a copy has no job
        reached = ", ".join(f"{goal} {value:.4g}" for goal, value in zip(goals, trial.values, strict=True))
        print(f"job {trial.number}: {reached} with {' '.join(trial.user_attrs['overrides'])}")
