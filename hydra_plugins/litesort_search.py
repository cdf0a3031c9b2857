"""A Hydra sweeper for Optuna: one or several metrics (Optuna's objectives), conditional settings, resumable studies."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from litesort.cli.launch import describe_error
from litesort.io import write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial


SEARCH = "search.json"  # beside the leaderboard
MIN_RESULTS = 5  # smallest number of different results for which importances are computed


class StudySweeper(Sweeper):
    """Run the trials of an Optuna study as jobs, and report their values to the study.

    The number of a job is the number of its trial. A job returns one value per metric and per constraint. A job without
    values is a failed trial, and the study continues. The study is stored in `storage`; its trials and the importances
    of the settings are written to `search.json` beside the leaderboard. A resumed sweep first launches the trials that
    were running, with their settings. A trial with the settings of a finished or running trial does not run: the result
    of that trial is copied.

    Args:
        params: Setting -> search space in Hydra's grammar: `choice(a,b)`, `range(1,9,2)`, `interval(0.1,1)`,
            `tag(log,interval(1e-4,1e-2))`, `int(interval(4,32))`. `{when: {augment: [randaugment]}, space: ...}` is
            only sampled if earlier or fixed settings have these values. Spaces on the command line are added, or
            replace those here.
        metrics: Keys of metrics.json, in the order in which a job returns their values.
        direction: "maximize" or "minimize"; a list with one value per metric if there are several.
        n_trials: Number of finished trials, including those of earlier runs.
        n_jobs: Trials launched at once; more than one needs a launcher that runs jobs in parallel.
        sampler: Called with a seed, returns Optuna's sampler.
        seed: Seed of the sampler; a resumed study adds its number of trials, so that samples do not repeat.
        storage: URL of the database.
        study_name: Name of the study in the database.
        pruning: `{startup_trials, warmup_epochs}` of the callback that prunes trials; None: no pruning.
        constraints: Key of metrics.json -> its largest allowed value. Trials above it cannot be the best.

    Raises:
        HydraException: Metrics, directions, constraints or pruning do not match; or, before the first trial, the search
            space is invalid.
    """

    def __init__(
        self,
        params: DictConfig | dict[str, Any],
        metrics: Sequence[str],
        direction: str | Sequence[str],
        n_trials: int,
        n_jobs: int,
        sampler: Callable[..., Any],
        seed: int,
        storage: str,
        study_name: str,
        pruning: dict[str, int] | None = None,
        constraints: DictConfig | dict[str, float] | None = None,
    ) -> None:
        for key, value in {"n_trials": n_trials, "n_jobs": n_jobs}.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise HydraException(f"hydra.sweeper.{key}={value} is invalid: expected an integer of at least 1")
        self.params = dict(OmegaConf.to_container(OmegaConf.create(params), resolve=True))  # type: ignore[call-overload]
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        self.metrics, self.n_trials, self.n_jobs = list(metrics), n_trials, n_jobs
        self.sampler, self.seed, self.storage, self.study_name = sampler, seed, storage, study_name
        self.constraints = {str(key): value for key, value in (constraints or {}).items()}
        for key, bound in self.constraints.items():
            if not _finite(bound):
                raise HydraException(
                    f"hydra.sweeper.constraints.{key}={bound} is invalid: expected the largest allowed value, a number"
                )
        if len(self.directions) != len(self.metrics) or set(self.directions) - {"maximize", "minimize"}:
            raise HydraException("hydra.sweeper.direction: give maximize or minimize for each of hydra.sweeper.metrics")
        if pruning and self.directions != ["maximize"]:
            raise HydraException("hydra.sweeper.pruning needs one metric that is maximised: set it to null")

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
        self._check_sampler()
        fixed, space = self._space(arguments)
        self._check_space(fixed, space)
        study = optuna.create_study(
            storage=self.storage, study_name=self.study_name, directions=self.directions, load_if_exists=True
        )
        study.sampler = self.sampler(seed=self.seed + len(study.trials))
        self._run(
            study, fixed, [(t.number, t.user_attrs.get("overrides")) for t in _running(study) if not _is_repeated(t)]
        )
        while (remaining := self.n_trials - sum(trial.state.is_finished() for trial in study.trials)) > 0:
            jobs = [self._ask(study, space, fixed) for _ in range(min(remaining, self.n_jobs))]
            self._run(study, fixed, [job for job in jobs if job is not None])
        _print_best(study, self.metrics)
        return _best(study)

    def _check_sampler(self) -> None:
        """Raise HydraException if the sampler cannot draw: its settings have types that Optuna does not check."""
        import optuna

        study = optuna.create_study(directions=self.directions)
        study.add_trial(optuna.create_trial(values=[0.0] * len(self.directions)))
        try:
            study.sampler = self.sampler(seed=0)
            study.ask().suggest_float("x", 0, 1)
        except Exception as error:
            raise HydraException(f"hydra.sweeper.sampler cannot draw: {error}: correct its settings") from None

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

    def _check_space(self, fixed: list[str], space: dict[str, Any]) -> None:
        """Raise HydraException if a setting of the space cannot be sampled or composed."""
        for key, (override, when) in space.items():
            values = _examples(key, override, group=key in self._choices())
            self._check_condition(key, when, fixed, space)
            before = self._condition_met(key, fixed, space)
            for value in values if before is not None else ():
                self._compose(key, value, [*fixed, *dict.fromkeys(before or ())])

    def _check_condition(self, key: str, when: dict[str, Any], fixed: list[str], space: dict[str, Any]) -> None:
        keys = list(space)
        for name in when:
            if name in space and keys.index(name) >= keys.index(key):
                raise HydraException(f"hydra.sweeper.params: {key} depends on {name}: list {name} before it")
            known = name in space or name in self._choices() or name in _split(fixed)
            if not known and OmegaConf.select(self.config, name, default=...) is ...:
                raise HydraException(f"hydra.sweeper.params: {key} depends on {name}, which is not a setting")

    def _condition_met(self, key: str, fixed: list[str], space: dict[str, Any]) -> list[str] | None:
        """Return overrides with which a setting is sampled; None if no trial samples it."""
        overrides: list[str] = []
        for name, allowed in space[key][1].items():
            if name in space:
                above = self._condition_met(name, fixed, space)
                if above is None:
                    return None
                overrides += [*above, f"{name}={_listed(allowed)[0]}"]
            elif self._value(_split(fixed), name) not in _listed(allowed):
                return None
        return overrides

    def _compose(self, key: str, value: Any, before: list[str]) -> None:
        try:
            self.validate_batch_is_legal([[*before, f"{key}={value}"]])
        except Exception as error:
            line = f"hydra.sweeper.params: {key}={value} cannot be composed: {describe_error(error)}"
            raise HydraException(line) from None  # the line already contains the text of the cause

    def _ask(self, study: "Study", space: dict[str, Any], fixed: list[str]) -> tuple[int, list[str]] | None:
        """Return number and overrides of a new trial; None if it repeats another trial, or does not compose."""
        trial = study.ask()
        chosen = _split(fixed)
        for key, (override, when) in space.items():
            if all(self._value(chosen, name) in _listed(values) for name, values in when.items()):
                chosen[key] = str(suggest(trial, key, override))
        overrides = [f"{key}={value}" for key, value in chosen.items() if key in space]
        trial.set_user_attr("overrides", overrides)
        states = (_states().COMPLETE, _states().PRUNED, _states().RUNNING)
        others = (t for t in study.trials if t.state in states and t.number < trial.number and not _is_repeated(t))
        if (same := next((t for t in others if t.params == trial.params), None)) is not None:
            trial.set_user_attr("same_as", same.number)
            return None  # `_run` copies the result of the other trial when that trial has finished
        try:
            self.validate_batch_is_legal([[*fixed, *overrides]])
        except Exception as error:
            print(f"error: trial {trial.number} ({' '.join(overrides)}): {describe_error(error)}")
            study.tell(trial, state=_states().FAIL)
            return None
        return trial.number, overrides

    def _choices(self) -> dict[str, Any]:
        return dict(OmegaConf.select(self.config, "hydra.runtime.choices"))

    def _value(self, chosen: dict[str, str], key: str) -> str:
        group = self._choices().get(key)
        return str(chosen.get(key, group if group is not None else OmegaConf.select(self.config, key)))

    def _run(self, study: "Study", fixed: list[str], jobs: list[tuple[int, list[str] | None]]) -> None:
        for number, overrides in jobs:
            if overrides is None:  # killed before its job started
                study.tell(number, state=_states().FAIL)
        for numbers, batch in _consecutive([(number, o) for number, o in jobs if o is not None]):
            returned = self.launcher.launch([[*fixed, *o] for o in batch], initial_job_idx=numbers[0])
            for number, job in zip(numbers, returned, strict=True):
                values = job.return_value if isinstance(job.return_value, list) else [job.return_value]
                self._tell(study, number, values)
        for trial in filter(_is_repeated, _running(study)):
            same = study.trials[trial.user_attrs["same_as"]]
            for key, value in same.constraints.items():
                _trial(study, trial).set_constraint(key, value)
            stopped = same.state == _states().PRUNED  # its value belongs to the epoch where it was pruned
            state = same.state if same.state.is_finished() else _states().FAIL
            study.tell(trial.number, None if stopped else same.values, state=state)
        write_search(study, self.metrics, self.constraints, Path(str(self.config.hydra.sweep.dir)) / SEARCH)

    def _tell(self, study: "Study", number: int, values: list[Any]) -> None:
        """Report the values of a job to the study: one per metric, then one per constraint."""
        expected = len(self.metrics) + len(self.constraints)
        if len(values) != expected or not all(_finite(value) for value in values):
            pruned = "pruned" in study.trials[number].user_attrs
            study.tell(number, state=_states().PRUNED if pruned else _states().FAIL)
            self._check_keys(study, values)
            return
        trial = _trial(study, study.trials[number])
        for (key, bound), value in zip(self.constraints.items(), values[len(self.metrics) :], strict=True):
            trial.set_constraint(key, value - bound)  # the constraint is met if this is at most 0
        study.tell(number, values[: len(self.metrics)])

    def _check_keys(self, study: "Study", values: list[Any]) -> None:
        """End the search if a finished job has no number for a metric or a constraint, and no trial had all of them."""
        keys = [f"hydra.sweeper.metrics={metric}" for metric in self.metrics]
        keys += [f"hydra.sweeper.constraints.{key}={bound}" for key, bound in self.constraints.items()]
        if len(values) != len(keys) or any(trial.state == _states().COMPLETE for trial in study.trials):
            return
        for key, value in zip(keys, values, strict=True):
            if not isinstance(value, int | float):
                print(f"error: {key}: metrics.json has no such number: choose another of its keys", file=sys.stderr)
                sys.exit(2)


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
        values = sorted(int(value) for value in where.range())  # a range may be descending
        return trial.suggest_int(key, values[0], values[-1], step=abs(where.step))
    return trial.suggest_categorical(key, list(override.sweep_string_iterator()))


def write_search(study: "Study", metrics: Sequence[str], constraints: dict[str, float], path: Path) -> Path:
    """Write the trials of a study and the importances of its settings as JSON, for the leaderboard page.

    Returns:
        `path`. The file has these keys. `metrics` and `directions`. `constraints`: key -> largest allowed value.
        `importances`: metric -> setting -> share in reaching its best values, by PED-ANOVA. The shares of a metric add
        up to 1; with fewer than five different results there are none. `trials`: `number` (that of the job), `state`
        ("complete", "pruned", "fail", "running"), `params`, `values` (one per metric, or null), `feasible`, and
        `same_as`, the number of the trial whose result was copied, or null.
    """
    trials = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "params": trial.params,
            "values": trial.values if trial.state == _states().COMPLETE else None,
            "feasible": _feasible(trial),
            "same_as": trial.user_attrs.get("same_as"),
        }
        for trial in study.trials
    ]
    found = {
        "metrics": list(metrics),
        "directions": [direction.name.lower() for direction in study.directions],
        "constraints": constraints,
        "importances": {metric: _importances(study, place) for place, metric in enumerate(metrics)},
        "trials": trials,
    }
    return write_json(path, found)


def _importances(study: "Study", metric: int) -> dict[str, float]:
    """Return the share of each setting in reaching the best values of a metric, by PED-ANOVA."""
    import optuna

    done = [trial for trial in study.trials if trial.state == _states().COMPLETE]
    if len({tuple(trial.values) for trial in done}) < MIN_RESULTS:
        return {}
    # PED-ANOVA takes low values as the best.
    sign = -1.0 if study.directions[metric] == optuna.study.StudyDirection.MAXIMIZE else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study, target=lambda trial: sign * trial.values[metric])


def _examples(key: str, override: Override, group: bool) -> list[Any]:
    """Return values of a space: all options of a config group, otherwise one; HydraException if there are none."""
    import optuna

    where = override.value()
    try:
        if isinstance(where, Glob):
            raise ValueError("a glob has no values for a search: list them in choice(...)")
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        value = suggest(study.ask(), key, override)
    except (ValueError, TypeError, IndexError, NotImplementedError) as error:
        text = " ".join(str(error).split()) if not isinstance(error, IndexError) else "it holds no value"
        raise HydraException(f"hydra.sweeper.params: {override.input_line} cannot be searched: {text}") from None
    return list(override.sweep_string_iterator()) if group and override.is_choice_sweep() else [value]


def _running(study: "Study") -> "list[FrozenTrial]":
    return [trial for trial in study.trials if not trial.state.is_finished()]


def _is_repeated(trial: "FrozenTrial") -> bool:
    return "same_as" in trial.user_attrs


def _trial(study: "Study", trial: "FrozenTrial") -> "Trial":
    from optuna.trial import Trial

    return Trial(study, trial._trial_id)


def _feasible(trial: "FrozenTrial") -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _best(study: "Study") -> "list[FrozenTrial]":
    """Return the Pareto-optimal trials among those that meet all constraints; a repeated trial counts once."""
    done = [t for t in study.trials if t.state == _states().COMPLETE and _feasible(t)]
    return [trial for trial in study.best_trials if not _is_repeated(trial)] if done else []


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


def _split(overrides: list[str]) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in overrides)


def _listed(values: Any) -> list[str]:
    return [str(value) for value in (values if isinstance(values, list) else [values])]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _consecutive(jobs: list[tuple[int, list[str]]]) -> Iterator[tuple[list[int], list[list[str]]]]:
    """Group jobs by consecutive numbers, as launchers require."""
    group: list[tuple[int, list[str]]] = []
    for job in jobs:
        if group and job[0] != group[-1][0] + 1:
            yield [number for number, _ in group], [overrides for _, overrides in group]
            group = []
        group.append(job)
    if group:
        yield [number for number, _ in group], [overrides for _, overrides in group]


def _print_best(study: "Study", metrics: list[str]) -> None:
    """Print the best trials, or that no trial meets the constraints."""
    best = _best(study)
    if not best and any(trial.state == _states().COMPLETE for trial in study.trials):
        print("no trial meets hydra.sweeper.constraints")
    for trial in best:
        reached = ", ".join(f"{metric} {value:.4g}" for metric, value in zip(metrics, trial.values, strict=True))
        print(f"job {trial.number}: {reached} with {' '.join(trial.user_attrs['overrides'])}")
