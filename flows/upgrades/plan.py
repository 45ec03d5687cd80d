"""What an upgrade does with each channel: decided by what is known before anything starts."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from flows.errors import Usage
from flows.gates.ancestry import Ancestry, ancestry
from flows.gates.policy import GatePolicy
from flows.held_out import previous_dataset
from flows.metrics.rates import Prices
from flows.planning.clock import Clock, clock_here
from flows.planning.estimate import StageEstimate, describe_base, estimate
from flows.planning.machine import machine
from flows.recipe import Recipe
from flows.run.arithmetic import settle
from flows.run.feed_input import at_watermark, rows_file
from flows.run.find_or_make import stage_inputs
from flows.run.fingerprint import pin
from flows.settings import Settings
from flows.training import named_start
from flows.unmerged import rank_for_vllm
from flows.upgrades.forms import STORED, Form, beside_adapters, in_form, is_apart, served_as
from flows.upgrades.origin import Origins
from registry import Artifact, Registry
from registry.errors import Incompatible
from stages.config.base import BaseConfig
from stages.contract import StageConfig
from stages.model_shape import ModelShape

Does = Literal["keep", "replay", "merge-only", "nothing", "refused"]
BEGUN: tuple[Does, ...] = ("keep", "replay", "merge-only")
SHARED = ("resolve base", "quantize base")
"""How the steps begin that all channels of one base share."""


@dataclass(frozen=True)
class Step:
    """What is to be done with a channel, and why. `seconds`: of computing; None where it cannot be known."""

    channel: str
    does: Does
    why: str
    recipe: Recipe | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class UpgradePlan:
    """The steps, in the order of the channels. `shared`: seconds of what is done once for all."""

    to: str
    steps: tuple[Step, ...]
    shared: float
    rates: Prices | None = None

    @property
    def begun(self) -> list[Step]:
        """The channels that something is done with."""
        return [step for step in self.steps if step.does in BEGUN]

    @property
    def seconds(self) -> float | None:
        """Of all of them; None where one of them cannot be known."""
        times = [step.seconds for step in self.begun]
        return (
            None
            if None in times
            else self.shared + sum(duration for duration in times if duration is not None)
        )

    def cost(self, seconds: float | None) -> float | None:
        """By the user's rates, None without a price."""
        if self.rates is None or seconds is None:
            return None
        return self.rates.of_seconds({socket.gethostname(): seconds})


