"""The user's own prices, from which costs are reckoned: a small YAML file, named by TUNELINE_RATES.

```yaml
currency: EUR
machine_hour: 0.40           # an hour of a machine that stages run on
machines:                    # other machines, and what a stage has there
  - {host: gpu-1, hour: 2.10, cpus: 16, gpus: 1}
engine_hour:                 # an hour of an engine that serves
  llama.cpp: 0.40
  vllm: 2.50
thousand_tokens: 0.002       # what a tenant is charged
```
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from flows.configuration.validation import validate
from flows.configuration.yaml_text import read_yaml

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
HOUR = 3600.0


class MachineRate(BaseModel):
    """A machine, with what it has; without `cpus` or `gpus` no such seconds are counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1, description="its name, as `hostname` prints it")
    hour: Price | None = Field(default=None, description="price of an hour; default: `machine_hour`")
    cpus: int = Field(default=0, ge=0, description="cores that a stage has there")
    gpus: int = Field(default=0, ge=0, description="GPUs that a stage has there")


class Prices(BaseModel):
    """All prices, in one currency. What has no price costs nothing, and then no cost is reported of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field(default="EUR", pattern=r"^[A-Z]{3}$", description="three letters, as in ISO 4217")
    machine_hour: Price | None = Field(
        default=None, description="an hour of a machine that stages run on, where `machines` has no other"
    )
    machines: list[MachineRate] = Field(default_factory=list, description="machines with a rate of their own")
    engine_hour: dict[str, Price] = Field(
        default_factory=dict, description="`llama.cpp` or `vllm` → an hour of one that serves"
    )
    thousand_tokens: Price | None = Field(
        default=None, description="what a tenant is charged for a thousand tokens, of prompt and answer"
    )

    def of_seconds(self, seconds: Mapping[str, float]) -> float | None:
        """The price of seconds by host name; None where one of the hosts has no price."""
        total, machines = 0.0, {machine.host: machine for machine in self.machines}
        for host, spent in seconds.items():
            machine = machines.get(host)
            hour = self.machine_hour if machine is None or machine.hour is None else machine.hour
            if hour is None:
                return None
            total += hour * spent / HOUR
        return total


def read_rates(path: Path) -> Prices:
    """The rates in a YAML file. Raises `InvalidRecipe` with a line for each problem."""
    tree = read_yaml(path)
    return validate(Prices, {} if tree is None else tree, where=str(path))