@dataclass
class Planner:
    """Decides for one channel after the other. `base`: the new one's source, None for the channel's own;
    `form`: what the channel is to get, with `reformed`; `busy`: channel → the upgrade that has it already."""

    registry: Registry
    settings: Settings
    base: BaseConfig | None
    form: Form
    reformed: bool
    busy: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.origins = Origins(self.registry)
        self.pinned = None if self.base is None else pin(self.base.source, "model")
        self._machine = machine(self.settings.root)
        self._shapes: dict[str, tuple[ModelShape, Clock]] = {}
        self._shared: dict[str, float] = {}

    def plan(self, channels: Sequence[str], rates: Prices | None) -> UpgradePlan:
        """All channels' steps, and what they take. Raises what reading a base or a feed raises."""
        steps = tuple(self._step(name) for name in channels)
        form = None if not self.reformed else STORED if self.form is None else self.form.label
        to = ", ".join(word for word in (self.base and self.base.source, form) if word)
        return UpgradePlan(to, steps, sum(self._shared.values()), rates)

    def _step(self, name: str) -> Step:
        channel = self.registry.channels.get(name)
        if channel is None:
            return Step(name, "nothing", "it serves nothing yet")
        if name in self.busy:
            return Step(name, "refused", f"{self.busy[name]} includes it and has not ended")
        rollout = self.registry.rollouts.current(name)
        if rollout is not None and rollout.canary_percent:
            why = f"the canary of {rollout.candidate[:12]} is under way: let it be decided, or stop it"
            return Step(name, "refused", why)
        live = self.registry.get(channel.artifact_id)
        family = ancestry(self.registry, live)
        made_by = self.origins.of(name, family)
        if isinstance(made_by, str):
            return Step(name, "refused", made_by)
        policy = self.registry.channels.policy(name)
        if policy is None or not any(rule["against"] == "live" for rule in policy.policy.get("tasks", ())):
            why = (
                "its policy compares nothing with what is live, so that no gate could tell whether the "
                "upgrade is worse: add a rule `against: live` (tuneline channels policy)"
            )
            return Step(name, "refused", why)
        gate = GatePolicy.model_validate(policy.policy)
        return self._decided(name, made_by.model_copy(update={"gate": gate}), family)

    def _decided(self, name: str, made_by: Recipe, family: Ancestry) -> Step:
        assert family.base is not None
        assert family.adapter is not None
        same_base = self.pinned in (None, family.base.manifest.config.get("source"))
        recipe, why = made_by, "the same base"
        if not same_base:
            recipe = made_by.model_copy(update={"base": self.base})
        apart = is_apart(made_by)
        merged = apart and self.reformed and self._unloadable(family, same_base)
        if self.reformed:
            recipe = in_form(recipe, self.form, apart=apart and not merged)
        if same_base and served_as(recipe) == served_as(made_by):
            return Step(name, "nothing", "it is on it already")
        known = self._known(recipe)
        trained = known.get("train")
        if not same_base:
            does, why = "replay", "another base: trained again on the same data"
        elif trained is None or trained.id != family.adapter.id:
            does, why = "replay", "the tools or its base have changed: trained again"
        elif merged:
            does, why = "merge-only", "the same base"
        else:
            does, why = "keep", "the same base, and the same adapter"
        if merged:
            why += f"; merged, since {merged}"
        return Step(name, does, why, recipe, self._seconds(recipe, known))  # type: ignore[arg-type]

    def _unloadable(self, family: Ancestry, same_base: bool) -> str:
        """Why no engine loads the adapter over the form that is asked for; empty where one does."""
        if not beside_adapters(self.form):
            return "no engine here loads adapters over that form"
        if self.form is None and same_base and family.base is not None and family.adapter is not None:
            try:
                rank_for_vllm(family.base.manifest, family.adapter.manifest)
            except Incompatible as error:
                return str(error)
        return ""

    def _known(self, recipe: Recipe) -> dict[str, Artifact]:
        """Stage → its result, of what need not be done again."""
        known: dict[str, Artifact] = {}
        recipe = at_watermark(recipe, self.registry)
        settled, _ = settle(recipe, self._shape(recipe)[0], self.settings)

        def find(stage: str, config: StageConfig, **parents: Artifact | None) -> None:
            there = {role: parent for role, parent in parents.items() if parent is not None}
            if len(there) == len(parents):
                artifact = self.registry.find(stage_inputs(stage, config, there).key)
                if artifact is not None:
                    known[stage] = artifact

        find("resolve", settled.base)
        base = known.get("resolve")
        find("prepare", settled.prepare, base=base, **previous_dataset(self.registry, settled))
        start = named_start(self.registry, settled.train)
        for training in settled.train.trainings:
            further = {"adapter": start} if training.goes_on else {}
            known.pop("train", None)
            find("train", training, base=base, dataset=known.get("prepare"), **further)
            start = known.get("train")
        find("merge", settled.merge.candidates[0], base=base, adapter=known.get("train"))
        return known

    def _shape(self, recipe: Recipe) -> tuple[ModelShape, Clock]:
        source = recipe.base.source
        if source not in self._shapes:
            shape = describe_base(source)
            self._shapes[source] = shape, clock_here(shape, self.settings)
        return self._shapes[source]

    def _seconds(self, recipe: Recipe, known: dict[str, Artifact]) -> float | None:
        """Of what is to be done for this channel alone; what is shared is counted once."""
        shape, clock = self._shape(recipe)
        with rows_file(self.registry, recipe.prepare) as feed:
            rows = estimate(recipe, shape, self._machine, clock, feed)
        done = {
            "prepare data": "prepare",
            "train adapter": "train",
            "train on preferences": "train",
            "merge": "merge",
            "resolve base": "resolve",
        }
        times: list[float | None] = []
        for row in rows:
            if done.get(row.stage) in known:
                continue
            if row.stage.startswith(SHARED):
                self._shared[f"{recipe.base.source} {row.stage}"] = row.seconds or 0.0
            else:
                times.append(_evaluating(row, recipe, known) if row.stage == "evaluate" else row.seconds)
        return None if None in times else sum(duration for duration in times if duration is not None)


def _evaluating(row: StageEstimate, recipe: Recipe, known: dict[str, Artifact]) -> float | None:
    """The estimate is of all forms of a run. What is live comes to these; of what is kept, most is known."""
    if row.seconds is None:
        return None
    forms = 3 + len(recipe.quantize) + (recipe.adapter is not None)
    measured = 2 if "train" in known else forms + 1
    return row.seconds * measured / forms


def chosen(registry: Registry, channels: Iterable[str], tenants: str | None) -> list[str]:
    """The channels that are meant, by name: given by name or pattern, or those of tenants so called.

    Raises `Usage` where there is none.
    """
    known = {channel.name for channel in registry.channels.ls()}
    meant: set[str] = set()
    for pattern in channels:
        fitting = {name for name in known if fnmatchcase(name, pattern)}
        if not fitting:
            raise Usage(f"no channel {pattern[:140]!r}; `tuneline channels` lists them")
        meant |= fitting
    if tenants is not None:
        named = [tenant for tenant in registry.tenants.ls() if fnmatchcase(tenant.name, tenants)]
        if not named:
            raise Usage(f"no tenant is called {tenants[:140]!r}; `tuneline tenants` lists them")
        meant |= {tenant.channel for tenant in named}
    if not meant:
        raise Usage("give channels, as TEAM/NAME or a pattern such as 'support/*', or --tenants PATTERN")
    return sorted(meant)
